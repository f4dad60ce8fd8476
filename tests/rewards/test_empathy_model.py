"""`empathy_model`: three calibrations of a regressor's number, against numbers worked out by hand."""

import math
import pickle

import numpy as np
import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.learned import EmpathyModel, add_to_moments

SCORES = {"cold": [3.0, 1.0], "tepid": [3.0, 2.0], "warm": [3.0, 3.0], "hot": [3.0, 7.0], "icy": [3.0, -2.0]}
NAMES = {"id2label": {0: "Emotion", 1: "Empathy"}}
RANGES = {"label_ranges": {"Emotion": [1, 7], "Empathy": [0, 5]}}


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def score(reward, *replies):
    return reward.score(["p"] * len(replies), list(replies))


@pytest.mark.parametrize(
    ("parameters", "reply", "expected", "why"),
    [
        ({}, "cold", 0.2, "1 of 0 to 5"),
        ({}, "<answer>warm</answer>", 0.6, "3 of 0 to 5"),
        ({}, "hot", 1.0, "above the range"),
        ({}, "icy", 0.0, "below the range"),
        ({"label_range": [1, 3]}, "tepid", 0.5, "a range that is given goes first"),
        ({"dimension": "Emotion"}, "cold", 1 / 3, "3 of 1 to 7"),
        ({"dimension": "empathy"}, "cold", 0.2, "any case"),
        ({}, "", 0.0, "empty"),
    ],
)
def test_range(make_classifier, parameters, reply, expected, why):
    reward = EmpathyModel(model=make_classifier(SCORES, **NAMES, **RANGES), **parameters)
    assert score(reward, reply) == [pytest.approx(expected, abs=1e-4)], why


def test_a_model_from_elsewhere_needs_its_range_and_its_names(make_classifier):
    folder = make_classifier(SCORES)
    reward = EmpathyModel(model=folder, dimension="LABEL_1", label_range=[0, 5])
    assert score(reward, "cold") == [pytest.approx(0.2, abs=1e-4)]
    for parameters, message in (
        (
            {"dimension": "LABEL_1"},
            r"label_range: the model's config.json has no label_ranges for LABEL_1; give .lowest",
        ),
        ({}, r"dimension: the model has no output 'Empathy' \(choices: LABEL_0, LABEL_1\)"),
    ):
        with pytest.raises(UserError, match=f"^rewards.empathy_model: {message}"):
            EmpathyModel(model=folder, **parameters).load()


@pytest.mark.parametrize("temperature", [0.6, 2.0])
def test_zscore_sigmoid_over_the_batch(make_classifier, temperature):
    reward = EmpathyModel(model=make_classifier(SCORES, **NAMES), calibration="zscore_sigmoid", temperature=temperature)
    z = math.sqrt(1.5)  # 1, 2, 3 have the mean 2 and the standard deviation sqrt(2 / 3)
    expected = [sigmoid(-z / temperature), 0.5, sigmoid(z / temperature)]
    np.testing.assert_allclose(score(reward, "cold", "tepid", "warm"), expected, atol=1e-4)
    # an empty reply earns 0 and moves nobody
    np.testing.assert_allclose(
        score(reward, "warm", "", "cold", "tepid"), [expected[2], 0, expected[0], 0.5], atol=1e-4
    )


@pytest.mark.parametrize("calibration", ["zscore_sigmoid", "running"])
@pytest.mark.parametrize("replies", [["warm"], ["warm", "warm", "warm"]], ids=["one", "equal"])
def test_without_a_deviation_the_reward_is_in_the_middle(make_classifier, calibration, replies):
    reward = EmpathyModel(model=make_classifier(SCORES, **NAMES), calibration=calibration)
    assert score(reward, *replies) == [0.5] * len(replies)


def test_running_moments_count_all_that_was_seen(make_classifier):
    reward = EmpathyModel(model=make_classifier(SCORES, **NAMES), calibration="running")
    np.testing.assert_allclose(score(reward, "cold", "warm", ""), [sigmoid(-1 / 0.6), sigmoid(1 / 0.6), 0], atol=1e-4)
    assert score(reward, "") == [0.0]
    # seen so far: 1, 3 and now 2, 2; the mean stays 2, the standard deviation is sqrt(1 / 2)
    assert score(reward, "tepid", "tepid") == pytest.approx([0.5, 0.5], abs=1e-4)
    copy = pickle.loads(pickle.dumps(reward))
    for one in (reward, copy):
        # 1, 3, 2, 2, 7: mean 3, variance (4 + 0 + 1 + 1 + 16) / 5
        assert score(one, "hot") == [pytest.approx(sigmoid(4 / math.sqrt(4.4) / 0.6), abs=1e-4)]


def test_welford_agrees_with_numpy_far_from_zero():
    values = np.random.default_rng(0).normal(1e6, 1, 1000)
    seen = (0, 0.0, 0.0)
    for part in np.array_split(values, [1, 10, 500]):
        seen = add_to_moments(seen, part)
    count, mean, squares = seen
    assert (count, mean) == (1000, pytest.approx(values.mean(), rel=1e-12))
    assert math.sqrt(squares / count) == pytest.approx(values.std(), rel=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"calibration": "zscore"}, r"calibration: unknown 'zscore' \(choices: range, zscore_sigmoid, running\)"),
        ({"temperature": 0.0}, "temperature: 0.0 must be above 0"),
    ],
)
def test_parameters(parameters, message):
    with pytest.raises(UserError, match=message):
        EmpathyModel(model="m", **parameters)
