"""`format_penalty` as a table of (reply, expected, why)."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.format import FormatPenalty

CASES = [
    ("I am sorry. Have you seen <movie>?", 0, "as asked"),
    ("<movie>", 0, "a placeholder alone"),
    ("<movie><movie>, 3 < 4, I <3 it", 0, "other signs"),
    ("A good movie: you may like it", 0, "the word is not the placeholder"),
    ("The user: a human", 0, "inside a line"),
    ("mail me@home, @you", 0, "no id"),
    ("", -1, "empty"),
    ("\u200b", -1, "invisible"),
    ("Try <movie", -1, "never closed"),
    ("Try movie>", -1, "never opened"),
    ("Try < movie >", -1, "with spaces"),
    ("Try </movie>", -1, "closing"),
    ("Try <MOVIE>", -1, "in another case"),
    ("Try <movies>", 0, "another word in brackets is not ours to judge"),
    ("Try <movie>. Or <mo", -1, "cut off"),
    ("Try <movie>movie>", -1, "one whole, one broken"),
    ("User: hello", -1, "a speaker's name"),
    ("Hello!\n  recommender : try it", -1, "on a later line"),
    ("**Assistant:** hi", -1, "in bold"),
    ("Hi<|im_end|>", -1, "a token of a template"),
    ("[INST] Hi [/INST]", -1, "of Llama 2"),
    ("<start_of_turn>Hi", -1, "of Gemma"),
    ("Try @111776", -1, "an id"),
    ("<answer>Try <movie></answer>", 0, "the reply in its tag"),
    ("<answer>Try <movie>", -1, "an unclosed tag holds no reply"),
]


@pytest.mark.parametrize(("completion", "expected", "why"), CASES)
def test_table(completion, expected, why):
    assert FormatPenalty()(["p"], [completion]) == [expected], why


def test_a_placeholder_of_ones_own():
    assert FormatPenalty(placeholder="<film>")(None, ["a <film>", "a <film", "a <movie"]) == [0, -1, 0]


@pytest.mark.parametrize("placeholder", ["", "movie", "<>", "<a b>"])
def test_impossible_placeholders(placeholder):
    with pytest.raises(UserError, match="is not a word in angle brackets, such as <movie>"):
        FormatPenalty(placeholder=placeholder)
