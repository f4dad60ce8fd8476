"""What a turn costs."""

from dataclasses import dataclass


@dataclass
class Counts:
    """Tokens of one turn: computed before the first new one, taken from earlier turns, and written."""

    prefilled: int = 0
    cached: int = 0
    written: int = 0
