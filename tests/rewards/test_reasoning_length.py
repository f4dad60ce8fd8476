"""`reasoning_length` as a table of (completion, expected, why): 3 to 5 words, slopes of 2."""

import pickle

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.format import ReasoningLength


def reasoned(words):
    return f"<reasoning>{' '.join(['word'] * words)}</reasoning><answer>sad</answer>"


CASES = [
    (reasoned(3), 1.0, "shortest"),
    (reasoned(4), 1.0, "inside"),
    (reasoned(5), 1.0, "longest"),
    (reasoned(2), 0.5, "one short: half way down the slope"),
    (reasoned(6), 0.5, "one too many"),
    (reasoned(1), 0.0, "end of the slope"),
    (reasoned(7), 0.0, "end of the other slope"),
    (reasoned(90), 0.0, "far outside, never below 0"),
    (reasoned(0), 0.0, "empty reasoning"),
    ("<reasoning>one,\n two\tthree</reasoning>", 1.0, "any white space separates words"),
    ("one two three four", 0.0, "no reasoning tag"),
    ("<reasoning>one two three four", 0.0, "cut off"),
    (reasoned(4) + reasoned(4), 0.0, "reasons twice"),
]


@pytest.mark.parametrize(("completion", "expected", "why"), CASES)
@pytest.mark.parametrize("chat", [False, True], ids=["text", "messages"])
def test_words(completion, expected, why, chat):
    shown = [{"role": "assistant", "content": completion}] if chat else completion
    assert ReasoningLength(min=3, max=5, softness=2)(["p"], [shown]) == [expected], why


@pytest.mark.parametrize(("tokens", "expected"), [(9, 0.75), (10, 1.0), (20, 1.0), (22, 0.5), (24, 0.0), (0, 0.0)])
def test_tokens_are_those_of_the_whole_completion(tokens, expected):
    reward = ReasoningLength(min=10, max=20, unit="tokens", softness=4)
    assert reward(["p"], ["<reasoning>short</reasoning>"], [[7] * tokens]) == [expected]


@pytest.mark.parametrize(("words", "expected"), [(2, 0.0), (3, 1.0), (5, 1.0), (6, 0.0)])
def test_a_band_without_slopes_is_hard(words, expected):
    assert ReasoningLength(min=3, max=5, softness=0)(["p"], [reasoned(words)]) == [expected]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min": 9, "max": 3}, "got min 9 and max 3"),
        ({"min": -1}, "got min -1"),
        ({"unit": "letters"}, r"unknown unit 'letters' \(choices: words, tokens\)"),
        ({"softness": -1.0}, "softness: -1.0 must not be below 0"),
    ],
)
def test_impossible_parameters(parameters, message):
    with pytest.raises(UserError, match=message):
        ReasoningLength(**parameters)


def test_tokens_need_completion_ids():
    with pytest.raises(UserError, match="needs completion_ids"):
        ReasoningLength(unit="tokens")(["p"], ["text"])


def test_only_words_need_the_tag():
    assert ReasoningLength().tags == ["reasoning"]
    assert ReasoningLength(unit="tokens").tags == []


def test_pickles_and_has_its_name():
    reward = pickle.loads(pickle.dumps(ReasoningLength(min=3, max=5)))
    assert reward == ReasoningLength(min=3, max=5)
    assert reward.__name__ == "reasoning_length"
