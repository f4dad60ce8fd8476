"""Outputs of version 0.1 (tests/outputs_0_1) evaluate, chat, compare, rank, explain, resume and are skipped as before."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.recipes.scripts import script

OLD = Path(__file__).parent / "outputs_0_1"


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """A copy of the old outputs, in the folder where version 0.1 put them; the tests run beside it."""
    shutil.copytree(OLD / "runs", tmp_path / "outputs")
    shutil.copytree(OLD / "published", tmp_path / "published")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def run(name: str, *arguments) -> int:
    return script(name)([str(argument) for argument in arguments])


def parse(text: str):
    return json.loads(text, parse_float=lambda number: round(float(number), 5))


def rows(file: Path) -> list[dict]:
    return [parse(line) for line in file.read_text(encoding="utf-8").splitlines()]


def figures(file: Path) -> dict:
    content = parse(file.read_text(encoding="utf-8"))
    for added in ("cut", "cut_off", "dropped", "limit", "shortened"):  # which version 0.1 did not count
        content["data"].pop(added, None)
    content["metrics"].pop("grounded_reasoning", None)  # nor did it compute this
    return {key: content[key] for key in ("kind", "data", "metrics", "baselines", "metrics_version")}


@pytest.mark.parametrize("name", ["emotions", "replies", "intents"])
def test_a_finished_run_is_skipped(outputs, capsys, name):
    before = {path: path.read_bytes() for path in outputs.glob(f"{name}/*/*")}
    assert run("run", "--recipe", OLD / f"{name}.yaml") == 0
    stages = [path.parent for path in outputs.glob(f"{name}/*/run.json")]
    out = capsys.readouterr().out
    assert all(f"[{stage.name}] complete, skipped" in out for stage in stages)
    assert before == {path: path.read_bytes() for path in before}


def test_an_interrupted_run_goes_on_as_if_nothing_had_stopped_it(outputs, capsys):
    assert run("run", "--recipe", OLD / "interrupted.yaml") == 0
    assert "[grpo] resumes from outputs/interrupted/grpo/checkpoint-2" in capsys.readouterr().out
    whole, resumed = rows(OLD / "interrupted_metrics.jsonl"), rows(outputs / "interrupted/grpo/metrics.jsonl")
    for step, expected in zip(resumed[2:4], whole[2:4], strict=True):
        for key in expected.keys() - {"step_time"}:
            assert step[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize(
    ("recipe", "model", "stage"),
    [
        (OLD / "emotions.yaml", "outputs/emotions/grpo", "grpo"),
        ("published/recipe.yaml", "published", "grpo"),
        (OLD / "replies.yaml", "outputs/replies/grpo", "grpo"),
        (OLD / "replies.yaml", "outputs/replies/reward", "reward"),
        (OLD / "intents.yaml", "outputs/intents/classify", "classify"),
    ],
    ids=["emotions", "published", "replies", "ratings", "labels"],
)
def test_a_model_evaluates_as_before(tmp_path, recipe, model, stage):
    assert run("evaluate", "--recipe", recipe, "--model", model, "--stage", stage, "--output_dir", "again") == 0
    old = tmp_path / ("outputs/emotions/grpo" if model == "published" else model)
    again = rows(tmp_path / "again/predictions_test.jsonl")
    for row in again:
        for added in ("grounded", "likelihood"):  # nor did it write these
            row.pop(added, None)
    assert again == rows(old / "predictions_test.jsonl")
    assert figures(tmp_path / "again/eval_test.json") == figures(old / "eval_test.json")


@pytest.mark.parametrize("model", ["outputs/emotions/grpo", "published"])
def test_a_model_chats_as_it_was_trained(monkeypatch, capsys, model):
    monkeypatch.setattr(sys, "stdin", io.StringIO("I was so scared when the lights went out.\n"))
    assert run("chat", "--model", model) == 0
    assert "The te." in capsys.readouterr().out


def test_two_results_are_compared(capsys):
    assert run("compare", "outputs/emotions/sft", "outputs/emotions/grpo", "--output_dir", "compared") == 0
    assert "| accuracy | 0.167 | 0.000 | -0.167 [-0.417, +0.000] | -100.0% | 0.248 | 12 |" in capsys.readouterr().out


def test_all_results_are_ranked(tmp_path):
    assert run("leaderboard", "outputs", "--output_dir", "board") == 0
    board = (tmp_path / "board/leaderboard.md").read_text(encoding="utf-8")
    for line in (
        "| 1 | emotions/sft | 0.167 [0.000, 0.417] | 12 | 0.333 [0.000, 0.500] |",
        "| 1 | emotions/grpo | 0.000 [0.000, 0.000] | 12 |",
        "| 1 | intents/classify | 0.100 [0.000, 0.250] | 20 |",
        "| 1 | replies/reward | 0.163 [-0.138, 0.486] | 6 |",
        "| 1 | replies/grpo | 0.140 [0.060, 0.215] | 6 |",
    ):
        assert line in board


def test_its_completions_are_explained(tmp_path, capsys):
    predicted = rows(tmp_path / "outputs/emotions/grpo/predictions_test.jsonl")
    lines = [json.dumps({"prompt": row["text"]} | row) for row in predicted]
    (tmp_path / "replies.jsonl").write_text("\n".join(lines))
    assert run("explain", "--recipe", OLD / "emotions.yaml", "--completions", "replies.jsonl") == 0
    mean = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert mean.split()[1:4] == ["0.000", "0.833", "0.250"]
