"""`length` as a table of (completion, expected, why): 3 to 5 words, slopes of 4."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.format import Length

CASES = [
    ("one two three", 1.0, "shortest"),
    ("one, two, three, four, five!", 1.0, "longest; punctuation is not counted"),
    ("one two", 0.75, "one short"),
    ("one two three four five six seven", 0.5, "two too many"),
    ("one " * 9, 0.0, "end of the slope"),
    ("", 0.0, "empty, although the slope would give 0.25"),
    ("...", 0.0, "no word"),
    ("你好世界", 1.0, "four characters"),
    (
        "<reasoning>so many words to think about it all</reasoning><respond>one two three</respond>",
        1.0,
        "the reply only",
    ),
    ("<respond>one two three", 0.0, "an unclosed tag holds no reply"),
]


@pytest.mark.parametrize(("completion", "expected", "why"), CASES)
def test_table(completion, expected, why):
    assert Length(min=3, max=5, softness=4)(["p"], [completion]) == [expected], why


def test_the_whole_completion_counts_if_no_tag_holds_the_reply():
    assert Length(min=2, max=2, softness=0, reply_tags=[])(["p"], ["<answer>"]) == [0.0]
    assert Length(min=3, max=3, softness=0, reply_tags=[])(["p"], ["<answer>so</answer>"]) == [1.0]


def test_impossible_band():
    with pytest.raises(UserError, match="got min 9 and max 3"):
        Length(min=9, max=3)
