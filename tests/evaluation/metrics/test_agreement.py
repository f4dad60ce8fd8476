"""Scores: which answers count, and every figure against scikit-learn."""

import random
import time

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from empathy_trl.evaluation.base import majority, score_baselines, tfidf_logreg
from empathy_trl.evaluation.metrics.agreement import reasoning_words, score_emotions, score_predictions

LABELS = ("sad", "joyful", "angry", "afraid")


@pytest.mark.parametrize(
    ("completion", "words"),
    [
        ("<reasoning>lost and cried</reasoning><answer>sad</answer>", 3),
        ("<reasoning></reasoning><answer>sad</answer>", 0),
        ("they lost it <answer>sad</answer> or not", 3),
        ("<reasoning>never closed <answer>sad</answer>", 2),
        ("no tag at all", 4),
        ("", 0),
    ],
)
def test_reasoning_words(completion, words):
    assert reasoning_words(completion) == words


def random_rows(n, seed=0, labels=LABELS):
    generator = random.Random(seed)
    gold = [generator.choice(labels) for _ in range(n)]
    answers = [label if generator.random() < 0.5 else generator.choice([*labels, "happy"]) for label in gold]
    return [f"<reasoning>so it is</reasoning><answer>{answer}</answer>" for answer in answers], answers, gold


@pytest.mark.parametrize("n", [1, 2, 7, 400])
def test_every_metric_agrees_with_sklearn(n):
    completions, answers, gold = random_rows(n)
    metrics, predictions, confusion = score_emotions(completions, gold, LABELS)
    assert predictions == [answer if answer in LABELS else None for answer in answers]

    options = {"labels": list(LABELS), "zero_division": 0}
    assert metrics["accuracy"]["value"] == pytest.approx(accuracy_score(gold, answers))
    assert metrics["macro_f1"]["value"] == pytest.approx(f1_score(gold, answers, average="macro", **options))
    precision, recall, _, support = precision_recall_fscore_support(gold, answers, **options)
    for i, label in enumerate(LABELS):
        assert metrics[f"precision_{label}"]["value"] == pytest.approx(precision[i])
        assert metrics[f"recall_{label}"]["value"] == pytest.approx(recall[i])
        assert metrics[f"precision_{label}"]["n"] == answers.count(label)
        assert metrics[f"recall_{label}"]["n"] == support[i]
        for j, answer in enumerate([*LABELS, "happy"]):
            pairs = list(zip(gold, answers, strict=True))
            assert confusion["counts"][i][j] == pairs.count((label, answer))
    assert metrics["invalid_share"]["value"] == pytest.approx(answers.count("happy") / n)
    assert metrics["mean_reasoning_words"]["value"] == 3
    assert confusion["rows"] == list(LABELS) and confusion["columns"] == [*LABELS, "invalid"]


def test_metric_names_and_shape():
    metrics, _, _ = score_emotions(*random_rows(40)[::2], LABELS)
    shares = [f"{share}_{label}" for share in ("precision", "recall") for label in LABELS]
    assert list(metrics) == ["accuracy", "macro_f1", *shares, "invalid_share", "mean_reasoning_words"]
    thinks = score_emotions(
        ["<think>He is sad.</think><answer>sad</answer>", "<answer>sad</answer>"], ["sad"] * 2, LABELS
    )
    assert thinks[0]["mean_thought_words"]["value"] == 1.5 and thinks[0]["mean_reasoning_words"]["value"] == 0
    assert all(set(figure) == {"value", "low", "high", "n"} for figure in metrics.values())
    assert all(isinstance(figure["n"], int) for figure in metrics.values())


@pytest.mark.parametrize("seed", range(5))
def test_intervals_contain_the_value(seed):
    metrics, _, _ = score_emotions(*random_rows(60, seed)[::2], LABELS)
    for name, figure in metrics.items():
        assert figure["low"] - 1e-9 <= figure["value"] <= figure["high"] + 1e-9, name
    assert metrics["accuracy"]["high"] - metrics["accuracy"]["low"] == pytest.approx(0.25, abs=0.06)


def test_interval_of_macro_f1_agrees_with_resampling_by_hand():
    completions, answers, gold = random_rows(80)
    figure = score_emotions(completions, gold, LABELS)[0]["macro_f1"]
    generator, gold, answers = np.random.default_rng(5), np.array(gold), np.array(answers)
    options = {"labels": list(LABELS), "average": "macro", "zero_division": 0}
    draws = [generator.integers(0, 80, 80) for _ in range(400)]
    low, high = np.percentile([f1_score(gold[rows], answers[rows], **options) for rows in draws], [2.5, 97.5])
    assert (figure["low"], figure["high"]) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))


def test_all_right_and_all_invalid():
    right, _ = score_predictions(list(LABELS), list(LABELS), LABELS)
    assert score_predictions(["?", None], ["sad", "sad"], LABELS)[1]["counts"][0] == [0, 0, 0, 0, 2]
    assert right["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 4}
    wrong, _, confusion = score_emotions(["?"] * 4, list(LABELS), LABELS)
    assert wrong["accuracy"]["high"] == wrong["macro_f1"]["high"] == 0
    assert wrong["invalid_share"]["low"] == 1
    assert wrong["precision_sad"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0}
    assert [row[-1] for row in confusion["counts"]] == [1, 1, 1, 1]


def test_gold_must_be_labels_and_rows_must_match():
    with pytest.raises(ValueError, match="row 1: gold label 'happy' is not one of"):
        score_predictions(["sad", "sad"], ["sad", "happy"], LABELS)
    with pytest.raises(ValueError, match="got 1 and 2"):
        score_predictions(["sad"], ["sad", "sad"], LABELS)
    with pytest.raises(ValueError, match="got 0 and 0"):
        score_predictions([], [], LABELS)


def test_3000_rows_are_scored_in_seconds():
    completions, _, gold = random_rows(3000)
    start = time.perf_counter()
    score_emotions(completions, gold, LABELS)
    assert time.perf_counter() - start < 3


TRAIN = [
    ("we cried at the grave", "sad"),
    ("she cried and cried", "sad"),
    ("he cried for days", "sad"),
    ("we laughed at the party", "joyful"),
    ("they laughed at the wedding", "joyful"),
    ("he shouted at me", "angry"),
    ("they shouted and lied", "angry"),
    ("the dark scared us", "afraid"),
    ("a noise scared me", "afraid"),
]
TEST = [("i cried", "sad"), ("we laughed", "joyful"), ("somebody shouted", "angry"), ("it scared them", "afraid")]


def test_baselines():
    scores = score_baselines(*zip(*TRAIN, strict=True), *zip(*TEST, strict=True), LABELS)
    assert list(scores) == ["majority", "tfidf_logreg"]
    assert scores["majority"]["accuracy"]["value"] == 0.25  # sad, the most frequent training label
    assert scores["majority"]["recall_sad"]["value"] == 1
    assert scores["tfidf_logreg"]["accuracy"]["value"] == 1
    for metrics in scores.values():
        assert "invalid_share" not in metrics and "mean_reasoning_words" not in metrics
        assert metrics["accuracy"]["n"] == 4


def test_majority_among_equals_is_the_first_label():
    assert majority(["joyful", "sad", "sad", "joyful"], LABELS) == "sad"
    assert majority(["afraid"], LABELS) == "afraid"


def test_tfidf_uses_word_pairs():
    train = ["not good", "good", "not bad", "bad"] * 3
    labels = ["sad", "joyful", "joyful", "sad"] * 3
    assert tfidf_logreg(train, labels, ["not good", "not bad"]) == ["sad", "joyful"]
