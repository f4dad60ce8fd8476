"""How replies are written, by a model here or on a server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How replies are written.

    Attributes:
        temperature: 0 takes the likeliest token, above 0 samples.
        top_p: sample from the likeliest tokens only, those that have this probability together.
        seed: of the sampling; None for another one each time.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    seed: int | None = None
