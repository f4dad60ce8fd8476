"""What rewards share: the soft band, weights, and of those with a model which rows are asked, threads, names and failures."""

import asyncio
import pickle
import time

import numpy as np
import pytest
import torch
from trl.trainer.utils import is_async_callable

from empathy_trl.errors import UserError
from empathy_trl.models import scorer
from empathy_trl.models.scorer import Scorer
from empathy_trl.rewards.base import WeightSchedule, band, check_band, weight_at
from empathy_trl.rewards.emotion import EmotionAlignment
from empathy_trl.rewards.learned import EmpathyModel, Epitome, QualityCritic, RewardModel, SemanticSimilarity
from empathy_trl.rewards.safety import SafetyClassifier

SCORES = {"i am sorry": [1.0, 4.0], "ok": [2.0, 0.0]}
REGRESSOR = {
    "id2label": {0: "Emotion", 1: "Empathy"},
    "label_ranges": {"Emotion": [0, 5], "Empathy": [0, 5]},
    "problem_type": "regression",
}
CLASSIFIER = {"id2label": {0: "kind", 1: "toxic"}, "problem_type": "single_label_classification"}
SCALAR = {"id2label": {0: "overall"}, "problem_type": "regression"}
CHAT = [{"role": "user", "content": "my dog died"}]

KINDS = {
    "empathy_model": (EmpathyModel, REGRESSOR, {}, (0, 1)),
    "zscore_sigmoid": (EmpathyModel, REGRESSOR, {"calibration": "zscore_sigmoid"}, (0, 1)),
    "running": (EmpathyModel, REGRESSOR, {"calibration": "running"}, (0, 1)),
    "semantic_similarity": (SemanticSimilarity, REGRESSOR, {"dimension": "Empathy"}, (0, 1)),
    "emotion_alignment": (EmotionAlignment, CLASSIFIER, {"mapping": {"sad": ["kind"]}}, (0, 1)),
    "epitome": (Epitome, CLASSIFIER, {"mechanism": "label"}, (0, 1)),
    "quality_critic": (QualityCritic, REGRESSOR, {}, (0, 1)),
    "quality_critic of pairs": (QualityCritic, REGRESSOR, {"pair": True}, (0, 1)),
    "reward_model": (RewardModel, SCALAR | {"label_ranges": {"overall": [0, 5]}}, {}, (0, 1)),
    "reward_model of pairs": (RewardModel, SCALAR | {"score_moments": {"mean": 2.0, "std": 1.0}}, {}, (0, 1)),
    "safety_classifier": (SafetyClassifier, CLASSIFIER, {"labels": ["toxic"]}, (-1, 0)),
}
# what the model of a kind says, where it is not SCORES
SCORES_OF = {name: {"i am sorry": [4.0], "ok": [1.0]} for name in ("reward_model", "reward_model of pairs")}


@pytest.fixture(params=KINDS)
def kind(request, make_classifier):
    """One reward of every kind, its parameters, and its range."""
    reward, settings, parameters, span = KINDS[request.param]
    return reward(model=make_classifier(SCORES_OF.get(request.param, SCORES), **settings), **parameters), span


@pytest.fixture
def empathy(make_classifier):
    return EmpathyModel(model=make_classifier(SCORES, **REGRESSOR))


def test_empty_replies_ask_no_model_and_a_copy_and_a_coroutine_give_the_same(kind, monkeypatch):
    reward, (low, _) = kind
    columns = {"emotion": ["sad"] * 2}
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "_forward", lambda *args: pytest.fail("asked the model"))
        assert reward.score([CHAT] * 2, ["", " "], **columns) == [low, low]
        assert reward.score([], [], emotion=[]) == []
    copy = pickle.loads(pickle.dumps(reward))
    assert copy == reward and is_async_callable(reward)
    values = reward.score([CHAT] * 2, list(SCORES), **columns)
    assert copy.score([CHAT] * 2, list(SCORES), **columns) == values
    call = reward(prompts=[CHAT] * 2, completions=list(SCORES), completion_ids=[[1], [2]], **columns)
    assert asyncio.run(call) == values


# Side by side


