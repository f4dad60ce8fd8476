"""Language models and classifiers: loading, making tiny ones, generating with them and scoring with them.

The names of `__all__` are imported when they are first used, so that `import empathy_trl.models` costs no torch import.
"""

import importlib

_EXPORTS = {"load_classifier": "classifier", "load_model": "load", "predict": "scorer"}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
