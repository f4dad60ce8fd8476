"""empathy-trl: recipes that train language models to respond with empathy.

Names are loaded when they are first used, so that `import empathy_trl` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # what an editor reads; `_EXPORTS` says the same at run time
    from empathy_trl.chat import Chat
    from empathy_trl.errors import DataError, JudgeFailed, RecipeError, StopTraining, UserError
    from empathy_trl.evaluation.compare import compare
    from empathy_trl.evaluation.evaluate import evaluate_model
    from empathy_trl.hub.pull import pull
    from empathy_trl.hub.push import push
    from empathy_trl.models.classifier import load_classifier
    from empathy_trl.models.generate import generate
    from empathy_trl.models.load import load_model
    from empathy_trl.models.scorer import predict
    from empathy_trl.recipe import load_data, load_recipe
    from empathy_trl.rewards import load_rewards
    from empathy_trl.rewards.explain import explain_rewards
    from empathy_trl.tasks import run_recipe
    from empathy_trl.trainers.grpo import EmpathyGRPOConfig, EmpathyGRPOTrainer
    from empathy_trl.trainers.ppo import EmpathyPPOTrainer, PPOConfig

# name -> module, or module:attribute where the attribute has another name
_EXPORTS = {
    "Chat": "empathy_trl.chat",
    "DataError": "empathy_trl.errors",
    "EmpathyGRPOConfig": "empathy_trl.trainers.grpo",
    "EmpathyGRPOTrainer": "empathy_trl.trainers.grpo",
    "EmpathyPPOTrainer": "empathy_trl.trainers.ppo",
    "JudgeFailed": "empathy_trl.errors",
    "PPOConfig": "empathy_trl.trainers.ppo",
    "RecipeError": "empathy_trl.errors",
    "StopTraining": "empathy_trl.errors",
    "UserError": "empathy_trl.errors",
    "compare": "empathy_trl.evaluation.compare",
    "evaluate_model": "empathy_trl.evaluation.evaluate",
    "explain_rewards": "empathy_trl.rewards.explain",
    "generate": "empathy_trl.models.generate",
    "load_classifier": "empathy_trl.models.classifier",
    "load_data": "empathy_trl.recipe",
    "load_model": "empathy_trl.models.load",
    "load_recipe": "empathy_trl.recipe",
    "load_rewards": "empathy_trl.rewards",
    "predict": "empathy_trl.models.scorer",
    "pull": "empathy_trl.hub.pull",
    "push": "empathy_trl.hub.push",
    "run_recipe": "empathy_trl.tasks",
}
__all__ = [
    "Chat",
    "DataError",
    "EmpathyGRPOConfig",
    "EmpathyGRPOTrainer",
    "EmpathyPPOTrainer",
    "JudgeFailed",
    "PPOConfig",
    "RecipeError",
    "StopTraining",
    "UserError",
    "__version__",
    "compare",
    "evaluate_model",
    "explain_rewards",
    "generate",
    "load_classifier",
    "load_data",
    "load_model",
    "load_recipe",
    "load_rewards",
    "predict",
    "pull",
    "push",
    "run_recipe",
]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r} (it has {', '.join(__all__)})")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
