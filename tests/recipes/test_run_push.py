"""run.py pushes what it trained, to a Hub on this machine; recipes/hub.py does it again; no token is written anywhere."""

import re

import pytest
from huggingface_hub import HfApi

from tests.recipes.scripts import finished_run, script

SMALL = """
# A recipe for tests.
task: sft
model: {from_scratch: {architecture: qwen2, hidden_size: 16, layers: 1, heads: 2, vocab_size: 600}}
data: {name: ed4, path: sample, portion: [0, 0.1]}
evaluation: {batch_size: 8, max_new_tokens: 4, limit: 8}
trainer: {max_steps: 2, per_device_train_batch_size: 4, bf16: false, save_steps: 1, logging_steps: 1, disable_tqdm: true}
"""
HUB = ["--hub.repo_id", "ann/small"]


@pytest.fixture(scope="module")
def run():
    return script("run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run without `hub`: arguments that repeat it, and the folder of its stage."""
    recipe, output = finished_run(SMALL, tmp_path_factory.mktemp("push"))
    return ["--recipe", str(recipe), "--output_dir", str(output)], output / "sft"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def test_a_run_pushes_checkpoints_and_in_the_end_everything(run, hub_server, tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SMALL)
    arguments = ["--recipe", str(tmp_path / "small.yaml"), "--output_dir", str(tmp_path / "out")]
    hub_server.fail("POST", "/commit/main", status=403)  # the first checkpoint's
    assert run([*arguments, *HUB, "--hub.push", "every_save", "--hub.private", "true"]) == 0
    said = capsys.readouterr()
    assert f"[sft] pushed to {hub_server.url}/ann/small" in said.out
    assert re.search("checkpoint-1 was not pushed: no right to do this .*training goes on", said.err)
    titles = [commit.title for commit in HfApi().list_repo_commits("ann/small")]
    assert titles == ["sft: model, recipe and results", "checkpoint-2", "initial commit"]
    files = hub_server.files("ann/small")
    weights = (tmp_path / "out" / "sft" / "model.safetensors").read_bytes()
    assert files["model.safetensors"] == weights and b"accuracy" in files["README.md"]
    assert HfApi().model_info("ann/small").private
    assert [found.id for found in HfApi().list_models(filter="empathy-trl")] == ["ann/small"]
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    everything = b"".join([*written, *files.values(), said.out.encode(), said.err.encode()])
    assert hub_server.token.encode() not in everything and hub_server.token not in repr(hub_server.log)


def test_a_push_that_fails_after_training_is_repeated_by_the_command_it_names_or_by_a_rerun(
    run, finished, hub_server, capsys
):
    arguments, folder = finished
    before = {path: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    hub_server.fail("POST", "/commit/main", status=403, times=2)
    assert run([*arguments, *HUB]) == 2
    said = capsys.readouterr().err
    command = f"empathy-trl hub push {folder} --repo_id ann/small"
    assert "error: ann/small: not pushed: no right" in said and said.strip().endswith(f"run: {command}")
    assert run([*arguments, *HUB]) == 2
    assert "complete, skipped" in capsys.readouterr().out
    assert script("hub")(command.split()[2:]) == 0
    assert capsys.readouterr().out == f"pushed to {hub_server.url}/ann/small\n"
    assert run([*arguments, *HUB]) == 0
    assert "[sft] pushed to" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


BAD = {
    "unknown token": ("hf_unknown0123456789", [], "does not accept your token.*hf auth login"),
    "nobody logged in": ("", [], "you are not logged in.*hf auth login"),
    "a token to read": ("read_token", [], "your token may only read"),
    "somebody else's name": ("token", ["--hub.repo_id", "bob/small"], r"not yours \(choices: ann\)"),
    "somebody else's repository": ("other_token", ["--hub.repo_id", "ann/taken"], "no right to do this"),
    "public": ("token", ["--hub.repo_id", "ann/taken", "--hub.private", "true"], "public, and shall be private"),
}


@pytest.mark.parametrize(("token", "changes", "message"), BAD.values(), ids=BAD)
def test_what_would_stop_the_push_stops_the_run_before_it_starts(
    run, hub_server, tmp_path, capsys, token, changes, message
):
    HfApi().create_repo("ann/taken")
    (tmp_path / "small.yaml").write_text(SMALL)
    arguments = ["--recipe", str(tmp_path / "small.yaml"), "--output_dir", str(tmp_path / "out"), *HUB, *changes]
    with hub_server.in_this_process(tmp_path, token=getattr(hub_server, token, token)):
        assert run(arguments) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and "--hub null" in said and "hub push" in said
    assert not (tmp_path / "out").exists() and "hf_" not in said


def test_offline_says_how_to_train_without_pushing(run, finished, capsys):
    assert run([*finished[0], *HUB]) == 2
    assert re.search(r"HF_HUB_OFFLINE=1.*Or train without it \(--hub null\)", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "FOLDER", "--repo_id", "a b"], "--repo_id: 'a b' is not a Hub id; expected USER/REPO"),
        (["push", "FOLDER/nothing", "--repo_id", "ann/x"], "no such folder"),
        (["card", "FOLDER/nothing"], "no such folder"),
    ],
)
def test_mistakes_on_the_command_line_of_hub(finished, capsys, arguments, message):
    assert script("hub")([word.replace("FOLDER", str(finished[1])) for word in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said


def test_the_card_in_a_stage_s_folder_is_ours_without_a_push(finished, capsys):
    card = (finished[1] / "README.md").read_text()
    assert "It learned by imitation" in card and "| accuracy |" in card and "fine-tuned version of" not in card
    assert f'name = "{finished[1]}"' in card and f"empathy-trl chat --model {finished[1]}" in card
    assert script("hub")(["card", str(finished[1]), "--repo_id", "ann/small"]) == 0
    published = capsys.readouterr().out
    assert 'name = "ann/small"' in published and str(finished[1]) not in published
