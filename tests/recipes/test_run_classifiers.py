"""Replies judged by classifiers: of an earlier stage in a run, of folders on the command line."""

import json
import re

import pytest

from empathy_trl.check import describe
from empathy_trl.recipe import load_recipe
from tests.recipes.scripts import finished_run, script

SMALL = """
# A recipe for tests.
evaluation: {batch_size: 8, max_new_tokens: 8, limit: 8, classifiers: {intent: "stage:intent"}}
data: {name: wassa, path: sample, split_by: conversation}
stages:
  intent:
    task: classify
    data: {name: intents, split_by: given}
    model: {from_scratch: {architecture: roberta, hidden_size: 16, layers: 1, heads: 2, vocab_size: 300, max_length: 64}}
    trainer: {max_steps: 2, save_strategy: "no", per_device_train_batch_size: 8, max_length: 64, logging_steps: 1, disable_tqdm: true}
  grpo:
    task: grpo
    model: {from_scratch: {architecture: qwen2, hidden_size: 16, layers: 1, heads: 2, vocab_size: 300}}
    rewards: {length: {min: 3, max: 9}}
    trainer: {max_steps: 1, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 6, bf16: false, logging_steps: 1, disable_tqdm: true}
"""
run, evaluate = script("run"), script("evaluate")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its recipe and its output folder."""
    return finished_run(SMALL, tmp_path_factory.mktemp("classifiers"))


def evaluation(folder):
    return json.loads((folder / "eval_test.json").read_text())


def test_a_policy_is_judged_by_the_stage_s_classifier_and_the_report_shows_it(finished):
    result = evaluation(finished[1] / "grpo")
    assert result["metrics"]["intent_acc"]["n"] == 8
    assert result["baselines"]["majority"]["intent_acc"]["value"] > 0
    assert "asks for tags" in result["left_out"]["perplexity"]
    report = (finished[1] / "report.md").read_text()
    assert "| INTENT-ACC |" in report and "| majority class |" in report and "## More figures" in report
    assert "- perplexity of the reference: none, because the prompt asks for tags" in report


def test_a_classifier_that_was_trained_again_judges_again_and_trains_no_policy(finished, capsys):
    recipe, folder = finished
    arguments = ["--recipe", str(recipe), "--output_dir", str(folder)]
    assert run(arguments) == 0
    assert "INTENT-ACC" not in capsys.readouterr().out.split("# small")[0]  # nothing is evaluated anew
    assert run([*arguments, "--stages.intent.trainer.learning_rate", "1e-3"]) == 0
    said = capsys.readouterr().out.split("# small")[0]
    assert "[intent] starts" in said and "[grpo] complete, skipped" in said and said.count("INTENT-ACC") == 1


def test_evaluate_takes_classifiers_from_folders_and_from_the_run(finished, make_classifier, tmp_path, capsys):
    recipe, folder = finished
    emotion = make_classifier({"so sorry": [0.0, 1.0]}, id2label={0: "sad", 1: "joyful"})
    arguments = ["--recipe", str(recipe), "--model", str(folder / "grpo"), "--output_dir", str(tmp_path / "out")]
    assert evaluate([*arguments, "--evaluation.classifiers.emotion", emotion]) == 0
    result = evaluation(tmp_path / "out")
    assert result["metrics"]["intent_acc"] == evaluation(folder / "grpo")["metrics"]["intent_acc"]
    assert result["left_out"]["emo_acc"] == "the data has no column `emotion`"
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions_test.jsonl").read_text().splitlines()]
    mean = sum(row["metrics"]["intent_acc"] for row in rows) / len(rows)
    assert mean == pytest.approx(result["metrics"]["intent_acc"]["value"])
    said = capsys.readouterr().out
    assert re.search(r"^INTENT-ACC .*\[.*\].*\[.*\]$", said, flags=re.MULTILINE)
    assert "EMO-ACC: none, because the data has no column `emotion`" in said


OTHER_GROUPS = "evaluation.classifiers.epitome: the model's groups of labels are intent; expected emotional_react"


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        (evaluate, "nowhere", "evaluation.classifiers.epitome: no folder"),
        (evaluate, "grpo", r"evaluation.classifiers.epitome: .*is a generative model"),
        (evaluate, "intent", OTHER_GROUPS),
        (run, "intent", OTHER_GROUPS),
    ],
)
def test_what_cannot_judge_is_one_error_before_anything_is_done(finished, tmp_path, capsys, command, name, message):
    recipe, folder = finished
    arguments = ["--recipe", str(recipe), "--output_dir", str(tmp_path / "out")]
    arguments += ["--evaluation.classifiers.epitome", str(folder / name)]
    assert command([*arguments, *(["--model", str(folder / "grpo")] if command is evaluate else [])]) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_the_plan_names_classifiers_that_are_downloaded(finished, tmp_path):
    overrides = ["--evaluation.classifiers.emotion", "me/emotions"]
    plan = describe(load_recipe(finished[0], overrides), tmp_path)
    assert "downloads: classifier me/emotions (not in the Hub's cache)\n" in plan
