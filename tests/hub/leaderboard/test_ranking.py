"""Which results may be compared, and which ranks follow."""

import numpy as np
import pytest

from empathy_trl.evaluation.base import read_predictions, write_eval, write_predictions
from empathy_trl.evaluation.compare import compare
from empathy_trl.hub.leaderboard.entries import make_entry
from empathy_trl.hub.leaderboard.ranking import NO_ROWS, direction, group, rank
from empathy_trl.hub.results import judge_digest
from tests.evaluation.test_compare import emotions, ratings, save
from tests.hub.leaderboard.results import entry, with_predictions

JUDGE, OTHER = {"bleu": {"weight": 1.0}}, {"bleu": {"weight": 2.0}}


def groups_of(*entries):
    return group(list(entries))


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"data": {"rows": "bb"}}, ["other rows"]),
        ({"data": {"split": "valid", "rows": "bb"}}, ["another split: valid, not test"]),
        ({"metrics_version": 2}, ["metrics version 2, not 1"]),
        ({"metrics_version": None}, ["the version of its metrics is not recorded (an older evaluation)"]),
        ({"data": {"rows": None}}, [NO_ROWS]),
        ({"data": {"decoding": "sampled at temperature 1, seed 3"}}, ["other decoding: sampled at temperature 1"]),
        ({"judged_by": JUDGE}, ["judged by other rewards, or with other weights"]),
        ({"data": {"name": "other"}}, []),  # another data set needs no excuse
        ({"kind": "labels"}, []),
    ],
)
def test_whatever_differs_stands_apart_with_the_reason(changes, reasons):
    first, second = groups_of(entry("a"), entry("b"), entry("c", **changes))
    assert [each.evaluation["model"] for each in first.entries] == ["a", "b"] and first.reasons == []
    assert [each.evaluation["model"] for each in second.entries] == ["c"] and second.reasons == reasons


def test_several_reasons_are_all_given():
    _, second = groups_of(entry("a"), entry("b"), entry("c", metrics_version=2, data={"rows": "bb"}))
    assert second.reasons == ["other rows", "metrics version 2, not 1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "other", "stage": "other", "seed": 5},
        {"data": {"source": "/elsewhere/rows", "revision": "main"}},  # the digest says that the rows are the same
    ],
)
def test_what_does_not_matter(changes):
    assert len(groups_of(entry("a"), entry("b", **changes))) == 1


def test_the_seed_of_the_sampling_does_not_matter():
    sampled = [entry(str(seed), data={"decoding": f"sampled at temperature 1, seed {seed}"}) for seed in (1, 2)]
    assert len(groups_of(*sampled)) == 1


def test_rewards_are_the_same_by_content_or_by_digest():
    assert len(groups_of(entry("a", judged_by=JUDGE), entry("b", judged_by=judge_digest(JUDGE)))) == 1
    assert len(groups_of(entry("a", judged_by=JUDGE), entry("b", judged_by=OTHER))) == 2


def test_without_a_digest_all_that_is_said_of_the_rows_must_agree():
    old = [entry(name, data={"rows": None, "n": n}) for name, n in (("a", 10), ("b", 10), ("c", 20))]
    assert sorted(len(each.entries) for each in groups_of(*old)) == [1, 2]


def test_the_same_model_with_the_same_figures_is_there_once_and_counted():
    (only,) = groups_of(entry("a"), entry("a", recipe="again"), entry("a", 0.6), entry("b"))
    assert [each.evaluation["model"] for each in only.entries] == ["a", "a", "b"] and only.repeated == 1


def test_of_two_equal_results_the_one_with_predictions_is_kept(tmp_path):
    full = with_predictions(tmp_path / "full", emotions, 0.5, 1)
    write_eval(tmp_path / "bare", "test", full.evaluation)
    bare = make_entry(full.evaluation, "bare/eval_test.json", tmp_path / "bare")
    assert groups_of(bare, full)[0].entries == [full]


def test_the_order_does_not_depend_on_the_order_of_the_files():
    entries = [entry("a"), entry("b", data={"rows": "bb"}), entry("c", data={"rows": "bb"}), entry("d", kind="labels")]
    order = [(each.facts, each.reasons) for each in groups_of(*entries)]
    assert order == [(each.facts, each.reasons) for each in groups_of(*entries[::-1])]
    assert [len(each.entries) for each in groups_of(*entries)] == [2, 1, 1]


def ranks(*values, width=0.1):
    """Places by intervals alone."""
    ranking = rank([entry(str(number), value, width) for number, value in enumerate(values)])
    assert ranking.paired == 0 and ranking.problems == []
    return ranking.ranks


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
    assert ranks(*values) == expected


def test_intervals_that_touch_do_not_tell_apart():
    assert ranks(0.25, 0.5, width=0.25) == [1, 1]


def test_no_interval_establishes_nothing():
    bare = [entry(name, metrics={"accuracy": {"value": value}}) for name, value in (("a", 0.1), ("b", 0.9))]
    assert rank(bare).ranks == [1, 1]


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
    assert ranking.ranks == [3, 1, 1] and (ranking.paired, ranking.pairs) == (3, 3)
    for each in entries:
        (each.folder / "predictions_test.jsonl").unlink()
    ranking = rank(entries)
    assert ranking.ranks == [1, 1, 1] and ranking.paired == 0 and ranking.problems == []


@pytest.mark.parametrize("seed", range(4))
def test_the_verdict_is_that_of_a_comparison_of_the_two(tmp_path, seed):
    a, b = (with_predictions(tmp_path / name, emotions, share, 2 * seed + add)
            for name, share, add in (("a", 0.5, 0), ("b", 0.6, 1)))  # fmt: skip
    change = compare(a.folder, b.folder)["metrics"]["accuracy"]
    expected = [1 + (change["low"] > 0), 1 + (change["high"] < 0)]
    assert rank([a, b]).ranks == expected


def test_correlations_are_compared_on_drawn_rows(tmp_path):
    entries = [with_predictions(tmp_path / name, ratings, noise, seed)
               for name, noise, seed in (("good", 0.5, 0), ("same", 0.5, 1), ("bad", 3.0, 2))]  # fmt: skip
    ranking = rank(entries)
    assert ranking.ranks == [1, 1, 3] and ranking.paired == 3


def test_predictions_that_do_not_give_the_figure_are_not_trusted(tmp_path):
    a, b = (with_predictions(tmp_path / name, nested, right) for name, right in (("a", 100), ("b", 112)))
    rows = read_predictions(a.folder, "test")
    write_predictions(a.folder, "test", [row | {"correct": False} for row in rows])
    ranking = rank([a, b])
    assert ranking.paired == 0 and ranking.ranks == [1, 1]
    assert ranking.problems == [f"{a.folder}: predictions_test.jsonl gives another accuracy than {a.origin}"]


@pytest.mark.parametrize("content", ["{", '{"index": 0, "text": "x", "label": "sad", "correct": "often"}'])
def test_broken_predictions_are_named_and_the_intervals_still_hold(tmp_path, content):
    a, b = (with_predictions(tmp_path / name, nested, right) for name, right in (("a", 20), ("b", 180)))
    (a.folder / "predictions_test.jsonl").write_text(content)
    ranking = rank([a, b])
    assert ranking.ranks == [2, 1] and ranking.paired == 0
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
    assert ranking.ranks == [2, 1] and ranking.paired == 1


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
