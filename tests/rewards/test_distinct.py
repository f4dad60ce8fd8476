"""`distinct` as a table of (reply, n, expected, why)."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.ngrams import Distinct

CASES = [
    ("I am here for you", 2, 1.0, "nothing repeats"),
    ("no no no no no", 2, 1 / 4, "one bigram, four times"),
    ("no No, NO! no no", 2, 1 / 4, "neither case nor punctuation makes a difference"),
    ("a b a b a", 1, 2 / 5, "words"),
    ("a b a b a", 2, 2 / 4, "pairs"),
    ("a b a b a", 3, 2 / 3, "triples"),
    ("你好你好", 2, 2 / 3, "no spaces"),
    ("😢😢😢😢", 1, 1 / 4, "emoji"),
    ("no n\u200bo n\u200b\u200bo", 1, 1 / 3, "invisible characters do not make words different"),
    ("yes", 1, 1.0, "one word"),
    ("yes", 2, 0.0, "no bigram in it"),
    ("", 1, 0.0, "empty"),
    ("<answer>no no no</answer>", 2, 1 / 2, "the reply in its tag"),
    ("<answer>no no no", 2, 0.0, "an unclosed tag holds no reply"),
]


@pytest.mark.parametrize(("completion", "n", "expected", "why"), CASES)
def test_table(completion, n, expected, why):
    assert Distinct(n=n)(["p"], [completion]) == [pytest.approx(expected)], why


def test_impossible_n():
    with pytest.raises(UserError, match="n: expected 1 or more, got 0"):
        Distinct(n=0)
