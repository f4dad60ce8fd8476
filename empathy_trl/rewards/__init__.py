"""Rewards: one class per idea, each a small dataclass whose fields are its parameters in a recipe.

`Reward` in `base` says what a reward is. A recipe names a reward of this package by its key in `REWARDS`, or brings its own
with `import: my_package.rewards:Kindness`: a subclass of `Reward` or any other class, made with the recipe's parameters, or
a plain function.
"""

from collections.abc import Callable

from empathy_trl.errors import UserError
from empathy_trl.io import import_object
from empathy_trl.rewards.base import Reward, as_reward
from empathy_trl.rewards.emotion import EmotionAccuracy, EmotionAlignment, EmotionConfidence
from empathy_trl.rewards.foresight import Foresight
from empathy_trl.rewards.format import Format, FormatPenalty, Length, ReasoningLength, SentenceEnd, StageFormat
from empathy_trl.rewards.learned import EmpathyModel, Epitome, QualityCritic, RewardModel, SemanticSimilarity
from empathy_trl.rewards.llm_judge import LLMJudge
from empathy_trl.rewards.ngrams import Bleu, Distinct, RepetitionPenalty
from empathy_trl.rewards.recommendation import Recommendation
from empathy_trl.rewards.safety import Safety, SafetyClassifier
from empathy_trl.rewards.staged import Reaction, Reflection, Response

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


def build_rewards(rewards: dict) -> tuple[list[Reward], list]:
    """Make the rewards of a stage.

    Args:
        rewards: name -> `recipe.Reward` (attributes `weight`, `params`, `import_path`).

    Returns:
        The rewards and, in the same order, their weights (numbers or schedules).

    Raises:
        UserError: unknown name, impossible import, parameters that the reward does not take or does not
            accept; of a user's own reward, whatever its module or its constructor raises.
    """
    return [_build(name, reward) for name, reward in rewards.items()], [reward.weight for reward in rewards.values()]


def load_rewards(rewards: dict) -> list[Reward]:
    """Return the rewards that a recipe's `rewards:` would give, as functions for any trainer of TRL.

        rewards = load_rewards({"emotion_accuracy": {}, "format": {"weight": 0.2, "tags": ["reasoning", "answer"]}})
        config = GRPOConfig(reward_weights=[reward.weight for reward in rewards], ...)
        trainer = GRPOTrainer(reward_funcs=rewards, args=config, ...)

    Args:
        rewards: name -> `{"weight": 1.0, "import": "package.module:Class", **parameters}`, each of which may be left out,
            or a `recipe.Reward`.

    Returns:
        One callable per reward, in order: `reward(prompts, completions, **columns)` gives one number per completion, or
        None where it does not apply. `reward.__name__` is its name, `reward.weight` its weight: a number, or a schedule,
        which `EmpathyGRPOTrainer(reward_weights=...)` takes and TRL does not. A reward that has a model loads it when it
        is called first; one that asks the policy (`emotion_confidence`) needs `EmpathyGRPOTrainer`.

    Raises:
        UserError: an unknown name, or parameters that the reward does not take or does not accept.
    """
    made, weights = build_rewards(as_rewards(rewards))
    for reward, weight in zip(made, weights, strict=True):
        reward.weight = weight
    return made


def as_rewards(rewards: dict) -> dict:
    """Return name -> `recipe.Reward`; what stands there as in YAML is checked as a recipe is."""
    if not isinstance(rewards, dict):
        raise UserError(f"rewards: {rewards!r} is not a mapping from a reward's name to its weight and parameters")
    plain = {name: reward for name, reward in rewards.items() if isinstance(reward, dict)}
    if not plain:
        return rewards
    from empathy_trl.recipe import read_rewards

    return rewards | read_rewards(plain)


def _build(name: str, reward) -> Reward:
    """Make one reward; it answers to its name in the recipe, so that two of one class are logged apart."""
    if reward.import_path is not None:
        kind = import_reward(name, reward.import_path)
    elif name in REWARDS:
        kind = REWARDS[name]
    else:
        raise UserError(
            f"rewards.{name}: unknown reward (choices: {', '.join(REWARDS)}, or `import: my_package.rewards:Kindness`)"
        )
    if not isinstance(kind, type) and reward.params:
        raise UserError(f"rewards.{name}: a function takes no parameters (got {', '.join(reward.params)})")
    return as_reward(_made(name, kind, reward) if isinstance(kind, type) else kind, name)


def _made(name: str, kind: type, reward) -> Callable:
    """Return an object of a reward's class, made with the recipe's parameters."""
    if reward.import_path is None:
        try:
            return kind(**reward.params)
        except (TypeError, UserError) as error:
            raise UserError(f"rewards.{name}: {error}") from error
    where = f"rewards.{name}.import: {reward.import_path}"
    try:
        made = kind(**reward.params)
    except Exception as error:  # the user's own code, which may raise anything
        given = ", ".join(f"{key}={value!r}" for key, value in reward.params.items())
        raise UserError(f"{where}({given}) raises {type(error).__name__}: {error}") from error
    if not callable(made):
        raise UserError(f"{where} makes objects that cannot be called")
    return made


def import_reward(name: str, path: str) -> Callable:
    """Return the class or function that `package.module:Name` points to.

    Args:
        name: of the reward in the recipe, for messages.
        path: where it is.

    Raises:
        UserError: the path has another form, or the module cannot be imported or has no such class or function.
    """
    return import_object(f"rewards.{name}.import", path)
