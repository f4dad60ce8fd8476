"""Is the reaction a bodily one, short enough to be taken in at once, and does it fit what the user feels?"""

import re
from dataclasses import dataclass

from empathy_trl.errors import UserError
from empathy_trl.parts import REACT, part_text
from empathy_trl.rewards.band import band, check_band
from empathy_trl.rewards.expressions import fit
from empathy_trl.tags import user_text
from empathy_trl.words import words

_STARRED = r"\*([^*]+)\*"
# *expression* + *posture*, where a word may stand behind a star: *curious* + *attentive* posture
_FORM = re.compile(rf"{_STARRED}(?:\s+\w+)?(?:\s*\+\s*{_STARRED}(?:\s+\w+)?)*")


@dataclass
class Reaction:
    """Grammar × brevity × fit of the part `<react>`.

    * grammar: 1 for `*expression* + *posture*`, two or more different phrases joined by + (or by commas inside the stars),
      where one word may stand behind a star; 0.5 for anything else with a starred phrase; 0 otherwise.
    * brevity: 1 up to `max_words` words, falling linearly to 0 at `softness` words more.
    * fit: (1 + f) / 2, where f is 1 for an expression that fits the emotion in the user's turn, 0 for one that contradicts
      it, 0.5 without evidence, by the lexicon of `expressions.py`. By a classifier: `emotion_alignment` with
      `reply_tags: [react]`.

    Range: [0, 1]; 0 where the part is missing, broken or without a word.

    Args:
        max_words: most words with full reward.
        softness: width of the slope in words; 0 makes the limit hard.
    """

    max_words: int = 20
    softness: float = 10.0

    __name__ = "reaction"
    tags = (REACT,)

    def __post_init__(self):
        if self.max_words < 1:
            raise UserError(f"max_words: expected 1 or more, got {self.max_words}")
        check_band(1, self.max_words, self.softness)

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        return [
            self._score(part_text(completion, REACT), user_text(prompt))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def _score(self, reaction: str, turn: str) -> float:
        brevity = band(len(words(reaction)), 1, self.max_words, self.softness) if reaction else 0.0
        return brevity and grammar(reaction) * brevity * (1 + fit(reaction, turn)) / 2


def grammar(reaction: str) -> float:
    """Return 1 for at least two starred phrases in the form that is asked for, 0.5 for one or another form, 0 for none."""
    phrases = {
        " ".join(words(phrase)).casefold()
        for starred in re.findall(_STARRED, reaction)
        for phrase in re.split(r"[,;+]", starred)
    } - {""}
    if not phrases:
        return 0.0
    return 1.0 if len(phrases) > 1 and _FORM.fullmatch(reaction) else 0.5
