"""What may stand in one column."""

import pytest

from empathy_trl.evaluation.evaluate import write_eval
from empathy_trl.hub.leaderboard.entries import make_entry
from empathy_trl.hub.leaderboard.ranking import NO_ROWS, group
from empathy_trl.hub.results import judge_digest
from tests.evaluation.test_compare import emotions
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
