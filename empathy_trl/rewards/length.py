"""Is the reply long enough to say something, short enough to be read? `reasoning_length` asks it of the reasoning."""

from dataclasses import dataclass

from empathy_trl.rewards.band import band, check_band
from empathy_trl.rewards.reply import ReplyReward
from empathy_trl.words import words


@dataclass
class Length(ReplyReward):
    """1 for a reply of `min` to `max` words, falling linearly to 0 at a distance of `softness` words outside.

    Words are those of `words.words`: without punctuation, and one per character in Chinese or Thai.

    Range: [0, 1]; 0 for a reply without any word, even if `min` is near enough.

    Args:
        min: fewest words with full reward.
        max: most words with full reward.
        softness: width of each slope in words; 0 makes the band hard.
    """

    min: int = 5
    max: int = 40
    softness: float = 10.0

    __name__ = "length"

    def __post_init__(self):
        check_band(self.min, self.max, self.softness)

    def score(self, reply: str) -> float:
        count = len(words(reply))
        return band(count, self.min, self.max, self.softness) if count else 0.0
