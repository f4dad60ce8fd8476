"""Is what is said aloud of a good length, about what the user said, in words of its own, and soon over?"""

from dataclasses import dataclass
from statistics import fmean

import regex

from empathy_trl.errors import UserError
from empathy_trl.parts import RESPOND, part_text
from empathy_trl.rewards.band import band, check_band
from empathy_trl.rewards.content_words import content_words, lower_words
from empathy_trl.rewards.copying import originality
from empathy_trl.tags import user_text
from empathy_trl.words import plain

WORDS_PER_MINUTE = 150  # a calm voice, as in audio books
PAUSE_SECONDS = 0.5  # after a sentence
ENOUGH_SHARED = 2  # content words, to be about what the user said

# not the point in 3.5; a script without spaces goes on right after its full stop
_SENTENCE_ENDS = regex.compile(r"[.!?]+(?![\p{L}\p{N}])|[\p{Sentence_Terminal}--[.!?]]+", regex.V1)


@dataclass
class Response:
    """Length × relevance × originality × pace of the part `<respond>`.

    * length: 1 from `min` to `max` words, falling linearly to 0 at a distance of `softness` words outside.
    * relevance: (1 + r) / 2, where r is the number of content words (`content_words.py`) shared with the user's turn,
      divided by 2 or by as many as the turn has, at most 1. A turn without any asks for none.
    * originality: 1, but less when more than a quarter of the word trigrams stand in the user's turn (`copying.py`).
    * pace: 1 up to `max_seconds` of speaking time, falling linearly to 0 at half as much again.

    The mean speaking time is logged as `response/speaking_seconds`.

    Range: [0, 1]; 0 where the part is missing, broken or without a word.

    Args:
        min: fewest words with full reward.
        max: most words with full reward.
        softness: width of each slope in words; 0 makes the band hard.
        max_seconds: longest speaking time with full reward.
    """

    min: int = 30
    max: int = 150
    softness: float = 15.0
    max_seconds: float = 75.0

    __name__ = "response"
    tags = (RESPOND,)

    def __post_init__(self):
        check_band(self.min, self.max, self.softness)
        if self.max_seconds <= 0:
            raise UserError(f"max_seconds: expected more than 0, got {self.max_seconds}")

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        responses = [part_text(completion, RESPOND) for completion in completions]
        seconds = [speaking_seconds(response) for response in responses]
        spoken = [each for each in seconds if each > 0]
        if spoken and columns.get("log_metric") is not None:
            columns["log_metric"](f"{self.__name__}/speaking_seconds", fmean(spoken))
        return [
            self._score(response, user_text(prompt)) * band(duration, 0, self.max_seconds, self.max_seconds / 2)
            for prompt, response, duration in zip(prompts, responses, seconds, strict=True)
        ]

    def _score(self, response: str, turn: str) -> float:
        """Return length × relevance × originality."""
        spoken, heard = lower_words(response), lower_words(turn)
        if not spoken:
            return 0.0
        length = band(len(spoken), self.min, self.max, self.softness)
        return length * (1 + relevance(spoken, heard)) / 2 * originality(spoken, [heard])


def relevance(spoken: list[str], heard: list[str]) -> float:
    """Return in [0, 1] how much of what the user spoke of is taken up; 1 where the user spoke of nothing."""
    topics = content_words(heard)
    needed = min(ENOUGH_SHARED, len(topics))
    return min(1.0, len(content_words(spoken) & topics) / needed) if needed else 1.0


def speaking_seconds(text: str) -> float:
    """Return about how long a text takes to say, in seconds: 150 words a minute and half a second after a sentence."""
    return len(lower_words(text)) * 60 / WORDS_PER_MINUTE + PAUSE_SECONDS * len(_SENTENCE_ENDS.findall(plain(text)))
