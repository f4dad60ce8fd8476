"""The kinds of evaluation: what each counts, and that all of them offer what reports ask for."""

import json

import numpy as np
import pytest

from empathy_trl.data import build
from empathy_trl.errors import DataError, UserError
from empathy_trl.evaluation import EVALUATORS, evaluator
from empathy_trl.evaluation import base as artefacts
from empathy_trl.evaluation.answers import LabelEvaluator, PairEvaluator, RatingEvaluator
from empathy_trl.evaluation.base import Evaluator
from empathy_trl.evaluation.evaluate import evaluate_model, kind_of
from empathy_trl.evaluation.replies import Prediction, ReplyEvaluator
from empathy_trl.evaluation.report import write_report
from empathy_trl.recipe import Data, Model, Stage
from empathy_trl.rewards import REWARDS as KNOWN
from empathy_trl.rewards import read_rewards
from empathy_trl.rewards.format import Length


def stage(task, name, **data):
    return Stage(name="stage1", task=task, model=Model(name_or_path="unused"), data=Data(name=name, **data))


class OutputsOf:
    """Stands in for a `Scorer`: gives chosen outputs for chosen texts."""

    max_length = 4

    def __init__(self, outputs):
        self.outputs = outputs

    def score(self, texts):
        return np.array([self.outputs[text] for text in texts], dtype=np.float32)


def by_words(texts, *pairs, verbose):
    """Stands in for a tokenizer."""
    return {"input_ids": [text.split() for text in texts]}


def evaluate(stage, model, folder, **settings):
    return evaluate_model(model=model, tokenizer=by_words, stage=stage, recipe_name="r", split="test", output_dir=folder,
                          model_name="m", **settings)  # fmt: skip


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_kind_has_an_evaluator_that_says_what_has_no_default(name):
    made = evaluator(name)  # a class that lacks an abstract method has no instance
    assert isinstance(made, Evaluator)
    assert (
        made.rows_task in ("grpo", "regress", "classify") and made.main_metric and made.main_metric_title and made.note
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    ("model", "name"),
    [("outputs/r/grpo", "grpo"), ("outputs/s/grpo", "outputs/s/grpo"), ("ann/ed4", "ann/ed4"), ("openai:m", "openai:m"),
     ("long" * 20 + "/end", "longlonglonglonglonglong/end")],
)  # fmt: skip
def test_the_row_of_another_model_has_its_own_name(model, name):
    result = {"recipe": "r", "stage": "grpo", "model": model, "metrics": {}, "baselines": {}}
    assert evaluator("emotions").model_and_baselines(result) == [(name, {})]


def test_an_unknown_kind_is_named_with_the_choices():
    with pytest.raises(UserError, match="kind: got 'label', expected one of emotions, replies, staged, labels"):
        evaluator("label")


@pytest.mark.parametrize(
    "task, name, expected",
    [
        ("grpo", "ed4", "emotions"),
        ("sft", "wassa", "replies"),
        ("regress", "wassa", "ratings"),
        ("classify", "epitome", "labels"),
        ("regress", "rated_replies", "ratings"),
        ("grpo", "dialogues", "replies"),
        ("grpo", "empath", "staged"),
    ],
)
def test_the_kind_follows_from_task_and_data(task, name, expected):
    assert kind_of(stage(task, name)) == expected


