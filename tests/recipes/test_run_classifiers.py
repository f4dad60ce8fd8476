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
    model: {from_scratch: {architecture: roberta, hidden_size: 16, layers: 1, heads: 2, vocab_size: 400, max_length: 64}}
    trainer: {max_steps: 4, save_steps: 2, save_strategy: steps, per_device_train_batch_size: 8, max_length: 64, logging_steps: 1, disable_tqdm: true}
  sft:
    task: sft
    model: {from_scratch: {architecture: qwen2, hidden_size: 16, layers: 1, heads: 2, vocab_size: 600}}
    trainer: {max_steps: 2, per_device_train_batch_size: 4, bf16: false, save_strategy: "no", logging_steps: 1, disable_tqdm: true}
  grpo:
    task: grpo
    model: {name_or_path: "stage:sft"}
    rewards: {length: {min: 3, max: 9}}
    trainer: {max_steps: 1, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 6, bf16: false, logging_steps: 1, disable_tqdm: true}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its recipe and its output folder."""
    return finished_run(SMALL, tmp_path_factory.mktemp("classifiers"))


def evaluation(folder):
    return json.loads((folder / "eval_test.json").read_text())


def test_both_policies_are_judged_by_the_stage_s_classifier_and_the_report_shows_it(finished):
    for stage in ("sft", "grpo"):
        result = evaluation(finished[1] / stage)
        assert result["metrics"]["intent_acc"]["n"] == 8
        assert result["baselines"]["majority"]["intent_acc"]["value"] > 0
        assert "asks for tags" in result["left_out"]["perplexity"]
    report = (finished[1] / "report.md").read_text()
    assert "| INTENT-ACC |" in report and "| majority class |" in report and "## More figures" in report
    assert "- perplexity of the reference: none, because the prompt asks for tags" in report


def test_a_classifier_that_was_trained_again_judges_again_and_trains_no_policy(finished, capsys):
    recipe, folder = finished
    arguments = ["--recipe", str(recipe), "--output_dir", str(folder)]
    assert script("run")(arguments) == 0
    assert "INTENT-ACC" not in capsys.readouterr().out.split("# small")[0]  # nothing is evaluated anew
    assert script("run")([*arguments, "--stages.intent.trainer.learning_rate", "1e-3"]) == 0
    said = capsys.readouterr().out.split("# small")[0]
    assert "[grpo] complete, skipped" in said and said.count("INTENT-ACC") == 2


def test_evaluate_py_takes_classifiers_from_folders_and_from_the_run(finished, make_classifier, tmp_path, capsys):
    recipe, folder = finished
    emotion = make_classifier({"so sorry": [0.0, 1.0]}, id2label={0: "sad", 1: "joyful"})
    arguments = ["--recipe", str(recipe), "--model", str(folder / "grpo"), "--output_dir", str(tmp_path / "out")]
    assert script("evaluate")([*arguments, "--evaluation.classifiers.emotion", emotion]) == 0
    result = evaluation(tmp_path / "out")
    assert result["metrics"]["intent_acc"] == evaluation(folder / "grpo")["metrics"]["intent_acc"]
    assert result["left_out"]["emo_acc"] == "the data has no column `emotion`"
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions_test.jsonl").read_text().splitlines()]
    mean = sum(row["metrics"]["intent_acc"] for row in rows) / len(rows)
    assert mean == pytest.approx(result["metrics"]["intent_acc"]["value"])
    said = capsys.readouterr().out
    assert re.search(r"^INTENT-ACC .*\[.*\].*\[.*\]$", said, flags=re.MULTILINE)
    assert "EMO-ACC: none, because the data has no column `emotion`" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "evaluation.classifiers.epitome: no folder"),
        ("grpo", r"evaluation.classifiers.epitome: .*is a generative model"),
        ("intent", "evaluation.classifiers.epitome: the model's groups of labels are intent; expected emotional_react"),
    ],
)
def test_what_cannot_judge_is_one_error(finished, tmp_path, capsys, name, message):
    recipe, folder = finished
    classifier = ["--evaluation.classifiers.epitome", str(folder / name)]
    arguments = ["--recipe", str(recipe), "--model", str(folder / "grpo"), "--output_dir", str(tmp_path / "out")]
    assert script("evaluate")([*arguments, *classifier]) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_a_run_finds_a_classifier_that_does_not_fit_before_it_trains(finished, tmp_path, capsys):
    recipe, folder = finished
    classifier = ["--evaluation.classifiers.epitome", str(folder / "intent")]
    assert script("run")(["--recipe", str(recipe), "--output_dir", str(tmp_path / "out"), *classifier]) == 2
    assert "the model's groups of labels are intent" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_plan_names_classifiers_that_are_downloaded(finished, tmp_path):
    overrides = ["--evaluation.classifiers.emotion", "me/emotions"]
    plan = describe(load_recipe(finished[0], overrides), tmp_path)
    assert "downloads: classifier me/emotions\n" in plan
