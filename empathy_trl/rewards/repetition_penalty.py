"""Does the reply go round in circles? A penalty for repeated n-grams.

The share of repeated n-grams is seq-rep-n of Welleck et al. (2020), "Neural Text Generation With Unlikelihood
Training"; taken as a penalty in reinforcement learning by Yeo et al. (2025), "Demystifying Long Chain-of-Thought
Reasoning in LLMs".
"""

from dataclasses import dataclass

from empathy_trl.errors import UserError
from empathy_trl.rewards.reply import ReplyReward
from empathy_trl.words import ngrams, pieces


@dataclass
class RepetitionPenalty(ReplyReward):
    """Minus the share of a reply's n-grams that it has said before; case does not count.

    Punctuation counts like a word, so that a row of exclamation marks is a repetition.

    Range: [-1, 0]; 0 where nothing repeats or there are fewer than `n` words, -1 for an empty reply.

    Args:
        n: words per n-gram. Of short ones a good reply repeats some: "I am so sorry, I am here for you".
    """

    n: int = 3

    __name__ = "repetition_penalty"
    penalty = True

    def __post_init__(self):
        if self.n < 1:
            raise UserError(f"n: expected 1 or more, got {self.n}")

    def score(self, reply: str) -> float:
        if not reply:
            return -1.0
        grams = ngrams([piece.casefold() for piece in pieces(reply)], self.n)
        return len(set(grams)) / len(grams) - 1 if grams else 0.0
