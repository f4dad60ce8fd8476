"""Places: what is established, what is chance, and that sharing is not transitive."""

import numpy as np
import pytest

from empathy_trl.evaluation.compare import compare_results, read_result
from empathy_trl.evaluation.evaluate import read_predictions, write_predictions
from empathy_trl.hub.leaderboard.ranking import direction, rank
from tests.evaluation.test_compare import emotions, ratings, save
from tests.hub.leaderboard.results import entry, with_predictions


def places(*values, width=0.1):
    """Places by intervals alone."""
    ranking = rank([entry(str(number), value, width) for number, value in enumerate(values)])
    assert ranking.paired == 0 and ranking.problems == []
    return ranking.places


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5,), [1]),
        ((0.5, 0.55), [1, 1]),
        ((0.5, 0.65), [2, 1]),
        ((0.9, 0.5, 0.3), [1, 2, 3]),
        ((0.70, 0.62, 0.54), [1, 1, 2]),  # the middle one is told apart from neither
        ((0.9, 0.54, 0.5, 0.3), [1, 2, 2, 4]),
        ((0.7, 0.7, 0.7), [1, 1, 1]),
    ],
)
def test_overlapping_intervals_share_a_place(values, expected):
    assert places(*values) == expected


def test_intervals_that_touch_do_not_tell_apart():
    assert places(0.25, 0.5, width=0.25) == [1, 1]


def test_no_interval_establishes_nothing():
    bare = [entry(name, metrics={"accuracy": {"value": value}}) for name, value in (("a", 0.1), ("b", 0.9))]
    assert rank(bare).places == [1, 1]


def nested(folder, right, n=200):
    """A model that is right in the first `right` rows: of two of them, one is never better than the other in any row."""
    rows = [{"label": "sad", "prediction": "sad" if i < right else "angry", "correct": i < right, "completion": "x"}
            for i in range(n)]  # fmt: skip
    value, half = right / n, 1.96 * (right / n * (1 - right / n) / n) ** 0.5
    metrics = {"accuracy": {"value": value, "low": value - half, "high": value + half, "n": n}}
    return save(folder, "emotions", rows, metrics=metrics, confusion={"rows": ["sad", "angry"]})


def test_rows_tell_apart_what_intervals_cannot(tmp_path):
    entries = [with_predictions(tmp_path / name, nested, right) for name, right in (("a", 100), ("b", 112), ("c", 113))]
    ranking = rank(entries)
    assert ranking.places == [3, 1, 1] and (ranking.paired, ranking.pairs) == (3, 3)
    for each in entries:
        (each.folder / "predictions_test.jsonl").unlink()
    ranking = rank(entries)
    assert ranking.places == [1, 1, 1] and ranking.paired == 0 and ranking.problems == []


@pytest.mark.parametrize("seed", range(4))
def test_the_verdict_is_that_of_a_comparison_of_the_two(tmp_path, seed):
    a, b = (with_predictions(tmp_path / name, emotions, share, 2 * seed + add)
            for name, share, add in (("a", 0.5, 0), ("b", 0.6, 1)))  # fmt: skip
    change = compare_results(read_result(a.folder, "test"), read_result(b.folder, "test"))["metrics"]["accuracy"]
    expected = [1 + (change["low"] > 0), 1 + (change["high"] < 0)]
    assert rank([a, b]).places == expected


def test_correlations_are_compared_on_drawn_rows(tmp_path):
    entries = [with_predictions(tmp_path / name, ratings, noise, seed)
               for name, noise, seed in (("good", 0.5, 0), ("same", 0.5, 1), ("bad", 3.0, 2))]  # fmt: skip
    ranking = rank(entries)
    assert ranking.places == [1, 1, 3] and ranking.paired == 3


def test_predictions_that_do_not_give_the_figure_are_not_trusted(tmp_path):
    a, b = (with_predictions(tmp_path / name, nested, right) for name, right in (("a", 100), ("b", 112)))
    rows = read_predictions(a.folder, "test")
    write_predictions(a.folder, "test", [row | {"correct": False} for row in rows])
    ranking = rank([a, b])
    assert ranking.paired == 0 and ranking.places == [1, 1]
    assert ranking.problems == [f"{a.folder}: predictions_test.jsonl gives another accuracy than {a.origin}"]


@pytest.mark.parametrize("content", ["{", '{"index": 0, "text": "x", "label": "sad", "correct": "often"}'])
def test_broken_predictions_are_named_and_the_intervals_still_hold(tmp_path, content):
    a, b = (with_predictions(tmp_path / name, nested, right) for name, right in (("a", 20), ("b", 180)))
    (a.folder / "predictions_test.jsonl").write_text(content)
    ranking = rank([a, b])
    assert ranking.places == [2, 1] and ranking.paired == 0
    assert len(ranking.problems) == 1 and str(a.folder) in ranking.problems[0]


def test_rows_without_a_digest_are_not_paired(tmp_path):
    entries = [with_predictions(tmp_path / name, nested, right, data={"rows": None})
               for name, right in (("a", 100), ("b", 112))]  # fmt: skip
    assert rank(entries).paired == 0


def test_predictions_on_other_rows_than_the_digest_says_are_not_paired(tmp_path):
    a, b = (with_predictions(tmp_path / name, nested, 100) for name in "ab")
    write_predictions(a.folder, "test", [row | {"text": "other"} for row in read_predictions(a.folder, "test")])
    assert rank([a, b]).paired == 0


def test_rows_without_a_score_in_one_of_two_are_left_out_of_their_comparison(tmp_path):
    def replies(folder, values):
        rows = [{"completion": "", "reply": "", "reference": "r", "rewards": {}, "reward": value} for value in values]
        there = [value for value in values if value is not None]
        mean = sum(there) / len(there)
        return save(
            folder, "replies", rows, metrics={"reward": {"value": mean, "low": 0.0, "high": 9.0, "n": len(there)}}
        )

    generator = np.random.default_rng(0)
    low = [None, *generator.normal(1, 0.1, 40)]
    high = [*generator.normal(2, 0.1, 40), None]
    ranking = rank([with_predictions(tmp_path / "a", replies, low), with_predictions(tmp_path / "b", replies, high)])
    assert ranking.places == [2, 1] and ranking.paired == 1


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 1), ("reward", 1), ("bleu_4", 1), ("pearson_mean", 1), ("epitome_explorations_pearson", 1),
        ("perplexity", -1), ("mae_mean", -1), ("invalid_share", -1), ("duplicate_share", -1), ("epitome_explorations_mse", -1),
        ("reply_words", 0), ("mean_reasoning_words", 0), ("epitome_explorations", 0), ("epitome_explorations_difference", 0),
    ],
)  # fmt: skip
def test_which_way_a_metric_gets_better(metric, expected):
    assert direction(metric) == expected
