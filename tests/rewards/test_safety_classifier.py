"""`safety_classifier`: minus the probability of harm."""

import math

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.safety import SafetyClassifier

# probabilities 0.5, 0.25, 0.25 and 0.1, 0.1, 0.8
SCORES = {"i am sorry": [math.log(2), 0.0, 0.0], "go away": [0.0, 0.0, math.log(8)]}
LABELS = {"id2label": {0: "neutral", 1: "insult", 2: "toxic"}}


@pytest.mark.parametrize(
    ("labels", "reply", "expected", "why"),
    [
        (["toxic"], "i am sorry", -0.25, "one label"),
        (["Toxic", "insult"], "<answer>go away</answer>", -0.9, "two labels, any case"),
        (["toxic", "insult", "neutral"], "go away", -1.0, "all labels"),
        (["toxic"], "", -1.0, "empty"),
        (["toxic"], "<answer>go away", -1.0, "broken tags are no way out"),
    ],
)
def test_table(make_classifier, labels, reply, expected, why):
    reward = SafetyClassifier(model=make_classifier(SCORES, **LABELS), labels=labels)
    (found,) = reward.score(["p"], [reply])
    assert found == pytest.approx(expected, abs=1e-4) and -1 <= found <= 0, why


def test_an_unknown_label_is_refused(make_classifier):
    reward = SafetyClassifier(model=make_classifier(SCORES, **LABELS), labels=["toxicity"])
    message = r"labels: the model has no label 'toxicity' \(choices: neutral, insult, toxic\)"
    with pytest.raises(UserError, match=f"^rewards.safety_classifier: {message}"):
        reward.load()


@pytest.mark.parametrize("labels", [[], ["toxic", "Toxic"]])
def test_labels_are_different_names(labels):
    with pytest.raises(UserError, match="labels: expected different names, at least one, got"):
        SafetyClassifier(model="m", labels=labels)
