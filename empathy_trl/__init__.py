"""empathy-trl: recipes that train language models to respond with empathy.

Names are loaded when they are first used, so that `import empathy_trl` costs no torch import.
"""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "DataError": "empathy_trl.errors",
    "EmpathyGRPOTrainer": "empathy_trl.trainers.grpo",
    "RecipeError": "empathy_trl.errors",
    "StopTraining": "empathy_trl.errors",
    "UserError": "empathy_trl.errors",
    "load_model": "empathy_trl.models.load",
    "load_recipe": "empathy_trl.recipe",
}
__all__ = [
    "DataError",
    "EmpathyGRPOTrainer",
    "RecipeError",
    "StopTraining",
    "UserError",
    "__version__",
    "load_model",
    "load_recipe",
]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r} (it has {', '.join(__all__)})")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
