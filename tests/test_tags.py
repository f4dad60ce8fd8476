"""Completions are read the same way everywhere."""

import pytest

from empathy_trl.tags import completion_text, reply_text, tag_bodies, tag_marks, user_text


@pytest.mark.parametrize(
    "completion, expected",
    [
        ("hello", "hello"),
        ([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], "ab"),
        ([{"role": "assistant", "content": None}], ""),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}], "a"),
        ([], ""),
    ],
)
def test_text_of_a_completion(completion, expected):
    assert completion_text(completion) == expected


@pytest.mark.parametrize(
    "text, expected, why",
    [
        ("  I am sorry. ", "I am sorry.", "no tags: the whole completion"),
        ("<reasoning>r</reasoning><answer> a </answer>", "a", "the body of the tag"),
        ("<react>*nods*</react><respond>b</respond><reflect>c</reflect>", "b", "another reply tag"),
        ("<reasoning>r</reasoning> words", "<reasoning>r</reasoning> words", "no reply tag at all"),
        ("<answer>a", "", "never closed"),
        ("a</answer>", "", "never opened"),
        ("<answer>a</answer><answer>b</answer>", "", "two answers"),
        ("<answer>a</answer><respond>b</respond>", "", "two kinds of reply"),
        ("<answer><answer>a</answer></answer>", "", "one inside the other"),
        ("<answer>a <reasoning>b</reasoning></answer>", "a  b", "other tags inside are no words"),
        ("<answer>see <url> or <email></answer>", "see <url> or <email>", "what stands for an address is a word"),
        ("<answer>I loved <movie>!</answer>", "I loved <movie>!", "and so is what stands for a film"),
        ("<answer></answer>", "", "empty"),
        ("", "", "nothing"),
    ],
)
def test_reply(text, expected, why):
    assert reply_text(text) == expected, why
    assert reply_text([{"role": "assistant", "content": text}]) == expected, why


def test_reply_without_tags_asked_for_is_the_whole_completion():
    assert reply_text("<answer>a</answer>", ()) == "<answer>a</answer>"
    assert reply_text("<answer>a</answer><say>b</say>", ["say"]) == "b"


@pytest.mark.parametrize(
    "prompt, expected",
    [
        (" I failed. ", "I failed."),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": " u "}], "u"),
        (
            [{"role": "user", "content": "1"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "2"}],
            "2",
        ),
        ([{"role": "system", "content": "s"}], ""),
    ],
)
def test_what_the_user_said_last(prompt, expected):
    assert user_text(prompt) == expected


def test_bodies_of_a_tag():
    assert tag_bodies("<a> 1 </a><a>2</a>", "a") == ["1", "2"]


def test_marks_of_tags():
    assert tag_marks(("react", "answer")) == ["<react>", "</react>", "<answer>", "</answer>"]