@pytest.mark.parametrize("devices", [("cpu", "meta"), ("cpu", "cpu")], ids=["two devices", "one device"])
def test_rewards_of_a_step_run_side_by_side_on_different_devices(empathy, make_classifier, devices, monkeypatch):
    def forward(self, batch):
        time.sleep(0.3)
        return np.zeros((len(batch["input_ids"]), 2), np.float32)

    monkeypatch.setattr(Scorer, "_forward", forward)
    monkeypatch.setattr(scorer, "resolve_device", lambda device: device)  # "meta" stands for a second device
    monkeypatch.setattr(scorer, "_dtype", lambda device: torch.float32)
    other = SafetyClassifier(model=make_classifier(SCORES, "other", **CLASSIFIER), labels=["toxic"])
    for reward, reward.device in zip((empathy, other), devices, strict=True):
        reward.load()

    async def step():  # as TRL does
        return await asyncio.gather(*(reward(prompts=[CHAT], completions=["ok"]) for reward in (empathy, other)))

    start = time.perf_counter()
    assert asyncio.run(step()) == [[0.0], [-0.5]]
    seconds = time.perf_counter() - start
    assert seconds >= 0.6 if devices[0] == devices[1] else seconds < 0.5


def test_a_model_that_does_not_fit_is_refused_when_it_is_loaded(make_classifier):
    reward = EmpathyModel(model=make_classifier(SCORES, **CLASSIFIER))
    reward.__name__ = "kindness"  # as a recipe calls it
    with pytest.raises(
        UserError, match="^rewards.kindness: model: was trained for single_label_classification; expected"
    ):
        reward.load()


HELD_OUT = {"figure": "pearson_mean", "value": 0.63, "n": 120, "split": "valid"}


@pytest.mark.parametrize(
    ("held_out", "lowest", "message"),
    [
        (HELD_OUT, 0.63, None),
        (None, None, None),
        (HELD_OUT | {"value": -0.2}, None, None),
        (HELD_OUT, 0.7, r"the model's pearson_mean is 0\.630 on 120 held-out rows \(valid\), below 0\.7; .* or lower min_held"),
        (HELD_OUT | {"figure": "pair_accuracy", "value": 0.5}, 0.6, r"the model's pair_accuracy is 0\.500 on 120"),
        (0.9, 0.6, r"held_out in the model's config\.json is 0\.9; expected figure, value, n, split"),
        (HELD_OUT | {"value": "0.9"}, 0.6, r"held_out\.value in the model's config\.json is '0\.9'; expected a number"),
        (None, 0.1, r"asks for 0\.1, but the model's config\.json has no held_out, .* leave min_held_out out"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_good_enough_is_refused_when_it_is_loaded(make_classifier, held_out, lowest, message):
    settings = REGRESSOR | ({"held_out": held_out} if held_out else {})
    reward = EmpathyModel(model=make_classifier(SCORES, **settings), min_held_out=lowest)
    if message is None:
        assert reward.load()
        return
    with pytest.raises(UserError, match=f"^rewards.empathy_model: min_held_out: {message}"):
        reward.load()


# band
BAND = [(10, 4, 1.0), (20, 4, 1.0), (9, 4, 0.75), (22, 4, 0.5), (6, 4, 0.0), (24, 4, 0.0), (0, 4, 0.0), (10**6, 4, 0.0)]
WITHOUT_SLOPES = [(9, 0, 0.0), (10, 0, 1.0), (20, 0, 1.0), (21, 0, 0.0)]


@pytest.mark.parametrize(("length", "softness", "expected"), BAND + WITHOUT_SLOPES)
def test_band(length, softness, expected):
    assert band(length, 10, 20, softness) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 3, 1), "min and max: expected 0 <= min <= max, got min 9 and max 3"),
        ((-1, 3, 1), "got min -1"),
        ((1, 3, -0.5), "softness: -0.5 must not be below 0"),
    ],
)
def test_impossible_bands(arguments, message):
    with pytest.raises(UserError, match=message):
        check_band(*arguments)


# schedules
RISING = WeightSchedule(start=0.5, end=2.0, until=0.5)


@pytest.mark.parametrize(
    "weight, progress, expected",
    [
        (1.5, 0.0, 1.5),
        (2, 0.9, 2.0),
        (RISING, 0.0, 0.5),
        (RISING, 0.25, 1.25),
        (RISING, 0.5, 2.0),
        (RISING, 1.0, 2.0),
        (WeightSchedule(start=1, end=0, until=1), 0.75, 0.25),
    ],
)
def test_weight_at(weight, progress, expected):
    assert weight_at(weight, progress) == pytest.approx(expected)
