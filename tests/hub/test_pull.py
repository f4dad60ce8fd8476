"""Fetching a repository: what comes along, what does not, into which folder, and what is said of it."""

import json

import pytest
from huggingface_hub import HfApi

from empathy_trl.errors import UserError
from empathy_trl.hub.pull import PULL_FILE, pull
from empathy_trl.models.load import load_model

RECIPE = """name: kind
stages:
  sft: {task: sft}
  grpo: {task: grpo}
"""
EVALUATION = {
    "data": {"name": "ed4", "split": "test", "n": 328},
    "metrics": {
        "accuracy": {"value": 0.61, "low": 0.5561, "high": 0.66, "n": 328},
        "odd": "\x1b[31mred",
    },
}


@pytest.fixture
def published(hub_server, tiny_folder, tmp_path, monkeypatch):
    """Id of a model with a recipe, an evaluation and files that nobody should take."""
    monkeypatch.chdir(tmp_path)
    api = HfApi()
    api.create_repo("ann/kind")
    api.upload_folder(repo_id="ann/kind", folder_path=tiny_folder)
    extra = {
        "recipe.yaml": RECIPE,
        "eval_test.json": json.dumps(EVALUATION),
        "modeling_evil.py": "raise SystemExit",
        "pytorch_model.bin": "pickle",
        "training_args.bin": "pickle",
        "pull.json": "{}",
    }
    for name, text in extra.items():
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id="ann/kind")
    api.create_tag("ann/kind", tag="v1")
    return "ann/kind"


def test_model_recipe_and_results_come_along(published, tmp_path, capsys):
    folder = pull(published)
    assert folder.resolve() == tmp_path / "outputs" / "hub" / "ann" / "kind"
    said = capsys.readouterr().out
    assert "model:   Qwen2ForCausalLM" in said and "recipe:  kind: sft (sft) → grpo (grpo)" in said
    assert "eval_test.json: 328 rows of ed4, split test\n         accuracy 0.610 [0.556, 0.660], n = 328" in said
    assert "\x1b" not in said
    load_model(folder)


def test_what_can_run_code_stays_on_the_hub(published, capsys):
    folder = pull(published)
    names = {path.name for path in folder.iterdir()}
    assert not names & {"modeling_evil.py", "pytorch_model.bin", "training_args.bin"}
    assert "not downloaded, because not needed: modeling_evil.py, pull.json" in capsys.readouterr().out
    assert json.loads((folder / PULL_FILE).read_text())["repo_id"] == published


def test_names_that_are_hidden_or_play_with_the_terminal_stay_on_the_hub(published):
    for name in (".vscode/settings.json", "a\x1b[31m.json", ".eval_results/run.py"):
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id=published)
    assert not {path.name for path in pull(published).rglob("*")} & {"settings.json", "a\x1b[31m.json", "run.py"}


def test_results_of_benchmarks_come_along(published, capsys):
    entries = b"- dataset: {id: cais/hle, task_id: default}\n  value: 20.9\n- dataset: 5\n  value: 1\n"
    HfApi().upload_file(path_or_fileobj=entries, path_in_repo=".eval_results/x.yaml", repo_id=published)
    folder = pull(published)
    assert (folder / ".eval_results" / "x.yaml").read_bytes() == entries
    said = capsys.readouterr().out
    assert "results: .eval_results/x.yaml: cais/hle, task default: 20.9\n" in said
    assert "x.yaml, line 3: dataset: 5; expected a mapping with id and task_id" in said


def test_a_revision_into_a_folder_of_ones_own(published, tmp_path):
    HfApi().upload_file(path_or_fileobj=b"name: later", path_in_repo="recipe.yaml", repo_id=published)
    assert pull(f"{published}@v1", tmp_path / "old") == tmp_path / "old"
    assert (tmp_path / "old" / "recipe.yaml").read_text() == RECIPE
    with pytest.raises(
        UserError, match=r"old: holds ann/kind at commit \w+, and ann/kind at \w+ was asked for; delete"
    ):
        pull(published, tmp_path / "old")
    assert (tmp_path / "old" / "recipe.yaml").read_text() == RECIPE


def test_a_folder_of_something_else_is_left_alone(published, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("mine")
    with pytest.raises(
        UserError, match="mine: holds files that were not downloaded by a pull; give another --output_dir"
    ):
        pull(published, tmp_path / "mine")
    with pytest.raises(UserError, match="recipe.yaml: is a file; expected a folder"):
        pull(published, tmp_path / "mine" / "recipe.yaml")
    assert (tmp_path / "mine" / "recipe.yaml").read_text() == "mine"


@pytest.mark.faults
def test_a_folder_that_another_process_holds_gets_nothing(published, tmp_path, holder):
    other = holder("folder", tmp_path / "busy")
    with pytest.raises(UserError, match=f"busy: process {other.pid} on "):
        pull(published, tmp_path / "busy")
    assert len(list((tmp_path / "busy").iterdir())) == 1  # the lock


def test_a_pull_that_was_cut_off_goes_on(published, hub_server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub_server.cut("/resolve/.*/model.safetensors", after_bytes=1000, times=50, method="GET")
    with pytest.raises(UserError, match="ann/kind: .*was interrupted; the same command continues it"):
        pull(published)
    hub_server.faults.clear()
    assert (pull(published) / "model.safetensors").is_file()


def test_a_repository_that_is_not_ours_says_what_is_missing(hub_server, tiny_folder, tmp_path, capsys):
    HfApi().create_repo("ann/plain")
    HfApi().upload_folder(repo_id="ann/plain", folder_path=tiny_folder)
    pull("ann/plain", tmp_path / "plain")
    said = capsys.readouterr().out
    assert "recipe:  none (recipe.yaml is missing" in said and "results: none (no eval_<split>.json)" in said


def test_an_adapter_says_its_base(hub_server, tmp_path, capsys):
    HfApi().create_repo("ann/adapter")
    settings = json.dumps({"base_model_name_or_path": "ann/base", "revision": "v1"}).encode()
    HfApi().upload_file(path_or_fileobj=settings, path_in_repo="adapter_config.json", repo_id="ann/adapter")
    pull("ann/adapter", tmp_path / "adapter")
    assert "model:   LoRA adapter on ann/base@v1, which is fetched when" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kind", "kind: expected USER/REPO, or USER/REPO@ with a branch"),
        ("../kind", "../kind: expected USER/REPO"),
        ("ann/none", "ann/none: no such local folder and no such model on the Hub"),
        ("ann/kind@v9", "ann/kind@v9: no revision 'v9'"),
    ],
)
def test_what_cannot_be_pulled(published, name, message):
    with pytest.raises(UserError, match=message):
        pull(name)


def test_a_repository_without_anything_to_fetch(hub_server, tmp_path):
    HfApi().create_repo("ann/empty")
    HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="run.py", repo_id="ann/empty")
    with pytest.raises(UserError, match="ann/empty: has no files to fetch .* found .*run.py"):
        pull("ann/empty", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_without_network_a_pull_says_so(hub_server, tmp_path):
    offline = hub_server.in_this_process(tmp_path / "home", offline=True)
    with offline, pytest.raises(UserError, match="^ann/kind: .*HF_HUB_OFFLINE is set"):
        pull("ann/kind", tmp_path / "x")
