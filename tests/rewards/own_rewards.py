"""Rewards as a user may write them, for tests that import them by name."""

import asyncio
from dataclasses import dataclass

from empathy_trl.rewards.base import Reward

WAITING = []


def letters(prompts, completions, **columns):
    return [float(len(completion)) for completion in completions]


def nowhere(prompts, completions, **columns):
    return [None for _ in completions]


def reads_label(prompts, completions, completion_ids, label, log_metric=None, log_extra=None, trainer_state=None):
    return [float(each) for each in label]


async def meets(prompts, completions, **columns):
    """Return only when another call of this reward is waiting at the same time."""
    WAITING.append(None)
    async with asyncio.timeout(5):
        while len(WAITING) % 2:
            await asyncio.sleep(0.001)
    return [1.0] * len(completions)


@dataclass
class Returns:
    """Returns what it is told to."""

    values: list | str | float | None = None

    def __call__(self, prompts, completions, **columns):
        return self.values


@dataclass
class Loads(Reward):
    """Has to be loaded before it is called."""

    loaded = False

    def load(self):
        self.loaded = True

    def __call__(self, prompts, completions, **columns):
        return [float(self.loaded)] * len(completions)


class Logs:
    """Logs a metric and a column."""

    def __init__(self, value=1.0, extra=2):
        self.value, self.extra = value, extra

    def __call__(self, prompts, completions, log_metric=None, log_extra=None, **columns):
        log_metric("kindness", self.value)
        log_extra("why", ["because"] * self.extra)
        return [0.0] * len(completions)


class Sees:
    """Checks what TRL would give it."""

    def __call__(self, *, prompts, completions, completion_ids, label, **columns):
        assert set(columns) == {"log_metric", "log_extra"}
        return [float(completion_ids is None and label == ["sad", "angry"])] * len(completions)


class Fails:
    """Its infrastructure is gone."""

    def __call__(self, prompts, completions, **columns):
        raise ConnectionError("the judge is gone")
