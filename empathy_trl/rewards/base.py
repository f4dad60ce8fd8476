"""What rewards that read the reply in a completion have in common.

The soft band: full reward for a length inside it, less and less outside.

Columns of the data, as TRL hands them to a reward.

Does a text say something, or does it say again what was said? The share of its word trigrams that stand elsewhere.

Reward weights that change over training.

A weight in a recipe is a number, or `{start: 0.5, end: 2.0, until: 0.5}`: linear from `start` to `end` over the first
`until` of the training, `end` from there on.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

from empathy_trl.errors import UserError
from empathy_trl.tags import REPLY_TAGS, reply_text
from empathy_trl.text import ngrams


@dataclass(kw_only=True)
class ReadsReply:
    """The reply in a completion, for rewards that look at it.

    Args:
        reply_tags: the tags that may hold the reply, see `tags.reply_text`; `[]` takes the whole completion.
    """

    reply_tags: list[str] = field(default_factory=lambda: list(REPLY_TAGS))

    @property
    def tags(self) -> list[str]:
        """The tags that this reward looks for, checked against the tokenizer by the trainer."""
        return self.reply_tags

    def reply(self, completion) -> str:
        """Return the stripped reply of a completion, "" where it has none."""
        return reply_text(completion, self.reply_tags)


@dataclass
class ReplyReward(ReadsReply, ABC):
    """A reward that is a function of the reply's text alone: `score(reply)`."""

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        return [self.score(self.reply(completion)) for completion in completions]

    @abstractmethod
    def score(self, reply: str) -> float:
        """Return the reward of a stripped reply, which is "" where a completion has none."""


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


def needed_column(reward, columns: dict, name: str) -> list:
    """Return a column of the batch.

    Args:
        reward: has `__name__`, for the message.
        columns: as TRL passes them.
        name: of the column.

    Raises:
        UserError: there is none of this name.
    """
    if name not in columns:
        raise UserError(f"rewards.{reward.__name__}: needs a column `{name}` in the data")
    return columns[name]


# of a text's trigrams that may stand elsewhere without a loss: taking up somebody's phrase is a way of listening
FREE = 0.25


def originality(spoken: list[str], sources: Iterable[list[str]]) -> float:
    """Return 1 for a text of which at most a quarter is copied, falling linearly to 0 for one that is copied entirely.

    What counts as copied is a trigram of the text that stands in one of the sources; of a text of one or two words, all
    of it. Swapping words here and there breaks trigrams: a paraphrase is not found.

    Args:
        spoken: words of the text, as `text.lower_words` returns them.
        sources: words of what was said before.
    """
    n = min(3, len(spoken))
    if n == 0:
        return 0.0
    known = {gram for source in sources for gram in ngrams(source, n)}
    grams = ngrams(spoken, n)
    copied = sum(gram in known for gram in grams) / len(grams)
    return min(1.0, (1 - copied) / (1 - FREE))


def weight_at(weight, progress: float) -> float:
    """Return the weight at `progress` (share of the optimizer steps done, 0 to 1).

    Args:
        weight: a number, or an object with `start`, `end` and `until` (`empathy_trl.recipe.WeightSchedule`).
    """
    if isinstance(weight, (int, float)):
        return float(weight)
    share = min(1.0, progress / weight.until)
    return weight.start + share * (weight.end - weight.start)
