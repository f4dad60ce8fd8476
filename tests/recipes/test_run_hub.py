"""run.py with a recipe from the Hub, and what it pushes there; hub.py pushes again; no token is written anywhere."""

import re
import shutil

import pytest
from huggingface_hub import HfApi

from tests.recipes.scripts import ROOT, script, without_pictures

RECIPE = """# what its author says \u202e
name: kind
task: sft
model: {from_scratch: {architecture: qwen2, hidden_size: 16, layers: 1, heads: 2, vocab_size: 300}}
data: {name: ed4, path: sample, portion: [0, 0.1]}
evaluation: {batch_size: 8, max_new_tokens: 4, limit: 8}
trainer: {max_steps: 2, per_device_train_batch_size: 4, bf16: false, save_steps: 1, logging_steps: 1, disable_tqdm: true}
"""
OLD = ROOT / "tests" / "outputs_0_1"
HUB = ["--hub.repo_id", "ann/small"]
run, hub = script("run"), script("hub")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder; nobody waits."""
    monkeypatch.chdir(tmp_path)
    without_pictures(monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return tmp_path


@pytest.fixture
def finished(place):
    """A finished run: arguments that repeat it, and the folder of its last stage."""
    shutil.copytree(OLD / "runs" / "emotions", "out")
    return ["--recipe", str(OLD / "emotions.yaml"), "--output_dir", "out"], place / "out" / "grpo"


@pytest.fixture
def publish(hub_server):
    """Return a function that puts a recipe into ann/kind."""
    HfApi().create_repo("ann/kind")

    def upload(text):
        HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="recipe.yaml", repo_id="ann/kind")

    upload(RECIPE)
    return upload


def test_check_prints_the_recipe_and_the_plan(publish, place, capsys):
    assert run(["--recipe", "hub:ann/kind", "--check", "--hub.repo_id", "bob/mine"]) == 0
    screen, error = capsys.readouterr()
    assert error == "" and f"hub:ann/kind@{HfApi().model_info('ann/kind').sha} (" in screen
    assert "# what its author says \nname: kind" in screen and "\u202e" not in screen
    assert "The recipe is sound." in screen and "pushes:    sft -> bob/mine" in screen
    assert not (place / "outputs").exists()


def test_an_import_in_it_is_refused_after_it_has_been_printed(publish, capsys):
    publish(RECIPE.replace("task: sft", "task: sft\nrewards: {mine: {import: 'os:system'}}"))
    assert run(["--recipe", "hub:ann/kind"]) == 2
    screen, error = capsys.readouterr()
    assert "import: 'os:system'" in screen
    assert error.startswith("error: rewards.mine.import: 'os:system' is Python code that the recipe")
    assert run(["--recipe", "hub:ann/kind", "--trust_remote_code", "--check"]) == 2
    assert capsys.readouterr().err == "error: rewards: task sft learns from no rewards; tasks that do: grpo, ppo\n"


def test_a_run_pushes_checkpoints_and_in_the_end_everything(publish, hub_server, place, capsys):
    hub_server.fail("POST", "ann/small/commit/main", status=403)  # the first checkpoint's
    assert run(["--recipe", "hub:ann/kind", *HUB, "--hub.push", "every_save", "--hub.private", "true"]) == 0
    said = capsys.readouterr()
    assert said.out.index("name: kind") < said.out.index("[sft] starts")
    assert f"[sft] pushed to {hub_server.url}/ann/small" in said.out
    assert re.search("checkpoint-1 was not pushed: no right to do this .*training continues", said.err)
    titles = [commit.title for commit in HfApi().list_repo_commits("ann/small")]
    assert titles == ["sft: model, recipe and results", "checkpoint-2", "initial commit"]
    files, folder = hub_server.files("ann/small"), place / "outputs" / "kind" / "sft"
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert b"accuracy" in files["README.md"] and HfApi().model_info("ann/small").private
    assert [found.id for found in HfApi().list_models(filter="empathy-trl")] == ["ann/small"]
    written = [path.read_bytes() for path in (place / "outputs").rglob("*") if path.is_file()]
    everything = b"".join([*written, *files.values(), said.out.encode(), said.err.encode()])
    assert hub_server.token.encode() not in everything and hub_server.token not in repr(hub_server.log)

    card = (folder / "README.md").read_text()  # ours, and not the trainer's
    assert "It learned by imitation" in card and "| accuracy |" in card and "fine-tuned version of" not in card
    assert hub(["card", "outputs/kind/sft", "--repo_id", "ann/small"]) == 0
    published = capsys.readouterr().out
    assert 'name = "ann/small"' in published and "outputs/kind" not in published


def test_a_push_that_fails_after_training_is_repeated_by_the_command_it_names_or_by_a_rerun(
    finished, hub_server, capsys
):
    arguments, folder = finished
    before = {path: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    hub_server.fail("POST", "/commit/main", status=403, times=2)
    command = "empathy-trl hub push out/grpo --repo_id ann/small"
    for _ in range(2):
        assert run([*arguments, *HUB]) == 2
        said = capsys.readouterr()
        assert "error: ann/small: not pushed: no right" in said.err and said.err.strip().endswith(f"run: {command}")
        assert "complete, skipped" in said.out
    assert hub(command.split()[2:]) == 0
    assert capsys.readouterr().out.endswith(f"\npushed to {hub_server.url}/ann/small\n")
    assert run([*arguments, *HUB]) == 0
    assert "[grpo] pushed to" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


BAD = {
    "unknown token": ("hf_unknown0123456789", [], "does not accept your token.*hf auth login"),
    "nobody logged in": ("", [], "you are not logged in.*hf auth login"),
    "a token to read": ("read_token", [], "your token may only read"),
    "somebody else's name": ("token", ["--hub.repo_id", "bob/small"], r"not yours \(choices: ann\)"),
    "somebody else's repository": ("other_token", ["--hub.repo_id", "ann/taken"], "no right to do this"),
    "public": ("token", ["--hub.repo_id", "ann/taken", "--hub.private", "true"], "public, but must be private"),
}


@pytest.mark.parametrize(("token", "changes", "message"), BAD.values(), ids=BAD)
def test_what_would_stop_the_push_stops_the_run_before_it_starts(hub_server, place, capsys, token, changes, message):
    HfApi().create_repo("ann/taken")
    (place / "small.yaml").write_text(RECIPE)
    with hub_server.in_this_process(place, token=getattr(hub_server, token, token)):
        assert run(["--recipe", "small.yaml", "--output_dir", "out", *HUB, *changes]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and "--hub null" in said and "hub push" in said
    assert not (place / "out").exists() and "hf_" not in said


def test_offline_says_how_to_train_without_pushing(finished, capsys):
    assert run([*finished[0], *HUB]) == 2
    assert re.search(r"HF_HUB_OFFLINE=1.*Or train without it \(--hub null\)", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "out/grpo", "--repo_id", "a b"], "--repo_id: 'a b' is not a Hub id; expected USER/REPO"),
        (["push", "nothing", "--repo_id", "ann/x"], "no such folder"),
        (["card", "nothing"], "no such folder"),
    ],
)
def test_mistakes_on_the_command_line_of_hub(finished, capsys, arguments, message):
    assert hub(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said
