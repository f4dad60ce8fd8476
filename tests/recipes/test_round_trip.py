"""There and back: train, push, lose everything local, fetch by id, evaluate, talk, train again from the Hub's recipe."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.scripts import ROOT

# of ed4_tiny, as little as shows the way
SHORT = ["--stages.sft.trainer.max_steps", "2", "--stages.grpo.trainer.max_steps", "2", "--evaluation.limit", "12"]


@pytest.fixture
def command(hub_server, tmp_path):
    """Return a function that runs a script of recipes/ in an empty folder, as a user who is logged in to the Hub does."""
    place = tmp_path / "place"
    place.mkdir()
    environment = os.environ | hub_server.env(tmp_path / "home") | {"PYTHONPATH": str(ROOT)}

    def run(name: str, *arguments: str, says: str = "") -> str:
        line = [sys.executable, str(ROOT / "recipes" / f"{name}.py"), *arguments]
        done = subprocess.run(
            line, cwd=place, env=environment, input=says, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert hub_server.token not in done.stdout + done.stderr
        return done.stdout

    run.place, run.home = place, tmp_path / "home"
    return run


def predictions(folder: Path) -> bytes:
    return (folder / "predictions_test.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [SHORT, []], ids=["two steps", "all of ed4_tiny"])
def test_what_is_pushed_comes_back_and_answers_alike(command, hub_server, overrides):
    outputs = command.place / "outputs"
    said = command("run", "--recipe", "ed4_tiny", "--hub.repo_id", "ann/ed4", *overrides)
    assert f"pushed to {hub_server.url}/ann/ed4" in said
    before = predictions(outputs / "ed4_tiny" / "grpo")
    shutil.rmtree(outputs)
    shutil.rmtree(command.home, ignore_errors=True)

    assert "ed4_tiny" in command("hub", "pull", "ann/ed4")
    measure = ["--recipe", "hub:ann/ed4", "--split", "test"]
    limit = ["--limit", "12"] if overrides else []
    command("evaluate", *measure, *limit, "--model", "outputs/hub/ann/ed4", "ann/ed4@main", "--output_dir", "again")
    again = list((command.place / "again").glob("*/predictions_test.jsonl"))
    assert len(again) == 2 and all(file.read_bytes() == before for file in again)

    situation = "I was so scared when the lights went out.\n"
    for model in ("ann/ed4", "outputs/hub/ann/ed4"):
        answer = command("chat", "--model", model, "--temperature", "0", says=situation)
        assert len(answer.split()) > 5, answer

    command("run", "--recipe", "hub:ann/ed4")
    assert predictions(outputs / "ed4_tiny" / "grpo") == before
