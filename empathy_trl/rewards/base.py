"""The base classes of rewards, and shared code: weights, soft bands, columns of the data.

A reward is called as TRL calls reward functions, `reward(prompts, completions, completion_ids, **columns)` with the
columns of the data set. It returns one number per completion, or None if it does not apply. `Reward` declares the
optional attributes and methods of a reward class.

| class | for rewards that |
|---|---|
| `Reward` | read whole completions, prompts and columns |
| `ReadsReply`, `ReplyReward` | read the reply in a completion; the latter score its text alone |
| `ModelReward` | score the reply with a classifier or regressor |
| `FunctionReward` | are a plain function or callable; `as_reward` makes one |
"""

import asyncio
import copy
import inspect
import math
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from empathy_trl.errors import StopTraining, UserError, show
from empathy_trl.io import user_name
from empathy_trl.models.hub_files import one_revision
from empathy_trl.models.label_schema import check_held_out
from empathy_trl.tags import REPLY_TAGS, completion_text, reply_text, user_text
from empathy_trl.text import is_visible


@dataclass(frozen=True)
class WeightSchedule:
    """A weight that moves linearly from `start` to `end` over the first part of the training, and then stays there.

    Args:
        start, end: the first and the last weight.
        until: which part, as a share of the training, above 0 and at most 1.
    """

    start: float
    end: float
    until: float

    def __post_init__(self):
        if not 0 < self.until <= 1:
            raise UserError(f"until: {self.until:g} is not a share of the training, above 0 and at most 1")


def weight_at(weight: float | WeightSchedule, progress: float) -> float:
    """Return the weight at `progress`, the share of the optimizer steps done, from 0 to 1."""
    if isinstance(weight, (int, float)):
        return float(weight)
    share = min(1.0, progress / weight.until)
    return weight.start + share * (weight.end - weight.start)


# what TRL passes to every reward, beside the columns of the data
PASSED = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")


class Reward(ABC):
    """Base class of rewards: a dataclass whose fields are its parameters in a recipe.

    A subclass defines `__call__`, and `async def __call__` if it waits for a model or a server: TRL awaits the asynchronous
    rewards of a step together. It has no state, so it can be pickled, and the same completions earn the same rewards. It
    raises `StopTraining` where it cannot go on. In a subclass, override an attribute below without a type annotation;
    with one it would become a parameter.

    Attributes:
        __name__: under which its values are logged; in a recipe, the key under `rewards:`.
        weight: its weight in the recipe.
        params, import_path: from the recipe: its parameters as they stand there, and `package.module:Name` of a reward
            that is not in this package.
        range: lowest and highest value. A reward that is never above 0 is a penalty, whose weight must not be negative.
        tags: names of the tags it looks for, which must not be special tokens of the policy's tokenizer. Without
            `reply_tags`, it needs them, so that the tokenizer must be able to write them.
        reply_tags: the tags that may hold the reply, if it reads the reply alone; None if it reads more. Only the former
            can also score what people wrote.
        needs_policy: it asks the model in training. The trainer sets `policy`, a `models.likelihood.PolicyScorer`.
        continuations: texts that it may append to a completion for the model to score.
        loads_model: it has a `model` (Hub id, folder, `stage:<name>` or None) and a `device`, and loads that model into
            this process.
        operational: parameters, such as an address or a timeout, that do not change what a run learns.
        card: what it pays for, in a few words for the model card.
        misses: how a completion can earn it without being any better, for the model card.
        citations: keys of its papers in the model card's bibliography.
    """

    __name__: str
    weight: float | WeightSchedule = 1.0
    params: Mapping[str, Any] = MappingProxyType({})
    import_path: str | None = None
    range: tuple[float, float] = (0.0, 1.0)
    tags: Sequence[str] = ()
    reply_tags: list[str] | None = None
    needs_policy: bool = False
    policy: Callable | None = None
    continuations: Sequence[str] = ()
    loads_model: bool = False
    operational: tuple[str, ...] = ()
    card: str = ""
    misses: str = ""
    citations: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion, None where it does not apply.

        Args:
            prompts, completions: one text or list of chat messages per completion.
            completion_ids: the completions' token ids, or None.
            **columns: of the data, one value per completion; also TRL's `log_metric` and `log_extra`.
        """

    def load(self):
        """Return the scorer of its model, loaded now if it was not before; None if there is no model.

        Raises:
            UserError: the model cannot be loaded.
        """
        return None  # noqa: RET501

    def with_model(self, model: str) -> "Reward":
        """Return a copy that asks another model, such as the folder that `stage:<name>` stands for."""
        reward = copy.copy(self)
        vars(reward).update(model=model, params={**self.params, "model": model})
        return reward

    def as_yaml(self) -> dict[str, Any]:
        """Return the entry of `rewards:` that describes this reward, with the weight written out."""
        weight = asdict(self.weight) if isinstance(self.weight, WeightSchedule) else self.weight
        path = {} if self.import_path is None else {"import": self.import_path}
        return {"weight": weight, **path, **copy.deepcopy(dict(self.params))}


class FunctionReward(Reward):
    """A function or callable object in TRL's signature as a `Reward`, with a name."""

    range = (-math.inf, math.inf)

    def __init__(self, function: Callable, name: str):
        self.function = function
        self.__name__ = name

    def __call__(self, *args, **columns) -> list[float | None]:
        return self.function(*args, **columns)

    def with_model(self, model: str) -> Reward:
        reward = super().with_model(model)
        reward.function = copy.copy(self.function)
        reward.function.model = model
        return reward


