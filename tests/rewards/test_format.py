"""`format` as a table of (completion, full credit, partial credit, why) for the tags reasoning and answer.

Partial credit is (well-formed tags + in order + clean) / 4.
"""

import pickle

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.format import Format

CASES = [
    ("<reasoning>r</reasoning><answer>a</answer>", 1, 1.0, "as asked"),
    (" <reasoning>\nr\n</reasoning>\n\n<answer>a</answer>\n", 1, 1.0, "white space is free"),
    ("<reasoning>1 < 2 <b>é</b></reasoning><answer>a</answer>", 1, 1.0, "other markup in a body"),
    ("", 0, 0.0, "empty"),
    ("r a", 0, 0.0, "no tags"),
    ("<reasoning>r</reasoning>", 0, 0.25, "one of two"),
    ("<answer>a</answer>", 0, 0.25, "the other of two"),
    ("<reasoning>r</reasoning><answer>a", 0, 0.25, "cut off"),
    ("<reasoning>r<answer>a</answer>", 0, 0.25, "reasoning not closed"),
    ("</reasoning>r<reasoning><answer>a</answer>", 0, 0.25, "closed before it is opened"),
    ("<reasoning>r</reasoning><answer> </answer>", 0, 0.25, "empty answer"),
    ("<answer>a</answer><reasoning>r</reasoning>", 0, 0.5, "wrong order"),
    ("<reasoning>r<answer>a</answer></reasoning>", 0, 0.5, "nested"),
    ("<reasoning><answer>a</answer></reasoning>", 0, 0.5, "nested, with nothing else inside"),
    ("<reasoning>r<answer></reasoning>a</answer>", 0, 0.5, "overlapping"),
    ("<reasoning>r</reasoning> so <answer>a</answer>", 0, 0.75, "text between"),
    ("Well <reasoning>r</reasoning><answer>a</answer>", 0, 0.75, "text before"),
    ("<reasoning>r</reasoning><answer>a</answer>!", 0, 0.75, "text after"),
    ("<reasoning>r</reasoning><answer>a</answer><answer>a</answer>", 0, 0.25, "repeated"),
    ("<reasoning>r</reasoning><answer>a</answer></answer>", 0, 0.25, "closed twice"),
    ("<Reasoning>r</Reasoning><answer>a</answer>", 0, 0.25, "tags are case-sensitive"),
]


@pytest.mark.parametrize(("completion", "full", "partial", "why"), CASES)
@pytest.mark.parametrize("chat", [False, True], ids=["text", "messages"])
def test_table(completion, full, partial, why, chat):
    shown = [{"role": "assistant", "content": completion}] if chat else completion
    assert Format()(["p"], [shown]) == [float(full)], why
    assert Format(partial=True)(["p"], [shown]) == [partial], why


@pytest.mark.parametrize(
    ("tags", "completion", "expected"),
    [
        (["react", "respond", "reflect"], "<react>a</react><respond>b</respond><reflect>c</reflect>", 1.0),
        (["react", "respond", "reflect"], "<react>a</react><reflect>c</reflect><respond>b</respond>", 3 / 5),
        (["answer"], "<answer>a</answer>", 1.0),
        (["answer"], "so <answer>a</answer>", 2 / 3),
        (["a", "b"], "<a><b></b></a>", 0.0),
    ],
)
def test_any_list_of_tags(tags, completion, expected):
    assert Format(tags=tags, partial=True)(["p"], [completion]) == [expected]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([], "at least one"),
        (["answer", "answer"], "different names"),
        (["<answer>"], "'<answer>' is not a tag name"),
    ],
)
def test_impossible_tags(tags, message):
    with pytest.raises(UserError, match=message):
        Format(tags=tags)


def test_pickles_and_has_its_name():
    reward = pickle.loads(pickle.dumps(Format(partial=True)))
    assert reward == Format(partial=True)
    assert reward.__name__ == "format"
    assert reward.tags == ["reasoning", "answer"]
