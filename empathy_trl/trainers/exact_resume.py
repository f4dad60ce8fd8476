"""Stopping because a reward cannot go on: all processes together, leaving a checkpoint that a resume continues exactly.

A reward raises `StopTraining` while a rollout is scored. By then sampling has drawn random numbers and TRL has counted
tokens, while the other processes wait for this one's rewards. So the stop is held back until all have met, and what the
rollout has changed is put back, before the checkpoint is saved.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from accelerate.utils import gather_object
from trl.trainer.utils import is_async_callable

from empathy_trl.errors import StopTraining


def holding_back(reward: Callable, held: list[StopTraining]) -> Callable:
    """Return a reward function for TRL that adds a StopTraining to `held` instead of raising it.

    It then returns zeros, which nobody learns from: `first_stop` comes right after them.
    """
    if isinstance(reward, torch.nn.Module):
        return reward
    if is_async_callable(reward):

        async def guarded(prompts, **columns):
            try:
                return await reward(prompts=prompts, **columns)
            except StopTraining as stop:
                held.append(stop)
                return [0.0] * len(prompts)
    else:

        def guarded(prompts, **columns):
            try:
                return reward(prompts=prompts, **columns)
            except StopTraining as stop:
                held.append(stop)
                return [0.0] * len(prompts)

    return guarded


def first_stop(held: list[StopTraining]) -> StopTraining | None:
    """Return, in all processes alike, the first stop that was held back in any of them."""
    return next((stop for stop in gather_object(held[:1])), None)


@dataclass
class StepStart:
    """What generating and scoring change before the weights change, as it was when an optimizer step began.

    Attributes:
        step: complete optimizer steps at that time.
    """

    step: int
    generators: tuple
    attributes: dict
    metrics: dict
    tokens_seen: int

    @classmethod
    def of(cls, trainer) -> "StepStart":
        """Remember a trainer as it is now."""
        on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(
            step=trainer.state.global_step,
            generators=(random.getstate(), numpy.random.get_state(), torch.get_rng_state(), on_gpu),
            attributes={"_step": trainer._step, "_buffered_inputs": trainer._buffered_inputs},
            metrics={name: list(values) for name, values in trainer._metrics["train"].items()},
            tokens_seen=trainer.state.num_input_tokens_seen,
        )

    def restore(self, trainer):
        """Put a trainer back; its weights and optimizer have to be the same still."""
        in_python, in_numpy, in_torch, on_gpu = self.generators
        random.setstate(in_python)
        numpy.random.set_state(in_numpy)
        torch.set_rng_state(in_torch)
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)
        vars(trainer).update(self.attributes)
        trainer._metrics["train"].clear()
        trainer._metrics["train"].update(self.metrics)
        trainer.state.num_input_tokens_seen = self.tokens_seen
