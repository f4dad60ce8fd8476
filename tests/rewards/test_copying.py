"""How original a text is: nothing copied, a phrase, half, everything."""

import pytest

from empathy_trl.rewards.staged import originality
from empathy_trl.text import lower_words

SOURCE = lower_words("My dog ran into the woods and never came back.")


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("that must have been a long and lonely night", 1.0, "nothing"),
        ("ran into the woods you say and nobody has seen a trace of him since", 1.0, "quoting a phrase is free"),
        ("my dog ran into oh how sad", 1 - (2 / 5 - 1 / 4) / (3 / 4), "2 of 5 trigrams, a quarter is free"),
        ("my dog ran into the woods and never came back", 0.0, "everything"),
        ("my dog ran into the woods and", 0.0, "a part, word for word"),
        ("woods", 0.0, "one word"),
        ("back woods", 1.0, "two words that do not stand there side by side"),
        ("", 0.0, "nothing is not original"),
    ],
)
def test_table(text, expected, why):
    assert originality(lower_words(text), [SOURCE]) == pytest.approx(expected), why


def test_what_stands_in_any_source_is_copied():
    text = lower_words("into the woods you are right")
    assert originality(text, [SOURCE]) == 1.0
    assert originality(text, [SOURCE, lower_words("You are right!")]) == pytest.approx(2 / 3)
    assert originality(text, []) == 1.0
