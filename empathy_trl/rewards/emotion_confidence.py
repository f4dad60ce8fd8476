"""How sure is the model of the right emotion, after its own reasoning?

A dense companion of `emotion_accuracy`.

Right or wrong says little: of eight completions that all answer wrongly, some reasoned better than others. So
the model itself is asked, without sampling, how likely each label is as the answer to what it has just
reasoned, and the gold label's share is the reward. The idea follows the fused reward of R²ec (You et al.
2025), which mixes a hard ranking reward with the model's own softmax over the items.
"""

import math
from dataclasses import dataclass, field

from empathy_trl.errors import UserError
from empathy_trl.rewards.emotion_accuracy import EMOTIONS, check_labels, gold_labels
from empathy_trl.tags import completion_text


@dataclass
class EmotionConfidence:
    """The policy's probability of the gold label among `labels`, given prompt and reasoning.

    The labels compete as continuations `label</answer>` of everything up to and including the first
    `<answer>`; see `answer_prefix` for completions without one. What was answered does not matter. One
    batched forward, no generation.

    Range: [0, 1]. Needs the column `label`; a row whose label is None gets None.

    Args:
        labels: the words that compete.

    Attributes:
        policy: set by the trainer: `policy(prompts, prefixes, choices)` returns the log-probability of every
            choice as continuation of every prompt and prefix, shape (prompts, choices).
    """

    labels: list[str] = field(default_factory=lambda: list(EMOTIONS))

    __name__ = "emotion_confidence"
    tags = ("reasoning", "answer")
    policy = None  # without annotation, so that it is no parameter

    def __post_init__(self):
        check_labels(self.labels)

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: no trainer has set `policy`, or the column `label` is missing or has other values.
        """
        if self.policy is None:
            raise UserError("rewards.emotion_confidence: no policy to ask; EmpathyGRPOTrainer sets it")
        gold = gold_labels(self, columns)
        prefixes = [answer_prefix(completion_text(completion)) for completion in completions]
        scores = self.policy(prompts, prefixes, [f"{label}</answer>" for label in self.labels])
        labels = [label.lower() for label in self.labels]
        return [
            None if label is None else softmax(row)[labels.index(label)]
            for row, label in zip(scores, gold, strict=True)
        ]


def answer_prefix(text: str) -> str:
    """Return the part of a completion after which the answer comes.

    That is everything up to and including the first `<answer>`; where there is none, the reasoning (closed if
    it was cut off), or the whole text if there is no reasoning either, followed by `<answer>`.
    """
    before, found, _ = text.partition("<answer>")
    if found:
        return before + found
    reasoning, closed, _ = text.partition("</reasoning>")
    if closed or "<reasoning>" in text:
        return reasoning + "</reasoning><answer>"
    return text + "<answer>"


def softmax(log_probabilities: list[float]) -> list[float]:
    """Return probabilities that sum to 1; shape (choices,)."""
    highest = max(log_probabilities)
    weights = [math.exp(value - highest) for value in log_probabilities]
    return [weight / sum(weights) for weight in weights]
