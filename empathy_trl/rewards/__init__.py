"""Rewards: one file per idea, each a small dataclass whose fields are its parameters in a recipe.

A reward is called as TRL calls reward functions, `reward(prompts, completions, completion_ids, **columns)`
with the columns of the data set, and returns one number per completion, or None where it does not apply. It
keeps no state, so that it can be pickled and two runs with the same completions give the same rewards.

A recipe names a reward of this package by its key in `REWARDS`, or brings its own with
`import: my_package.rewards:Kindness` (a class, made with the recipe's parameters, or a plain function).
"""

import importlib
from collections.abc import Callable

from empathy_trl.errors import UserError
from empathy_trl.rewards.emotion_accuracy import EmotionAccuracy
from empathy_trl.rewards.emotion_confidence import EmotionConfidence
from empathy_trl.rewards.format import Format
from empathy_trl.rewards.reasoning_length import ReasoningLength

REWARDS = {
    "emotion_accuracy": EmotionAccuracy,
    "emotion_confidence": EmotionConfidence,
    "format": Format,
    "reasoning_length": ReasoningLength,
}


def build_rewards(rewards: dict) -> tuple[list[Callable], list]:
    """Make the rewards of a stage.

    Args:
        rewards: name -> `recipe.Reward` (attributes `weight`, `params`, `import_path`).

    Returns:
        The callables and, in the same order, their weights (numbers or schedules).

    Raises:
        UserError: unknown name, impossible import, parameters that the reward does not take or does not
            accept.
    """
    return [_build(name, reward) for name, reward in rewards.items()], [reward.weight for reward in rewards.values()]


def _build(name: str, reward) -> Callable:
    """Make one reward; it answers to its name in the recipe."""
    if reward.import_path is not None:
        kind = _imported(name, reward.import_path)
    elif name in REWARDS:
        kind = REWARDS[name]
    else:
        raise UserError(
            f"rewards.{name}: unknown reward (choices: {', '.join(REWARDS)}, or `import: my_package.rewards:Kindness`)"
        )
    if not isinstance(kind, type):
        if reward.params:
            raise UserError(f"rewards.{name}: a function takes no parameters (got {', '.join(reward.params)})")
        return kind
    try:
        made = kind(**reward.params)
    except (TypeError, UserError) as error:
        raise UserError(f"rewards.{name}: {error}") from error
    if not callable(made):
        raise UserError(f"rewards.{name}.import: {reward.import_path} makes objects that cannot be called")
    if not hasattr(made, "__name__"):
        made.__name__ = name
    return made


def _imported(name: str, path: str) -> Callable:
    """Return the class or function that `package.module:Name` points to."""
    where = f"rewards.{name}.import"
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise UserError(f"{where}: {path!r} is not of the form package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{where}: cannot import {module_name}: {error}; install it, or put its folder on PYTHONPATH"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{where}: {module_name} has no class or function {attribute} (choices: {', '.join(names)})")
    return found
