"""`stage_format` as a table of (completion, partial credit, why): (well-formed + in order + clean) / 5."""

import pytest

from empathy_trl.rewards.format import StageFormat
from empathy_trl.tags import read_parts
from tests.rewards.three_parts import REPLY

A, B, C = "<react>*a* + *b*</react>", "<respond>Hello.</respond>", "<reflect>They are well.</reflect>"
CASES = [
    (f"{A}\n{B}\n{C}", 1.0, "as asked"),
    (f"  {A}{B}\n\n{C}\n", 1.0, "white space is free"),
    ("", 0.0, "empty"),
    ("Hello.", 0.0, "no tags"),
    (A, 1 / 5, "one of three"),
    (f"{A}\n{B}", 2 / 5, "two of three"),
    (f"{A}\n{B}\n<reflect>They are", 2 / 5, "cut off"),
    (f"{A}\n{B}\n<reflect> </reflect>", 2 / 5, "an empty part"),
    (f"{A}\n{C}\n{B}", 3 / 5, "thinks before it speaks"),
    (f"{A}\n<respond>Hello. {C}</respond>", 3 / 5, "nested"),
    (f"Well. {A}\n{B}\n{C}", 4 / 5, "text before"),
    (f"{A}\n{B}\n{C}{C}", 2 / 5, "thinks twice"),
]


@pytest.mark.parametrize(("completion", "expected", "why"), CASES)
@pytest.mark.parametrize("chat", [False, True], ids=["text", "messages"])
def test_table(completion, expected, why, chat):
    shown = [{"role": "assistant", "content": completion}] if chat else completion
    assert StageFormat()(["p"], [shown]) == [pytest.approx(expected)], why
    assert StageFormat(partial=False)(["p"], [shown]) == [float(expected == 1)], why
    assert (read_parts(completion) is not None) == (expected == 1), why


def test_its_tags():
    assert StageFormat().tags == ["react", "respond", "reflect"]
    assert StageFormat()(["p"], [REPLY]) == [1.0]
