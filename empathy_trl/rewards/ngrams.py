"""Rewards that count n-grams of the reply: shared with a reference, distinct, or repeated.

`Bleu` measures how much of the reference's wording a reply shares. BLEU-n (Papineni et al. 2002) is the geometric mean
of the precisions of 1-grams to n-grams, times a penalty for a reply shorter than the reference. The mean over n credits
single words before whole phrases match. A reference is one of many empathetic answers, so a good reply may score low:
use this reward with a small weight, to stay near the references' style.

`Distinct` is distinct-n of Li et al. (2016), "A Diversity-Promoting Objective Function for Neural Conversation Models",
for a single reply: the share of its n-grams that are distinct; the paper divides by the words of all replies together.
A reply without repetition gets 1.

`RepetitionPenalty` is seq-rep-n of Welleck et al. (2020), "Neural Text Generation With Unlikelihood Training": the
share of repeated n-grams. Yeo et al. (2025), "Demystifying Long Chain-of-Thought Reasoning in LLMs", use it as a
penalty in reinforcement learning.
"""

from dataclasses import dataclass
from functools import cache

from empathy_trl.errors import UserError
from empathy_trl.rewards.base import ReadsReply, ReplyReward, needed_column
from empathy_trl.text import ngrams, pieces, words


@cache
def _scorers() -> list:
    """Return BLEU-1 to BLEU-4. A reply shorter than n words is judged by the n-grams it has.

    Smoothing is method 3 of Chen and Cherry (2014).
    """
    from sacrebleu.metrics import BLEU  # takes a moment, and most recipes do without

    settings = {"effective_order": True, "smooth_method": "exp", "tokenize": "none", "force": True}
    return [BLEU(max_ngram_order=n, **settings) for n in range(1, 5)]


@dataclass
class Bleu(ReadsReply):
    """Mean of the sentence BLEU-1, BLEU-2, BLEU-3 and BLEU-4 of the reply against the row's reference, by sacrebleu.

    Exponential smoothing, effective order, case-sensitive, words and punctuation as in `text.pieces`, so that scripts
    without spaces work too; numbers are therefore close to, but not those of, sacrebleu's own tokenizer 13a.

    Range: [0, 1]; 1 for the reference itself, 0 for a reply that shares no word with it and for an empty one. A row
    whose reference is None or blank gets None.

    Args:
        column: of the data, holding one reference per row: a text or chat messages.
        reply_tags: the tags that may hold the reply, in completions and references; `[]` takes everything.
    """

    column: str = "reference"

    __name__ = "bleu"
    card = "wording shared with what a person answered"
    misses = "other right answers earn little"
    citations = ("papineni2002",)

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: the data has no such column, or one of its values is neither text nor messages.
        """
        references = [self._reference(value) for value in needed_column(self, columns, self.column)]
        replies = [self.reply(completion) for completion in completions]
        return [mean_bleu(*pair) if pair[1] else None for pair in zip(replies, references, strict=True)]

    def _reference(self, value) -> str:
        if value is not None and not isinstance(value, (str, list)):
            raise UserError(
                f"rewards.{self.__name__}.column: `{self.column}` holds {value!r}; expected a text, chat messages or null"
            )
        return "" if value is None else self.reply(value)


def mean_bleu(reply: str, reference: str) -> float:
    """Return the mean of BLEU-1 to BLEU-4 of `reply` against `reference`, in [0, 1]."""
    hypothesis, references = " ".join(pieces(reply)), [" ".join(pieces(reference))]
    scores = [scorer.sentence_score(hypothesis, references).score for scorer in _scorers()]
    return min(1.0, sum(scores) / len(scores) / 100)


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
    card = "words that are not repeated within the answer"
    misses = "short answers score high"
    citations = ("li2016",)

    def __post_init__(self):
        if self.n < 1:
            raise UserError(f"n: expected 1 or more, got {self.n}")

    def score(self, reply: str) -> float:
        return distinct_n(reply, self.n)


def distinct_n(text: str, n: int) -> float:
    """Return the share of different n-grams among the n-grams of a text's words, 0 where there are none."""
    grams = ngrams([word.casefold() for word in words(text)], n)
    return len(set(grams)) / len(grams) if grams else 0.0


@dataclass
class RepetitionPenalty(ReplyReward):
    """Minus the share of a reply's n-grams that it has said before; case does not count.

    Punctuation counts like a word, so that a row of exclamation marks is a repetition.

    Range: [-1, 0]; 0 where nothing repeats or there are fewer than `n` words, -1 for an empty reply.

    Args:
        n: words per n-gram. A good reply repeats some short ones: "I am so sorry, I am here for you".
    """

    n: int = 3

    __name__ = "repetition_penalty"
    card = "nothing: it takes away for what the answer repeats"
    misses = "it sees no repetition across answers"
    citations = ("welleck2020",)
    range = (-1.0, 0.0)

    def __post_init__(self):
        if self.n < 1:
            raise UserError(f"n: expected 1 or more, got {self.n}")

    def score(self, reply: str) -> float:
        if not reply:
            return -1.0
        grams = ngrams([piece.casefold() for piece in pieces(reply)], self.n)
        return len(set(grams)) / len(grams) - 1 if grams else 0.0
