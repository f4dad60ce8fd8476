"""Pairs of replies, and how many of them are in the right order."""

import pytest

from empathy_trl.evaluation.metrics.agreement import pair_accuracy
from empathy_trl.models.label_schema import pairs_of, right_order

CONTEXTS = ["a", "b", "a", "b", "a", "c"]
RATINGS = [1, 5, 3, 5, 2, 4]


@pytest.mark.parametrize(
    "contexts, ratings, expected, why",
    [
        (
            CONTEXTS,
            RATINGS,
            [(2, 0), (4, 0), (2, 4)],
            "all of one context with different ratings; the better one first",
        ),
        (CONTEXTS, [[rating] for rating in RATINGS], [(2, 0), (4, 0), (2, 4)], "labels are lists of one"),
        (["a", "a"], [2, 2], [], "equals cannot be compared"),
        (["a", "b"], [1, 2], [], "replies to different contexts neither"),
        ([], [], [], "nothing"),
    ],
)
def test_pairs(contexts, ratings, expected, why):
    assert pairs_of(contexts, ratings) == expected, why


def test_a_tie_counts_half():
    assert right_order([0.1, 0.5, 0.5], [(1, 0), (0, 1), (1, 2)]).tolist() == [1, 0, 0.5]
    assert right_order([1.0], []).tolist() == []


def test_accuracy_is_of_pairs_and_its_interval_of_contexts():
    scores = [3.0, 1.0, 0.0, 1.0, 2.0]  # wrong in all three pairs of a, right in the one of b
    contexts, pairs = ["a", "b", "a", "b", "a"], [(2, 0), (4, 0), (2, 4), (1, 3)]
    figure = pair_accuracy([*scores[:3], 0.0, scores[4]], pairs, contexts)
    assert figure == {"value": 0.25, "low": 0.0, "high": 1.0, "n": 4}
    one = pair_accuracy(scores, pairs[:3], contexts)
    assert (one["low"], one["value"], one["high"]) == (0, 0, 0)  # one context has no spread
    assert pair_accuracy([0.0] * 5, pairs, contexts)["value"] == 0.5
