"""Retry-After, as servers send it."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from empathy_trl.models.api import retry_after


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        (timedelta(seconds=30), 25, 30),
        (timedelta(days=-1), 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("", 0, 0),
    ],
)
def test_retry_after(value, low, high):
    if isinstance(value, timedelta):
        value = format_datetime(datetime.now(UTC) + value, usegmt=True)
    assert low <= retry_after({"retry-after": value}) <= high
