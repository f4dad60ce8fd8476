"""Rewards for the right emotion: in an answer, in its reasoning, in the policy's own probabilities, and in a reply.

`EmotionAccuracy` is the goal of the task: is the answer right? Right or wrong carries little information, however: of
eight completions that all answer wrongly, some reasoned better than others. `EmotionConfidence` is its dense companion.
Without sampling, it computes the policy's probability of each label as the answer after the given reasoning, and the
reward is the gold label's share. The idea follows the fused reward of R²ec (You et al. 2025), which mixes a hard
ranking reward with the model's own softmax over the items. Both ignore what the reasoning says; `GroundedReasoning` is
about that: does it name words of the situation? `EmotionAlignment` is for replies: a classifier decides
whether the reply fits the user's emotion.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from empathy_trl.errors import UserError, show
from empathy_trl.models.label_schema import CLASSIFICATION, label_groups, probabilities, require
from empathy_trl.rewards.base import ModelReward, Reward, needed_column
from empathy_trl.tags import (
    THOUGHTS,
    completion_text,
    is_grounded,
    match_label,
    open_thought,
    read_answer,
    without_thoughts,
)

EMOTIONS = ("sad", "joyful", "angry", "afraid")


@dataclass
class EmotionAccuracy(Reward):
    """1 for the right answer, 0 for a wrong one, `invalid` for none.

    `tags.read_answer` reads the answer, as it does in an evaluation. The share of invalid answers is logged as
    `invalid_share`.

    Range: {`invalid`, 0, 1}. Needs the column `label`; a row whose label is None gets None.

    Args:
        labels: the words that may be answered.
        invalid: reward of an invalid answer. Below 0 (say -0.5) it teaches to answer at all sooner.
    """

    labels: list[str] = field(default_factory=lambda: list(EMOTIONS))
    invalid: float = 0.0

    __name__ = "emotion_accuracy"
    card = "the right emotion"
    misses = "the reasoning before it may be nonsense"
    tags = ("answer",)

    @property
    def range(self) -> tuple[float, float]:
        """From the reward of an invalid answer to that of the right one."""
        return self.invalid, 1.0

    def __post_init__(self):
        check_labels(self.labels)
        if self.invalid > 0:
            raise UserError(f"invalid: {self.invalid} must not be above 0, the reward of a wrong answer")

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: the data has no column `label`, or one of its values is not among `labels`.
        """
        gold = gold_labels(self, columns)
        answers = [read_answer(completion, self.labels) for completion in completions]
        if answers and "log_metric" in columns:
            columns["log_metric"]("invalid_share", sum(answer is None for answer in answers) / len(answers))
        return [
            None if label is None else self.invalid if answer is None else float(answer == label)
            for answer, label in zip(answers, gold, strict=True)
        ]


def check_labels(labels: list[str]) -> None:
    """Raise UserError unless there are two different labels or more."""
    if len({label.strip().lower() for label in labels}) < max(2, len(labels)):
        raise UserError(f"labels: expected at least two different words, got {labels}")


def gold_labels(reward, columns: dict) -> list[str | None]:
    """Return the column `label` as the reward spells its labels, None where a row has none.

    Args:
        reward: has `__name__` and `labels`, the values that may occur.
        columns: the columns of the batch, as TRL passes them to a reward.

    Raises:
        UserError: there is no such column, or a value that is not among the labels.
    """
    gold = []
    for label in needed_column(reward, columns, "label"):
        gold.append(None if label is None else match_label(label, reward.labels))
        if gold[-1] is None and label is not None:
            raise UserError(
                f"rewards.{reward.__name__}.labels: the data has the label {show(label)} (labels: {', '.join(reward.labels)})"
            )
    return gold


