"""Metrics with a classifier: chosen opinions of chosen texts give values worked out by hand."""

import numpy as np
import pytest

from empathy_trl.data.labelled import MECHANISMS
from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.reply_classifiers import judge_replies, load_classifiers
from tests.evaluation.metrics.loaded import load

PROMPTS = ["my dog died", "i won", "my dog died"]
LEVELS = {"so sorry": (2, 1, 0), "great": (1, 1, 0), "how": (0, 1, 2)}
REPLIES, REFERENCES = ["so sorry", "how", ""], ["great", "great", "so sorry"]


@pytest.fixture
def epitome(make_classifier):
    logits = {
        (prompt, text): np.concatenate([np.eye(3)[level] * 4 for level in levels]).tolist()
        for prompt in set(PROMPTS)
        for text, levels in LEVELS.items()
    }
    return make_classifier(logits, label_groups=[[mechanism, ["0", "1", "2"]] for mechanism in MECHANISMS])


@pytest.fixture
def emotion(make_classifier):
    chosen = {"so sorry": [4.0, 0.0], "great": [0.0, 4.0], "how": [4.0, 0.0]}
    return make_classifier(chosen, id2label={0: "sad", 1: "joyful"}, num_labels=2)


def test_levels_by_hand(epitome):
    given = {"predictions": REPLIES, "references": REFERENCES, "prompts": PROMPTS, "model": epitome}
    found = load("epitome").compute(**given)
    ours, theirs = np.array([2, 0, 0]), np.array([1, 1, 2])
    name = "epitome_emotional_reactions"
    assert found[name] == pytest.approx(ours.mean()) and found[f"{name}_reference"] == pytest.approx(theirs.mean())
    assert found[f"{name}_difference"] == pytest.approx((ours - theirs).mean())
    assert found[f"{name}_mse"] == pytest.approx(((ours - theirs) ** 2).mean())
    assert found[f"{name}_mse_of_level_0"] == pytest.approx((theirs**2).mean())
    assert found[f"{name}_pearson"] == pytest.approx(np.corrcoef(ours, theirs)[0, 1])
    assert found["epitome_interpretations_pearson"] is None  # the references are constant
    assert found["n"] == 3 and len(found) == 3 * 6 + 1


def test_levels_are_those_of_a_report(epitome):
    given = {"predictions": REPLIES, "references": REFERENCES, "prompts": PROMPTS, "model": epitome}
    found = load("epitome").compute(**given, intervals=True)
    report = judge_replies(load_classifiers({"epitome": epitome}), PROMPTS, REPLIES, REFERENCES, None)
    name = "epitome_emotional_reactions"
    assert found[f"{name}_pearson"] == report.metrics[f"{name}_pearson"]
    assert found[f"{name}_reference"] == report.baselines["reference"][name]
    assert found[f"{name}_mse_of_level_0"] == report.baselines["constant_0"][f"{name}_mse"]


def test_a_row_without_a_prompt_does_not_count(epitome):
    metric = load("epitome")
    given = {"predictions": REPLIES, "references": REFERENCES, "model": epitome}
    found = metric.compute(**given, prompts=["", *PROMPTS[1:]])
    assert found["n"] == 2 and found["epitome_emotional_reactions"] == 0.0
    with pytest.raises(UserError, match=r"^prompts: all are empty; expected what was replied to$"):
        metric.compute(**given, prompts=["", " ", ""])


def test_emotions_by_hand(emotion):
    metric = load("emo_acc")
    found = metric.compute(
        predictions=["so sorry", "great", "how", ""], references=["Sad", "sad", "sad", "joyful"], model=emotion
    )
    assert found == {"emo_acc": 2 / 4, "emo_acc_majority": 3 / 4}
    full = metric.compute(predictions=["so sorry"], references=["sad"], model=emotion, intervals=True)
    assert full["emo_acc"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}


def test_intents_by_hand(emotion):
    found = load("intent_acc").compute(
        predictions=["so sorry", "great", ""], references=["how", "how", "great"], model=emotion
    )
    assert found == {"intent_acc": pytest.approx(1 / 3), "intent_acc_majority": pytest.approx(2 / 3)}


def test_an_emotion_that_the_classifier_does_not_know_is_named(emotion):
    with pytest.raises(
        UserError, match=r"^model: the data has the emotion 'angry', which .* \(its labels: sad, joyful\)"
    ):
        load("emo_acc").compute(predictions=["how"], references=["angry"], model=emotion)


def test_a_classifier_of_another_kind_is_refused(emotion):
    with pytest.raises(
        UserError, match=r"^model: the model's groups of labels are label; expected emotional_reactions"
    ):
        load("epitome").compute(predictions=["how"], references=["how"], prompts=["i won"], model=emotion)
