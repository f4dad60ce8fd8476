"""What every reward is: the base class `Reward`, its weight, and what rewards that read the reply have in common.

A reward is called as TRL calls reward functions, `reward(prompts, completions, completion_ids, **columns)` with the columns
of the data set, and returns one number per completion, or None where it does not apply. `Reward` declares what else a
class may say about itself; a plain function or callable becomes one through `as_reward`.
"""

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from empathy_trl.errors import UserError
from empathy_trl.tags import REPLY_TAGS, reply_text


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
        tags: names of the tags it looks for, which must not be special tokens of the policy's tokenizer.
        reply_tags: the tags that may hold the reply, if it reads the reply alone; None if it reads more. Only the former
            can also score what people wrote.
        needs_policy: it asks the model in training. The trainer sets `policy`, a `trainers.policy_scorer.PolicyScorer`.
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
