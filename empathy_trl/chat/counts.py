"""What a turn costs."""

from dataclasses import dataclass


@dataclass
class Counts:
    """Tokens of one turn: computed before the first new one, taken from earlier turns, and written.

    `cut_off` says that the reply was not at its end when it had as many as it may have.
    """

    prefilled: int = 0
    cached: int = 0
    written: int = 0
    cut_off: bool = False