@dataclass
class EmotionConfidence(Reward):
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
    card = "how sure the model itself is of the right emotion"
    misses = "the reasoning before it may be nonsense"
    citations = ("you2025",)
    tags = ("reasoning", "answer")
    needs_policy = True

    def __post_init__(self):
        check_labels(self.labels)
        self.continuations = [f"</reasoning><answer>{label}</answer>" for label in self.labels]

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: no trainer has set `policy`, or the column `label` is missing or has other values.
        """
        if self.policy is None:
            raise UserError("rewards.emotion_confidence: has no policy; EmpathyGRPOTrainer sets it")
        gold = gold_labels(self, columns)
        prefixes = [answer_prefix(completion_text(completion, thoughts=True)) for completion in completions]
        scores = self.policy(prompts, prefixes, [f"{label}</answer>" for label in self.labels])
        return [
            None if label is None else softmax(row)[self.labels.index(label)]
            for row, label in zip(scores, gold, strict=True)
        ]


def answer_prefix(text: str) -> str:
    """Return the part of a completion after which the answer comes.

    That is everything up to and including the first `<answer>`; without one, the reasoning (closed if
    it was cut off), or the whole text without reasoning, followed by `<answer>`. A thought before the reply
    (`tags.without_thoughts`) is kept, and closed if it was cut off.
    """
    reply = without_thoughts(text)
    if text != reply:
        thought = text.removesuffix(reply)
        closing = f"{THOUGHTS[begun]}\n" if (begun := open_thought(thought)) else ""
        return thought + closing + answer_prefix(reply)
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


@dataclass
class GroundedReasoning(Reward):
    """1 for a reasoning that names words of the situation, 0 otherwise: `tags.is_grounded`, which an evaluation counts too.

    Range: {0, 1}; 0 without a reasoning. Needs the column `text`; a row whose text is None gets None.

    Args:
        labels: the words that may be answered. Naming one of them is no reasoning.
    """

    labels: list[str] = field(default_factory=lambda: list(EMOTIONS))

    __name__ = "grounded_reasoning"
    card = "a reasoning that names words of the situation"
    misses = "the words may have nothing to do with the emotion"
    tags = ("reasoning",)

    def __post_init__(self):
        check_labels(self.labels)

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion. UserError: the data has no column `text`."""
        texts = needed_column(self, columns, "text")
        return [
            None if text is None else float(is_grounded(completion, text, self.labels))
            for completion, text in zip(completions, texts, strict=True)
        ]


@dataclass(kw_only=True)
class EmotionAlignment(ModelReward):
    """The classifier's probability that the reply has a label that fits the user's emotion.

    With a classifier of emotions the fitting label is the emotion itself. `mapping` says what fits where that is
    another one, or where the classifier speaks of something else, such as intents: `{sad: [consoling, sympathizing]}`
    pays for the sum of the two. An emotion that is not in the mapping stands for itself. Upper and lower case are the
    same.

    Range: [0, 1]; an empty reply earns 0. Needs the column `column`; a row without an emotion gets None.

    Args:
        column: of the data, with the user's emotion.
        mapping: emotion -> labels of the model that fit.
    """

    column: str = "emotion"
    mapping: dict[str, list[str]] = field(default_factory=dict)

    __name__ = "emotion_alignment"
    card = "an answer that fits the user's emotion, by a classifier"

    def __post_init__(self):
        super().__post_init__()
        for emotion, labels in self.mapping.items():
            if not labels or len(set(map(str.lower, labels))) < len(labels):
                raise UserError(f"mapping: {emotion} needs labels of the model, all different, got {labels}")

    def check(self, config) -> None:
        labels = only_group(config)
        for emotion, fitting in self.mapping.items():
            for label in fitting:
                label_index(labels, label, f"mapping: of {emotion}")

    def contexts(self, config, prompts, columns):
        labels = only_group(config)
        emotions = needed_column(self, columns, self.column)
        return [None if emotion is None else self._fitting(labels, str(emotion).strip()) for emotion in emotions]

    def rewards(self, config, logits, contexts):
        (shares,) = probabilities(config, logits).values()
        sums = [shares[row, fitting].sum() for row, fitting in enumerate(contexts)]
        return np.minimum(sums, 1.0)  # rounding

    def _fitting(self, labels: list[str], emotion: str) -> list[int]:
        """Return the positions of the labels that fit an emotion."""
        mapping = {key.lower(): fitting for key, fitting in self.mapping.items()}
        fitting = mapping.get(emotion.lower(), [emotion])
        try:
            return [label_index(labels, label, "") for label in fitting]
        except UserError:
            known = f", or an emotion of `mapping`: {', '.join(self.mapping)}" if self.mapping else ""
            raise UserError(
                f"rewards.{self.__name__}.column: the data has the emotion {emotion!r}, and the model has no such label "
                f"(choices: {', '.join(labels)}{known})"
            ) from None


def only_group(config) -> list[str]:
    """Return the labels of a classifier in order.

    Raises:
        UserError: the model is not a classifier, or has several groups of labels.
    """
    require(config, CLASSIFICATION)
    groups = label_groups(config)
    if len(groups) > 1:
        raise UserError(f"model: has several groups of labels ({', '.join(groups)}); expected a classifier with one")
    return next(iter(groups.values()))


def label_index(labels: list[str], label: str, where: str) -> int:
    """Return the position of a label in any case.

    Raises:
        UserError: begins with `where`.
    """
    if (name := match_label(label, labels)) is None:
        raise UserError(f"{where}: the model has no label {label!r} (choices: {', '.join(labels)})")
    return labels.index(name)
