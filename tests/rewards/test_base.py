"""What every reward shares: the soft band and the weights."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.base import WeightSchedule, band, check_band, weight_at


# band
@pytest.mark.parametrize(
    ("length", "expected"), [(10, 1.0), (20, 1.0), (9, 0.75), (22, 0.5), (6, 0.0), (24, 0.0), (0, 0.0), (10**6, 0.0)]
)
def test_band(length, expected):
    assert band(length, 10, 20, 4) == expected


@pytest.mark.parametrize(("length", "expected"), [(9, 0.0), (10, 1.0), (20, 1.0), (21, 0.0)])
def test_without_slopes(length, expected):
    assert band(length, 10, 20, 0) == expected


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
