"""run.py with a recipe from the Hub: printed, then run as a local one."""

import json

import pytest
from huggingface_hub import HfApi

from tests.recipes.scripts import script

RECIPE = """# what its author says \u202e
name: kind
model: {from_scratch: {architecture: qwen2, hidden_size: 16, layers: 1, heads: 2, vocab_size: 600}}
data: {name: ed4, path: sample, portion: [0, 0.1]}
evaluation: {batch_size: 8, max_new_tokens: 4, limit: 8}
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


def test_check_prints_the_recipe_and_the_plan(run, tmp_path):
    status, screen, error = run("--check", "--hub.repo_id", "bob/mine")
    assert status == 0 and error == ""
    assert f"hub:ann/kind@{HfApi().model_info('ann/kind').sha} (" in screen
    assert "# what its author says \nname: kind" in screen and "\u202e" not in screen
    assert "The recipe is sound." in screen and "pushes:    sft -> bob/mine" in screen
    assert not (tmp_path / "outputs").exists()


def test_it_is_printed_and_trained(run, tmp_path):
    status, screen, error = run("--stages.sft.trainer.max_steps", "2")
    assert status == 0, error
    assert screen.index("name: kind") < screen.index("[sft] starts")
    folder = tmp_path / "outputs" / "kind" / "sft"
    assert json.loads((folder / "run.json").read_text())["status"] == "complete"


def test_an_import_in_it_is_refused_after_it_has_been_printed(run):
    text = RECIPE.replace("task: sft", "task: sft\n    rewards: {mine: {import: 'os:system'}}")
    HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="recipe.yaml", repo_id="ann/kind")
    status, screen, error = run()
    assert status == 2 and "import: 'os:system'" in screen
    assert error.startswith("error: stages.sft.rewards.mine.import: 'os:system' is Python code that the recipe")
    status, _, error = run("--trust_remote_code", "--check")
    assert (
        status == 2
        and error == "error: stages.sft.rewards: task sft learns from no rewards; tasks that do: grpo, ppo\n"
    )
