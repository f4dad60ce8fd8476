"""Rewards: one class per idea, each a small dataclass whose fields are its parameters in a recipe.

`Reward` in `base` defines what a reward is. This module reads the `rewards:` section of a recipe:

    emotion_accuracy: {}                                     # a key of `REWARDS`; the weight is 1
    format: {weight: 0.2, tags: [reasoning, answer]}         # weight, and parameters of the class
    kindness: {import: "my_package.rewards:Kindness"}        # your own: a subclass of `Reward`, another class, or a function
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from empathy_trl.errors import RecipeError, UserError, show, suggestion
from empathy_trl.io import import_object
from empathy_trl.rewards.base import Reward, WeightSchedule, as_reward
from empathy_trl.rewards.emotion import EmotionAccuracy, EmotionAlignment, EmotionConfidence, GroundedReasoning
from empathy_trl.rewards.format import Format, FormatPenalty, Length, ReasoningLength, SentenceEnd, StageFormat
from empathy_trl.rewards.learned import EmpathyModel, Epitome, QualityCritic, RewardModel, SemanticSimilarity
from empathy_trl.rewards.llm_judge import LLMJudge
from empathy_trl.rewards.ngrams import Bleu, Distinct, RepetitionPenalty
from empathy_trl.rewards.recommendation import Recommendation
from empathy_trl.rewards.safety import Safety, SafetyClassifier
from empathy_trl.rewards.staged import Foresight, Reaction, Reflection, Response

REWARDS = {
    "bleu": Bleu,
    "distinct": Distinct,
    "emotion_accuracy": EmotionAccuracy,
    "emotion_alignment": EmotionAlignment,
    "emotion_confidence": EmotionConfidence,
    "empathy_model": EmpathyModel,
    "epitome": Epitome,
    "foresight": Foresight,
    "format": Format,
    "format_penalty": FormatPenalty,
    "grounded_reasoning": GroundedReasoning,
    "length": Length,
    "llm_judge": LLMJudge,
    "quality_critic": QualityCritic,
    "reaction": Reaction,
    "reasoning_length": ReasoningLength,
    "recommendation": Recommendation,
    "reflection": Reflection,
    "repetition_penalty": RepetitionPenalty,
    "response": Response,
    "reward_model": RewardModel,
    "safety": Safety,
    "safety_classifier": SafetyClassifier,
    "semantic_similarity": SemanticSimilarity,
    "sentence_end": SentenceEnd,
    "stage_format": StageFormat,
}


Problem = tuple[tuple[str, ...], str]  # the keys that lead to a wrong value, and a message about it


def load_rewards(rewards: dict | list) -> list[Reward]:
    """Return the rewards of a recipe's `rewards:` section as functions for any TRL trainer.

        rewards = load_rewards({"emotion_accuracy": {}, "format": {"weight": 0.2, "tags": ["reasoning", "answer"]}})
        config = GRPOConfig(reward_weights=[reward.weight for reward in rewards], ...)
        trainer = GRPOTrainer(reward_funcs=rewards, args=config, ...)

    Args:
        rewards: name -> `{"weight": 1.0, "import": "package.module:Class", **parameters}`, each of which may be left out;
            or a function in TRL's signature, or a `Reward`, such as those of `recipe.stages[...].rewards`. Or a list of
            `Reward`s, as this function returns it.

    Returns:
        One `Reward` per name, in order: `reward(prompts, completions, **columns)` gives one number per completion, or
        None if it does not apply. `reward.__name__` is its name, `reward.weight` its weight: a number, or a schedule,
        which `EmpathyGRPOTrainer(reward_weights=...)` accepts and TRL does not. A reward with a model loads it at its
        first call; one that queries the policy (`emotion_confidence`) needs `EmpathyGRPOTrainer`. A `Reward` is copied,
        so a trainer does not change the original.

    Raises:
        RecipeError: an unknown name, a parameter that the reward does not take or does not accept; one line per problem.
    """
    if isinstance(rewards, list) and all(isinstance(reward, Reward) for reward in rewards):
        rewards = {reward.__name__: reward for reward in rewards}
    if not isinstance(rewards, dict):
        raise UserError(f"rewards: {show(rewards)} is not a mapping from a reward's name to its weight and parameters")
    read, problems = read_rewards({name: entry for name, entry in rewards.items() if not callable(entry)})
    if problems:
        raise RecipeError([f"{'.'.join(path)}: {message}" for path, message in problems])
    return [as_reward(read.get(name, entry), name) for name, entry in rewards.items()]


def read_rewards(entries: Any) -> tuple[dict[str, Reward], list[Problem]]:
    """Return the rewards that a `rewards:` mapping describes, and what is wrong with the other entries.

    What is not a mapping has no rewards; that it is not one is for the caller to say.
    """
    rewards, problems = {}, []
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        reward, wrong = _read_entry(name, entry)
        if reward is not None:
            rewards[name] = reward
        problems += [(("rewards", name, *path), message) for path, message in wrong]
    return rewards, problems


def _read_entry(name: str, entry: Any) -> tuple[Reward | None, list[Problem]]:
    """Return the reward of one entry, or None and what is wrong with it."""
    if not isinstance(entry, dict):
        return None, [((), f"{show(entry)} is not a mapping; expected at least {{}}, such as {{weight: 1.0}}")]
    if "import" not in entry and name not in REWARDS:
        return None, [((), f"unknown reward{suggestion(name, REWARDS)}")]
    params = {key: value for key, value in entry.items() if key not in ("weight", "import")}
    path = entry.get("import")
    try:
        kind = import_object("import", path) if "import" in entry else REWARDS[name]
        weight, problems = _read_weight(entry.get("weight", 1.0))
        problems += _check_parameters(kind, params, f"parameter of {name}", ("weight", "import"))
        if problems:
            return None, problems
        reward = as_reward(_make(kind, params, path), name)
    except UserError as error:
        return None, [(("import",) if "import" in entry else (), str(error).removeprefix("import: "))]
    if reward.range[1] <= 0 and min(_ends(weight)) < 0:
        message = (
            f"{name} is never positive, so a negative weight would reward what it should penalise; expected one above 0"
        )
        return None, [(("weight",), message)]
    vars(reward).update(weight=weight, params=params, import_path=path)
    return reward, []


def _make(kind: Callable, params: dict, path: str | None) -> Callable:
    """Return a reward of a class, or the function itself. Raises UserError with whatever the class has to object."""
    if not isinstance(kind, type):
        if params:
            raise UserError(f"a function takes no parameters (got {', '.join(params)})")
        return kind
    try:
        made = kind(**params)
    except Exception as error:  # the user's own code may raise anything
        if path is None and isinstance(error, UserError):
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in params.items())
        raise UserError(f"{path or kind.__name__}({given}) raises {type(error).__name__}: {error}") from error
    if not callable(made):
        raise UserError(f"{path} creates objects that are not callable")
    return made


def _read_weight(value: Any) -> tuple[float | WeightSchedule | None, list[Problem]]:
    """Return a weight or a schedule, and what is wrong with it."""
    if isinstance(value, dict):
        problems = list(_check_parameters(WeightSchedule, value, "key"))
        if not problems:
            try:
                return WeightSchedule(**{key: float(number) for key, number in value.items()}), []
            except UserError as error:
                key, _, message = str(error).partition(": ")
                problems = [((key,), message)]
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        problems = [((), f"{show(value)} is not a valid float or mapping of start, end, until")]
    elif not math.isfinite(value):
        problems = [((), f"{show(value)} is not finite")]
    else:
        return float(value), []
    return None, [(("weight", *path), message) for path, message in problems]


def _ends(weight: float | WeightSchedule) -> tuple[float, ...]:
    return (weight.start, weight.end) if isinstance(weight, WeightSchedule) else (weight,)


def _check_parameters(kind: Callable, params: dict, what: str, others: tuple = ()) -> Iterator[Problem]:
    """Yield which keys are no fields of a dataclass, which values have another type than the field, and what is missing.

    `others` are keys beside the fields, for suggestions. Values are typed as strictly as JSON is. Another class, or a function,
    is left to object by itself.
    """
    if not dataclasses.is_dataclass(kind):
        return
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key, value in params.items():
        if key not in fields:
            yield (key,), f"unknown {what}{suggestion(key, [*fields, *others])}"
        elif message := _type_problem(value, hints[key]):
            yield (key,), message
    for name, field in fields.items():
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_required and name not in params:
            yield (name,), f"missing; expected {_type_name(hints[name])}"


def _type_problem(value: Any, hint: Any) -> str | None:
    try:
        TypeAdapter(hint).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValidationError:
        if typing.get_origin(hint) is Literal:
            return f"unknown choice {show(value)}{suggestion(str(value), typing.get_args(hint))}"
        return f"{show(value)} is not a valid {_type_name(hint)}"
    except ValueError:  # json: not a number, or infinite
        return f"{show(value)} is not finite"
    return None


def _type_name(hint: Any) -> str:
    """Return a type in words, without the null that a parameter may also be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(each) for each in arguments if each is not type(None))
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    return "mapping" if dict in (hint, origin) else hint.__name__
