"""`emotion_accuracy` as a table of (completion, label, expected, why)."""

import pickle

import pytest

from empathy_trl.data.ed4 import LABELS
from empathy_trl.errors import UserError
from empathy_trl.rewards.emotion import EMOTIONS, EmotionAccuracy

INVALID = -0.5
CASES = [
    ("<reasoning>He died.</reasoning><answer>sad</answer>", "sad", 1.0, "right"),
    ("<answer>sad</answer>", "sad", 1.0, "right, whatever the format"),
    ("<answer> Sad\n</answer>", "sad", 1.0, "case and space do not count"),
    ("<answer>sad</answer>", " SAD ", 1.0, "nor in the data"),
    ("<answer>angry</answer>", "sad", 0.0, "wrong"),
    ("<answer>sad, or angry</answer>", "sad", INVALID, "not one of the labels"),
    ("<answer>melancholy</answer>", "sad", INVALID, "outside the label set"),
    ("<answer>sad.</answer>", "sad", INVALID, "exact match"),
    ("<answer></answer>", "sad", INVALID, "empty answer"),
    ("<answer>sad</answer><answer>sad</answer>", "sad", INVALID, "answered twice, even if the same"),
    ("<answer>sad</answer><answer>angry</answer>", "sad", INVALID, "tries two"),
    ("I think sad", "sad", INVALID, "no tag"),
    ("<answer>sad", "sad", INVALID, "cut off"),
    ("", "sad", INVALID, "empty completion"),
    ("<answer>sad</answer>", None, None, "no label, not applicable"),
]


@pytest.mark.parametrize(("completion", "label", "expected", "why"), CASES)
@pytest.mark.parametrize("chat", [False, True], ids=["text", "messages"])
def test_table(completion, label, expected, why, chat):
    shown = [{"role": "assistant", "content": completion}] if chat else completion
    assert EmotionAccuracy(invalid=INVALID)(["p"], [shown], label=[label]) == [expected], why


def test_an_invalid_answer_is_only_wrong_by_default():
    assert EmotionAccuracy()(["p"], ["no idea"], label=["sad"]) == [0.0]


def test_logs_the_share_of_invalid_answers_and_ignores_other_columns():
    logged = []
    reward = EmotionAccuracy()
    completions = ["<answer>sad</answer>", "<answer>angry</answer>", "?", "<answer>?</answer>"]
    rewards = reward(
        ["p"] * 4,
        completions,
        [[1]] * 4,
        label=["sad"] * 4,
        text=["t"] * 4,
        log_metric=lambda name, value: logged.append((name, value)),
    )
    assert rewards == [1.0, 0.0, 0.0, 0.0]
    assert logged == [("invalid_share", 0.5)]


def test_own_labels():
    assert EmotionAccuracy(labels=["Joy", "Fear"])(["p"], ["<answer>joy</answer>"], label=["Joy"]) == [1.0]


@pytest.mark.parametrize(
    ("parameters", "columns", "message"),
    [
        ({}, {}, "rewards.emotion_accuracy: needs a column `label`"),
        ({}, {"label": ["happy"]}, "label 'happy' .*labels: sad, joyful, angry, afraid"),
        ({"invalid": 0.5}, {}, "invalid: 0.5 must not be above 0"),
        ({"labels": ["sad"]}, {}, "labels: expected at least two"),
        ({"labels": ["sad", "Sad"]}, {}, "labels: expected at least two"),
    ],
)
def test_errors_name_the_culprit(parameters, columns, message):
    with pytest.raises(UserError, match=message):
        EmotionAccuracy(**parameters)(["p"], ["<answer>sad</answer>"], **columns)


def test_the_labels_are_those_of_the_data():
    assert tuple(LABELS) == EMOTIONS


def test_pickles_and_has_its_name():
    reward = pickle.loads(pickle.dumps(EmotionAccuracy(invalid=INVALID)))
    assert reward == EmotionAccuracy(invalid=INVALID)
    assert reward.__name__ == "emotion_accuracy"