def test_groups_of_labels_are_scored_apart_and_together(tmp_path):
    rows = build(Data(name="epitome"), "test", "classify")
    logits = {}
    for number, row in enumerate(rows):
        wrong = number % 2  # every second row has its first mechanism wrong
        levels = [(row["labels"][0] + wrong) % 3, *row["labels"][1:]]
        logits[row["text"], row["pair"]] = np.concatenate([np.eye(3)[level] for level in levels])
    result = evaluate(stage("classify", "epitome"), OutputsOf(logits), tmp_path)
    metrics, n = result["metrics"], len(rows)
    assert metrics["accuracy_emotional_reactions"]["value"] == pytest.approx((n - n // 2) / n)
    assert metrics["accuracy_interpretations"]["value"] == metrics["accuracy_explorations"]["value"] == 1
    assert metrics["accuracy"]["value"] == pytest.approx((3 * n - n // 2) / (3 * n))
    assert result["baselines"]["majority"]["accuracy"]["value"] < 0.8
    assert result["confusions"].keys() == {"emotional_reactions", "interpretations", "explorations"}
    assert (tmp_path / "confusion_interpretations_test.png").is_file()
    table = [json.loads(line) for line in (tmp_path / "predictions_test.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in table[:2]] == [1, pytest.approx(2 / 3)]
    assert " | " in table[0]["text"] and table[0]["label"].count(" / ") == 2
    assert LabelEvaluator().answer(table[1]).endswith("(67% right)")


@pytest.mark.faults
def test_what_the_evaluated_rows_lost_is_counted_and_told(tmp_path):
    data = {"split_by": "row", "max_words": 9}
    rows = build(Data(name="wassa", **data), "test", "regress")
    outputs = OutputsOf({row["text"]: np.array(row["labels"]) for row in rows})
    said = evaluate(stage("regress", "wassa", **data), outputs, tmp_path / "stage1")["data"]
    lengths = [len(text.split()) for text in rows["text"]]
    assert (said["dropped"], said["cut"]) == (0, sum(length > 4 for length in lengths)) and said["shortened"] > 0
    told = f", {said['shortened']} texts shortened by data.max_words, {said['cut']} texts truncated to the model's maximum length"
    assert f"Split test of sample{told}, " in write_report(tmp_path).read_text(encoding="utf-8")
    assert artefacts.describe_cuts({"split": "test", "n": 3}) == ""  # of an earlier version


def test_ratings_stand_beside_both_baselines_and_in_a_report(tmp_path, capsys):
    data = {"split_by": "row"}
    rows = build(Data(name="wassa", **data), "test", "regress")
    off = {row["text"]: np.array(row["labels"]) + [0.5, 0, 0] for row in rows}
    folder = tmp_path / "stage1"
    result = evaluate(stage("regress", "wassa", **data), OutputsOf(off), folder)
    assert result["metrics"]["mae_Emotion"]["value"] == pytest.approx(0.5, abs=1e-5)
    assert result["metrics"]["pearson_Emotion"]["value"] == pytest.approx(1)
    assert result["metrics"]["mae_mean"]["value"] == pytest.approx(0.5 / 3, abs=1e-5)
    assert "mean rating, Empathy" in capsys.readouterr().out
    row = json.loads((folder / "predictions_test.jsonl").read_text().splitlines()[0])
    assert row["error"] == pytest.approx(0.5 / 3, abs=1e-5) and RatingEvaluator().answer(row).endswith(
        "(off by 0.17 on average)"
    )
    report = write_report(tmp_path).read_text()
    assert "stage1: test mean Pearson 1.000 [1.000, 1.000]" in report and "## Per rating" in report


def pairwise(**data):
    section = {"ranges": {"overall": (1, 5)}} | data
    return stage("regress", "rated_replies", **section).model_copy(update={"trainer": {"objective": "pairwise"}})


def test_a_score_of_pairs_stands_beside_chance_and_length(tmp_path, capsys):
    own = pairwise()
    assert kind_of(own) == "pairs"
    rows = build(own.data, "test", "regress")
    scores = {(row["text"], row["pair"]): [10 - 100 * row["labels"][0]] for row in rows}  # the order turned round
    result = evaluate(own, OutputsOf(scores), tmp_path / "stage1")
    assert result["kind"] == "pairs" and result["data"]["n"] == len(rows)
    figures = {name: row["pair_accuracy"]["value"] for name, row in result["baselines"].items()}
    assert result["metrics"]["pair_accuracy"]["value"] == 0 and figures["chance"] == 0.5
    assert 0.6 < figures["longer"] < 0.85 and 0.5 < figures["tfidf_ridge"] < 1
    said = capsys.readouterr().out
    assert "pair accuracy [95 %], " in said and "the longer reply" in said
    table = [json.loads(line) for line in (tmp_path / "stage1" / "predictions_test.jsonl").read_text().splitlines()]
    assert {row["right_share"] for row in table} == {0.0} and table[0]["label"].keys() == {"overall"}
    report = write_report(tmp_path).read_text()
    assert "stage1: test pair accuracy 0.000 [0.000, 0.000]" in report and "chance 0.500; the longer reply" in report
    assert "(0% of its pairs right)" in report


def test_replies_that_cannot_be_compared_have_no_pair_accuracy(tmp_path):
    own = pairwise()
    rows = build(own.data, "test", "regress").select([0, 5])
    with pytest.raises(
        DataError, match="no two of the 2 evaluated replies have the same context and different ratings"
    ):
        PairEvaluator().score(own, rows, rows, [1.0, 2.0], {})


REWARDS = {"length": {"min": 3, "max": 8}, "format": {"weight": {"start": 0.0, "end": 0.5, "until": 1.0}}}


class Unsure(Length):
    """Does not apply to a reply with "idea" in it; all others earn 1."""

    def score(self, reply):
        return None if "idea" in reply else 1.0


def judged(completions, rewards=REWARDS):
    """The result for the sample's first test rows, with chosen completions."""
    rows = build(Data(name="wassa", split_by="conversation"), "test", "grpo").select(range(len(completions)))
    predictions = [Prediction(completion, unavailable_reason="of a test") for completion in completions]
    return ReplyEvaluator().score(stage("grpo", "wassa"), rows, rows, predictions, read_rewards(rewards)[0])


def test_replies_show_what_a_hacked_reward_would_move():
    hacked, varied = (
        judged([f"<reasoning>r</reasoning><answer>{text}</answer>" for text in texts])[0]["metrics"]
        for texts in (
            ["so so so sorry"] * 6,
            ["I am sorry", "what happened then", "that must hurt", "oh no", "tell me", "yes"],
        )
    )
    assert hacked["duplicate_share"]["value"] == 1 and varied["duplicate_share"]["value"] == 0
    assert hacked["distinct_2"]["value"] < 0.2 and varied["distinct_2"]["value"] > 0.9
    assert hacked["reply_words"]["value"] == 4
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in hacked.values())


def test_weights_are_those_of_the_end_of_training_and_broken_replies_count_as_none():
    result, table = judged(["<reasoning>r</reasoning><answer>I am so sorry</answer>", "<answer>unclosed"])
    assert [row["reward"] for row in table] == [1.5, 0.0]
    assert result["metrics"]["reward"]["value"] == 0.75 and result["metrics"]["empty_share"]["value"] == 0.5
    assert table[0]["rewards"] == {"length": 1.0, "format": 1.0} and table[1]["reply"] == ""


def test_the_reference_row_has_only_rewards_that_read_the_reply_alone():
    reference = judged(["x", "y"])[0]["baselines"]["reference"]
    assert "reward_length" in reference and "reward_format" not in reference and "reward" not in reference
    assert reference["reference_similarity"]["value"] == pytest.approx(1) and reference["empty_share"]["value"] == 0


@pytest.mark.parametrize("reply_tags", [["respond"], ["reply"], []])
def test_reference_replies_earn_what_their_words_earn_whatever_tags_are_looked_for(reply_tags):
    usual, other = (
        judged(["x"] * 5, {"length": {"min": 1, "max": 1} | tags})[0]["baselines"]["reference"]["reward_length"]
        for tags in ({}, {"reply_tags": reply_tags})
    )
    assert 0 < usual["value"] < 1 and other == usual


def test_replies_that_no_reward_applies_to_have_no_mean(monkeypatch):
    monkeypatch.setitem(KNOWN, "length", Unsure)
    _, table = judged(["<answer>sure</answer>", "<answer>no idea</answer>"], {"length": {}})
    assert [ReplyEvaluator().row_score(row) for row in table] == [1.0, None] and ReplyEvaluator().answer(
        table[1]
    ).startswith("no reward")
    with pytest.raises(UserError, match=r"rewards: none \(length\) applies to any of the 1 rows"):
        judged(["<answer>no idea</answer>"], {"length": {}})


def reply_rows(folder, stage, completions, rewards):
    """Write the artefacts of a stage whose replies were judged by some rewards."""
    result, table = judged(completions, rewards)
    about = {"recipe": "r", "stage": stage, "model": stage, "kind": "replies", "seed": 0, "versions": {}}
    data = {"source": "sample", "split": "test", "n": len(table)}
    artefacts.write_eval(folder / stage, "test", about | {"data": data} | result)
    artefacts.write_predictions(folder / stage, "test", [{"index": i} | row for i, row in enumerate(table)])


def test_replies_judged_by_different_rewards_are_not_compared(tmp_path):
    reply = ["<answer>I am so sorry</answer>"] * 4
    reply_rows(tmp_path, "sft", reply, REWARDS)
    # the same weights at the end, on another way there
    reply_rows(tmp_path, "grpo1", reply, REWARDS | {"format": {"weight": 0.5}})
    reply_rows(tmp_path, "grpo2", reply, {"length": {"min": 3, "max": 8, "weight": 2.0}})
    report = write_report(tmp_path).read_text()
    assert "From sft to grpo1, test mean reward went from" in report and "to grpo2" not in report
    assert (
        "## Stages side by side (replies: sft, grpo1)" in report and "## Stages side by side (replies: grpo2)" in report
    )


def test_rows_without_a_reward_do_not_spoil_the_comparison(tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "length", Unsure)
    reply_rows(tmp_path, "one", ["<answer>sure</answer>"] * 3 + ["<answer>no idea</answer>"], {"length": {}})
    reply_rows(tmp_path, "two", ["<answer>no idea</answer>"] + ["<answer>sure</answer>"] * 3, {"length": {}})
    assert "+0.000 [+0.000, +0.000] on the same 2 rows" in write_report(tmp_path).read_text()


def test_a_reply_is_what_the_rewards_take_for_it():
    completion = "<think>a b c d e f</think><say>I am so sorry</say>"
    metrics = judged([completion] * 2, {"length": {"min": 3, "max": 8, "reply_tags": ["say"]}})[0]["metrics"]
    assert metrics["reply_words"]["value"] == 4 and metrics["reward"]["value"] == 1
    assert metrics["thought_words"]["value"] == 6
    assert "thought_words" not in judged(["<say>I am so sorry</say>"] * 2, {"length": {}})[0]["metrics"]
