"""`ModelReward`, the base class of rewards that ask a classifier or regressor: which one, where, and about which rows.

A subclass says what the model reads of a row and how its logits become rewards. TRL awaits the asynchronous rewards of a step
together, and each of these waits in a thread of its own: models on different devices work at the same time, models on one device
take turns. Without a trainer, call `score`.
"""

import asyncio
import re
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.models.hub_files import one_revision
from empathy_trl.models.label_schema import check_held_out
from empathy_trl.rewards.base import ReadsReply
from empathy_trl.tags import user_text
from empathy_trl.text import is_visible


@dataclass(kw_only=True)
class ModelReward(ReadsReply):
    """A reward that comes from a sequence classification model's opinion about the reply.

    A reply without a visible character (see `tags.reply_text` for what else counts as none) earns `lowest` and is not
    shown to the model. A failure of the model raises; it is never a reward.

    Args:
        model: Hub id (also `USER/REPO@revision`) or folder of a model or adapter; see `empathy_trl.models.classifier`.
        revision: branch, tag or commit on the Hub.
        device: `cpu`, `cuda` or `cuda:1`; by default the GPU of the process, or the CPU of a machine without one.
        reply_tags: tags that hold the reply; empty reads the whole completion.
        min_held_out: refuse a model whose figure on held-out rows (`held_out` in its config.json, see `label_schema.py`) is below,
            or that has none.
    """

    model: str
    revision: str | None = None
    device: str | None = None
    min_held_out: float | None = None

    lowest = 0.0  # not annotated, so that it is no parameter
    loads_model = True
    misses = "it is a model's opinion, and texts that please a model need not help a person"

    def __post_init__(self):
        if not self.model:
            raise UserError("model: is empty; expected a Hub id, a folder, or stage:<name>")
        try:
            one_revision(self.model, self.revision)
        except UserError as error:
            raise UserError(f"model: {error}") from error
        if self.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise UserError(f"device: {self.device!r} is not a valid device (choices: cpu, cuda, cuda:0, cuda:1 …)")
        if self.min_held_out is not None and not -1 <= self.min_held_out <= 1:
            raise UserError(f"min_held_out: expected an accuracy or a correlation, at most 1, got {self.min_held_out}")

    async def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return what `score` returns, without blocking the other rewards of a step."""
        return await asyncio.to_thread(self.score, prompts, completions, **columns)

    def score(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: the model cannot be used or does not fit this reward, or the data lacks a column.
            RuntimeError: the model fails.
        """
        scorer = self.load()
        contexts = self.contexts(scorer.config, prompts, columns)
        replies = [self.reply(completion) for completion in completions]
        asked = [
            row
            for row, (context, reply) in enumerate(zip(contexts, replies, strict=True))
            if context is not None and is_visible(reply)
        ]
        rewards = [None if context is None else self.lowest for context in contexts]
        logits = scorer.score([self.text(contexts[row], replies[row]) for row in asked], self._log(columns))
        if asked:
            values = self.rewards(scorer.config, logits, [contexts[row] for row in asked])
            for row, value in zip(asked, np.asarray(values).tolist(), strict=True):
                rewards[row] = value
        return rewards

    def load(self):
        """Return the shared scorer of the model, which is loaded now if it was not before.

        Raises:
            UserError: the model cannot be loaded, or does not fit this reward.
        """
        from empathy_trl.models.scorer import shared_scorer

        try:
            scorer = shared_scorer(self.model, self.revision, self.device)
            self.check(scorer.config)
            if self.min_held_out is not None:
                check_held_out(scorer.config, self.min_held_out)
        except UserError as error:
            raise UserError(f"rewards.{self.__name__}: {error}") from error
        return scorer

    @abstractmethod
    def check(self, config) -> None:
        """Raise UserError if a model with this config cannot give this reward."""

    def contexts(self, config, prompts, columns) -> list:
        """Return what a reward needs of each row beside the reply; None where the reward does not apply."""
        return [""] * len(prompts)

    def text(self, context, reply: str) -> str | tuple[str, str]:
        """Return what the model reads."""
        return reply

    @abstractmethod
    def rewards(self, config, logits: np.ndarray, contexts: list):
        """Return one reward for each row of logits of shape (rows, outputs)."""

    def _log(self, columns: dict):
        log_metric = columns.get("log_metric")
        return log_metric and (lambda name, value: log_metric(f"scorer/{self.__name__}/{name}", value))


def check_range(label_range: list[float] | None) -> None:
    """Raise UserError unless a parameter `label_range` is None or [low, high]."""
    if label_range is not None and not (len(label_range) == 2 and label_range[0] < label_range[1]):
        raise UserError(f"label_range: expected [lowest, highest], got {label_range}")


def utterances(prompts: list) -> list[str | None]:
    """Return what the user said last in each prompt, None where there is nothing to see."""
    return visible_or_none([user_text(prompt) for prompt in prompts])


def visible_or_none(texts: list[str | None]) -> list[str | None]:
    """Return texts, None where there is nothing to see."""
    return [text if text is not None and is_visible(text) else None for text in texts]