class AsyncFunctionReward(FunctionReward):
    """The same for a coroutine function, which TRL recognises by its `__call__`."""

    async def __call__(self, *args, **columns) -> list[float | None]:
        return await self.function(*args, **columns)


def as_reward(function: Callable, name: str) -> Reward:
    """Return a function or callable as a `Reward` with this name; a `Reward` as a copy of itself."""
    if not isinstance(function, Reward):
        return (AsyncFunctionReward if is_async(function) else FunctionReward)(function, name)
    reward = copy.copy(function)
    vars(reward)["__name__"] = name  # also of a frozen dataclass
    return reward


def is_async(reward: Callable) -> bool:
    """Return whether calling a reward returns something to await, by the rule of TRL."""
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(reward.__call__)


def check_parameters(name: str, reward: Callable, arguments: Iterable[str]) -> None:
    """Raise StopTraining if a reward, or a function of the user's own, does not take the arguments of these names."""
    arguments = list(arguments)
    try:
        signature = inspect.signature(reward.function if isinstance(reward, FunctionReward) else reward)
    except ValueError:  # some callables of compiled modules do not tell
        return
    try:
        signature.bind(**dict.fromkeys(arguments))
    except TypeError as error:
        data = ", ".join(argument for argument in arguments if argument not in PASSED) or "none"
        raise StopTraining(
            f"rewards.{name}: cannot be called: {error}; expected the parameters prompts, completions, the columns that it "
            f"reads, and **columns for everything else (columns of the data: {data})"
        ) from error


def checked_values(name: str, values, prompts: list, completions: list) -> list[float | None]:
    """Return the values of a reward function as floats and None, after checking them.

    Trainers, `explain_rewards` and evaluations check all rewards here, because a user's own function may return anything.

    Args:
        name: name of the reward, for messages.
        values: the return value of the reward function.
        prompts, completions: its arguments.

    Raises:
        StopTraining: not one finite number or None per completion; names the reward, the row and the value.
    """
    if isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable):
        raise StopTraining(
            f"rewards.{name}: returned {reprlib.repr(values)}; expected a list with a number or None per completion"
        )
    values = list(values)
    if len(values) != len(completions):
        raise StopTraining(
            f"rewards.{name}: returned {len(values)} values for {len(completions)} completions; expected one per completion"
        )
    numbers = [None if value is None else _number_or_nan(value) for value in values]
    for row, number in enumerate(numbers):
        if number is not None and not math.isfinite(number):
            text, prompt = completion_text(completions[row]), user_text(prompts[row])
            raise StopTraining(
                f"rewards.{name}: returned {reprlib.repr(values[row])} for completion {row + 1} of {len(values)}, {show(text)} "
                f"(prompt {show(prompt)}); expected a finite number, or None where it does not apply"
            )
    return numbers


def one_per_completion(what: str, values, n: int) -> list:
    """Return values as a list of n.

    Args:
        what: what the values are, for messages.

    Raises:
        StopTraining: they are not a list, or not n.
    """
    if isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable):
        raise StopTraining(f"{what}: {reprlib.repr(values)} is not a list; expected one value per completion")
    values = list(values)
    if len(values) != n:
        raise StopTraining(f"{what}: {len(values)} values for {n} completions")
    return values


def checked_logs(name: str, n: int, log_metric: Callable, log_extra: Callable) -> dict[str, Callable]:
    """Return `log_metric` and `log_extra` for one reward, which check what it logs before they pass it on.

    Args:
        name: of the reward, for messages.
        n: how many completions it is called with.
        log_metric: takes a metric's name and a float.
        log_extra: takes a column's name and a list of n values.

    Raises:
        StopTraining: from the returned functions: a metric is not a number, or a column does not have n values.
    """

    def checked_metric(metric: str, value) -> None:
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            message = f"rewards.{name}: log_metric `{metric}`: {reprlib.repr(value)} is not a number"
            raise StopTraining(message) from error
        log_metric(metric, number)

    def checked_extra(column: str, values) -> None:
        log_extra(column, one_per_completion(f"rewards.{name}: log_extra `{column}`", values, n))

    return {"log_metric": checked_metric, "log_extra": checked_extra}


def _number_or_nan(value) -> float:
    try:
        return math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):  # an int can be too large for a float
        return math.nan


@dataclass(kw_only=True)
class ReadsReply(Reward):
    """A reward that reads the reply in a completion and nothing else of it.

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
class ReplyReward(ReadsReply):
    """A reward that is a function of the reply's text alone: `score(reply)`."""

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        return [self.score(self.reply(completion)) for completion in completions]

    @abstractmethod
    def score(self, reply: str) -> float:
        """Return the reward of a stripped reply, which is "" where a completion has none."""


@dataclass(kw_only=True)
class ModelReward(ReadsReply):
    """A reward that comes from a sequence classification model's opinion about the reply.

    A subclass says what the model reads of a row and how its logits become rewards. TRL awaits the asynchronous rewards of a
    step together, and each of these waits in a thread of its own: models on different devices work at the same time, models
    on one device take turns. Without a trainer, call `score`.

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
            self.model = user_name(self.model)
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
        UserError: the data has no column of this name.
    """
    if name not in columns:
        raise UserError(f"rewards.{reward.__name__}: needs a column `{name}` in the data")
    return columns[name]


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
