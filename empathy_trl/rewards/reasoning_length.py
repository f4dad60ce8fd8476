"""Is the reasoning long enough to reason and short enough to read? A soft band keeps GRPO in between."""

from dataclasses import dataclass
from typing import Literal

from empathy_trl.errors import UserError
from empathy_trl.rewards.band import band, check_band
from empathy_trl.tags import completion_text, tag_bodies


@dataclass
class ReasoningLength:
    """1 inside the band from `min` to `max`, falling linearly to 0 at a distance of `softness` outside it.

    With unit `words` the length is the number of space-separated words in the body of `<reasoning>`; a
    completion without exactly one such body gets 0. With unit `tokens` it is the number of tokens of the
    *whole* completion, tags and answer included, because a reward has no tokenizer to count the tokens of a
    part.

    Range: [0, 1].

    Args:
        min: shortest length with full reward.
        max: longest length with full reward.
        unit: words of the reasoning, or tokens of the whole completion.
        softness: width of each slope, in the same unit; 0 makes the band hard.
    """

    min: int = 10
    max: int = 120
    unit: Literal["words", "tokens"] = "words"
    softness: float = 10.0

    __name__ = "reasoning_length"

    def __post_init__(self):
        check_band(self.min, self.max, self.softness)
        if self.unit not in ("words", "tokens"):
            raise UserError(f"unit: unknown unit {self.unit!r} (choices: words, tokens)")

    @property
    def tags(self) -> list[str]:
        """The tags that this reward looks for, checked against the tokenizer by the trainer."""
        return ["reasoning"] if self.unit == "words" else []

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: unit `tokens` without `completion_ids`.
        """
        if self.unit == "words":
            return [self._words_reward(completion_text(completion)) for completion in completions]
        if completion_ids is None:
            raise UserError("rewards.reasoning_length: unit tokens needs completion_ids from the trainer")
        return [self._reward(len(ids)) for ids in completion_ids]

    def _words_reward(self, text: str) -> float:
        bodies = tag_bodies(text, "reasoning")
        return self._reward(len(bodies[0].split())) if len(bodies) == 1 else 0.0

    def _reward(self, length: int) -> float:
        return band(length, self.min, self.max, self.softness)
