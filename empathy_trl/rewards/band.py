"""The soft band: full reward for a length inside it, less and less outside."""

from empathy_trl.errors import UserError


def check_band(low: float, high: float, softness: float) -> None:
    """Raise UserError unless `min` and `max` are a range above 0 and `softness` is not negative."""
    if not 0 <= low <= high:
        raise UserError(f"min and max: expected 0 <= min <= max, got min {low} and max {high}")
    if softness < 0:
        raise UserError(f"softness: {softness} must not be below 0")


def band(length: float, low: float, high: float, softness: float) -> float:
    """Return 1 from `low` to `high`, falling linearly to 0 at a distance of `softness`; 0 makes the band hard."""
    distance = max(low - length, length - high, 0)
    if distance == 0:
        return 1.0
    return max(0.0, 1 - distance / softness) if softness else 0.0
