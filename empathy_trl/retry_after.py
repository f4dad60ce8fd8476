"""How long a server asks to wait before it is asked again."""

import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` asks for, a number or a date (RFC 9110, 10.2.3); 0 without a usable one."""
    value = headers.get("retry-after", "").strip()
    try:
        if value.isdecimal():
            return float(value)
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # not a date, or one without a zone
        return 0.0
