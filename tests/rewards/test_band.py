"""The soft band as a table: 10 to 20, slopes of 4."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.base import band, check_band


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
