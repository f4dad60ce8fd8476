"""`repetition_penalty` as a table of (completion, n, expected, why)."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.ngrams import RepetitionPenalty

CASES = [
    ("I am here for you", 3, 0.0, "nothing repeats"),
    ("so so so so so so", 3, -3 / 4, "one triple, four times"),
    ("so So, SO! so so so", 1, -5 / 8, "case does not count, punctuation is something else"),
    ("a b c a b c", 3, -1 / 4, "a b c comes back"),
    ("!!!!!!", 3, -3 / 4, "punctuation repeats as well"),
    ("😢😢😢😢😢", 2, -3 / 4, "and emoji"),
    ("哈哈哈哈哈", 3, -2 / 3, "and words without spaces"),
    ("so so", 3, 0.0, "too short to repeat"),
    ("", 3, -1.0, "no reply"),
    ("<answer>so", 3, -1.0, "a reply that cannot be told apart is none"),
    ("<reasoning>so so so so</reasoning><answer>I see</answer>", 3, 0.0, "the reply only"),
]


@pytest.mark.parametrize(("completion", "n", "expected", "why"), CASES)
def test_table(completion, n, expected, why):
    assert RepetitionPenalty(n=n)(["p"], [completion]) == [pytest.approx(expected)], why


def test_more_repetition_costs_more():
    scores = RepetitionPenalty()(["p"] * 3, ["I am sorry. " * times for times in (1, 3, 30)])
    assert 0.0 == scores[0] > scores[1] > scores[2] > -1.0


def test_impossible_n():
    with pytest.raises(UserError, match="n: expected 1 or more, got -1"):
        RepetitionPenalty(n=-1)
