"""Language models and classifiers: loading, tiny models from scratch, generation and scoring.

The names of `__all__` are imported when they are first used, so that `import empathy_trl.models` does not import torch.
"""

import importlib

_EXPORTS = {"load_classifier": "classifier", "load_model": "load", "predict": "scorer"}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
