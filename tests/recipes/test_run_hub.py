"""run.py with a recipe from the Hub: shown first, trained with --yes, and nothing of it goes where its author wants."""

import json

import pytest
from huggingface_hub import HfApi

from tests.recipes.scripts import script

RECIPE = """# what its author says \u202e
name: kind
model: {from_scratch: {architecture: qwen2, hidden_size: 16, layers: 1, heads: 2, vocab_size: 600}}
data: {name: ed4, path: sample, portion: [0, 0.1]}
evaluation: {batch_size: 8, max_new_tokens: 4, limit: 8}
hub: {repo_id: ann/kind}
stages:
  sft:
    task: sft
    trainer: {max_steps: 1, per_device_train_batch_size: 2, bf16: false, save_strategy: "no", disable_tqdm: true}
"""


@pytest.fixture
def run(hub_server, tmp_path, monkeypatch, capsys):
    """Return a function that runs the script on ann/kind; it returns status, screen and errors."""
    monkeypatch.chdir(tmp_path)
    HfApi().create_repo("ann/kind")
    HfApi().upload_file(path_or_fileobj=RECIPE.encode(), path_in_repo="recipe.yaml", repo_id="ann/kind")

    def call(*arguments, recipe="hub:ann/kind"):
        status = script("run")(["--recipe", recipe, *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_it_is_shown_and_not_trained(run, tmp_path):
    status, screen, error = run()
    assert status == 0 and error == ""
    assert "# what its author says \nname: kind" in screen and "\u202e" not in screen
    assert "left out: hub, which is where its author's model went" in screen
    assert (
        "recipe kind (hub:ann/kind@" in screen and "The recipe is sound." in screen and "pushes:    nothing" in screen
    )
    commit = HfApi().model_info("ann/kind").sha
    assert f"Nothing was trained. To do so, repeat the command with --recipe hub:ann/kind@{commit} --yes" in screen
    assert not (tmp_path / "outputs").exists()


def test_check_shows_it_also_with_yes(run, tmp_path):
    status, screen, _ = run("--check", "--yes", "--hub.repo_id", "bob/mine")
    assert status == 0 and "pushes:    sft -> bob/mine" in screen and "Nothing was trained" not in screen
    assert not (tmp_path / "outputs").exists()


def test_with_yes_it_is_trained_without_a_push(run, tmp_path, hub_server):
    status, screen, error = run("--yes", "--stages.sft.trainer.max_steps", "2")
    assert status == 0, error
    assert screen.index("name: kind") < screen.index("[sft] starts")
    folder = tmp_path / "outputs" / "kind" / "sft"
    assert json.loads((folder / "run.json").read_text())["status"] == "complete"
    assert "repo_id" not in (folder / "recipe.yaml").read_text()
    assert set(hub_server.files("ann/kind")) == {"recipe.yaml", ".gitattributes"}


def test_a_refused_recipe_has_been_shown(run):
    text = RECIPE.replace("task: sft", "task: sft\n    rewards: {mine: {import: 'os:system'}}")
    HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="recipe.yaml", repo_id="ann/kind")
    status, screen, error = run("--yes")
    assert status == 2 and "import: 'os:system'" in screen
    assert error.startswith("error: stages.sft.rewards.mine.import: 'os:system' runs code that the recipe names")
    assert "Traceback" not in error


def test_flags_for_the_hub_are_for_the_hub(run):
    for flag in ("--yes", "--trust_recipe"):
        status, _, error = run(flag, recipe="ed4_tiny")
        assert status == 2 and f"{flag}: is for --recipe hub:USER/REPO, got --recipe ed4_tiny" in error
