"""Does the reply say different things, or the same thing again?

After distinct-n of Li et al. (2016), "A Diversity-Promoting Objective Function for Neural Conversation Models": the
number of different n-grams over how many there are. They divide by the number of words of all replies together; here it
is the number of n-grams of one reply, so that a reply without any repetition gets 1.
"""

from dataclasses import dataclass

from empathy_trl.errors import UserError
from empathy_trl.rewards.reply import ReplyReward
from empathy_trl.words import ngrams, words


@dataclass
class Distinct(ReplyReward):
    """Share of a reply's n-grams that are different from each other; case does not count.

    A short reply hardly repeats itself and scores high: combine it with `length`.

    Range: [0, 1]; 0 for a reply of fewer than `n` words, and so for an empty one.

    Args:
        n: words per n-gram.
    """

    n: int = 2

    __name__ = "distinct"

    def __post_init__(self):
        if self.n < 1:
            raise UserError(f"n: expected 1 or more, got {self.n}")

    def score(self, reply: str) -> float:
        return distinct_n(reply, self.n)


def distinct_n(text: str, n: int) -> float:
    """Return the share of different n-grams among the n-grams of a text's words, 0 where there are none."""
    grams = ngrams([word.casefold() for word in words(text)], n)
    return len(set(grams)) / len(grams) if grams else 0.0
