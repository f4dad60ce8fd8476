"""Is the thought for the next turn a thought of its own: about this talk, beyond what was said, and looking ahead?"""

from dataclasses import dataclass
from statistics import fmean

from empathy_trl.parts import REFLECT, RESPOND, part_text
from empathy_trl.rewards.band import band, check_band
from empathy_trl.rewards.content_words import content_words, lower_words
from empathy_trl.rewards.copying import originality
from empathy_trl.rewards.response import relevance
from empathy_trl.tags import user_text

# words that look ahead, or leave open what is not known
_OUTLOOK = """
may might could will would they'll he'll she'll it'll i'll we'll perhaps maybe probably possibly likely unlikely next soon
later tomorrow expect expects hope hopes wonder wonders if unless whether
"""
OUTLOOK = frozenset(_OUTLOOK.split())


@dataclass
class Reflection:
    """Length × depth × originality of the part `<reflect>`.

    * length: 1 from `min` to `max` words, falling linearly to 0 at a distance of `softness` words outside.
    * depth: (1 + d) / 2, where d in [0, 1] is the mean of three:
      grounded, how much of the user's turn and the response it takes up (two shared content words are enough);
      new, twice the share of its content words that stand in neither, at most 1;
      outlook, 1 if a word looks ahead or leaves open (`OUTLOOK`), so that a list of words decides on a third at most.
    * originality: 1, but less when more than a quarter of the word trigrams stand in the response or in the user's turn
      (`copying.py`).

    Range: [0, 1]; 0 where the part is missing, broken or without a word. A missing or broken response counts as empty.

    Args:
        min: fewest words with full reward.
        max: most words with full reward.
        softness: width of each slope in words; 0 makes the band hard.
    """

    min: int = 20
    max: int = 100
    softness: float = 10.0

    __name__ = "reflection"
    tags = (RESPOND, REFLECT)

    def __post_init__(self):
        check_band(self.min, self.max, self.softness)

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        return [self._score(*pair) for pair in zip(prompts, completions, strict=True)]

    def _score(self, prompt, completion) -> float:
        thought = lower_words(part_text(completion, REFLECT))
        if not thought:
            return 0.0
        said = [lower_words(part_text(completion, RESPOND)), lower_words(user_text(prompt))]
        length = band(len(thought), self.min, self.max, self.softness)
        return length * (1 + depth(thought, said)) / 2 * originality(thought, said)


def depth(thought: list[str], said: list[list[str]]) -> float:
    """Return the mean of grounded, new and outlook, in [0, 1], see `Reflection`.

    Args:
        thought: words of the reflection, as `content_words.lower_words` returns them.
        said: words of each text that it may be about.
    """
    known = [word for text in said for word in text]
    topics = content_words(thought)
    grounded = relevance(thought, known) if topics else 0.0
    new = min(1.0, 2 * len(topics - content_words(known)) / len(topics)) if topics else 0.0
    return fmean([grounded, new, float(not OUTLOOK.isdisjoint(thought))])
