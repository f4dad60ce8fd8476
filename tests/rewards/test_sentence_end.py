"""`sentence_end` as a table of (completion, expected, why)."""

import pytest

from empathy_trl.rewards.format import SentenceEnd

CASES = [
    ("I am sorry.", 1, "full stop"),
    ("Are you ok?!", 1, "several marks"),
    ("That is hard…", 1, "one character of three dots"),
    ("That is hard...", 1, "three dots"),
    ("我很难过。", 1, "Chinese"),
    ("真的吗？", 1, "wide question mark"),
    ("すごい！", 1, "wide exclamation mark"),
    ("هل أنت بخير؟", 1, "Arabic"),
    ("मुझे खेद है।", 1, "Hindi"),
    ("I see. 😢", 1, "emoji after the full stop"),
    ("Great!👍🏽❤️🇩🇪", 1, "with skin tone, variation selector and flag"),
    ("She said “I am fine.”", 1, "closing quote"),
    ("„Es wird gut.“", 1, "German closing quote"),
    ("(It will pass.)", 1, "closing bracket"),
    ("他说「没事。」", 1, "closing corner bracket"),
    ("*It will pass.*", 1, "Markdown"),
    ("بخير؟\u200f", 1, "an invisible direction mark behind"),
    ("I am sorry. \n", 1, "white space behind"),
    ("<reasoning>r</reasoning><answer>I see.</answer>", 1, "the reply in its tag"),
    ("I am sorry", 0, "no punctuation"),
    ("I am sorry 😢", 0, "an emoji is no punctuation"),
    ("I am sorry,", 0, "comma"),
    ("I am sorry that:", 0, "colon"),
    ("I see. And then", 0, "cut off in the second sentence"),
    ("<answer>I see</answer>", 0, "the tag's own characters end nothing"),
    ("<answer>I see.", 0, "a reply that cannot be told apart is none"),
    ("...", 0, "no word"),
    ("😢", 0, "emoji only"),
    ("", 0, "empty"),
]


@pytest.mark.parametrize(("completion", "expected", "why"), CASES)
def test_table(completion, expected, why):
    assert SentenceEnd()(["p"], [completion]) == [float(expected)], why
