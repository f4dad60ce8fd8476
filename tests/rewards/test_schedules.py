"""Reward weights over the course of a training."""

import pytest

from empathy_trl.rewards.base import WeightSchedule, weight_at

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
