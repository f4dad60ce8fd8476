"""`predict`: raw numbers of a regressor, probabilities of a classifier."""

import math

import pytest

from empathy_trl.errors import UserError
from empathy_trl.models.scorer import predict

NAMES = {"id2label": {0: "Emotion", 1: "EmotionalPolarity", 2: "Empathy"}}
SCORES = {"i am sorry": [1.5, 0.5, 5.25], "ok": [0.0, 1.0, -0.25], ("a", "b"): [0.0, math.log(3), 1.0]}


def test_a_regressor_answers_in_the_units_of_its_labels(make_classifier):
    folder = make_classifier(SCORES, **NAMES, label_ranges={"Empathy": [0, 5]}, problem_type="regression")
    found = predict(folder, ["ok", "i am sorry", "ok"])
    expected = [
        {"Emotion": 0.0, "EmotionalPolarity": 1.0, "Empathy": -0.25},
        {"Emotion": 1.5, "EmotionalPolarity": 0.5, "Empathy": 5.25},
    ]
    assert found == [pytest.approx(expected[index], abs=1e-4) for index in (0, 1, 0)]  # not clipped
    assert type(found[0]["Emotion"]) is float
    assert predict(folder, []) == []


def test_a_classifier_answers_by_group_and_label(make_classifier):
    groups = [["reactions", ["0", "1"]], ["intent", ["any"]]]
    folder = make_classifier(SCORES, label_groups=groups, problem_type="single_label_classification")
    (found,) = predict(folder, [("a", "b")])
    assert found == {"reactions": pytest.approx({"0": 0.25, "1": 0.75}, abs=1e-4), "intent": {"any": 1.0}}


def test_a_model_that_does_not_say_its_kind(make_classifier):
    folder = make_classifier(SCORES, **NAMES)
    assert predict(folder, ["ok"], problem_type="regression")[0]["Empathy"] == pytest.approx(-0.25, abs=1e-4)
    assert list(predict(folder, ["ok"], problem_type="single_label_classification")[0]) == ["label"]
    with pytest.raises(
        UserError, match=r"classifier: problem_type in its config.json is None; give problem_type \(choices:"
    ):
        predict(folder, ["ok"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("ok", "texts: a single string; expected a list of them"),
        (["ok", None], r"texts\[1\]: null is neither a string nor"),
        ([3], r"texts\[0\]: 3 is neither"),
        ([("a", None)], r"texts\[0\]: .* is neither"),
        ([("a", "b", "c")], r"texts\[0\]: .* is neither"),
    ],
)
def test_texts_of_the_wrong_kind(make_classifier, texts, message):
    folder = make_classifier(SCORES, **NAMES, problem_type="regression")
    with pytest.raises(UserError, match=message):
        predict(folder, texts)
