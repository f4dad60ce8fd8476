"""A metric module as users load it."""

import evaluate

from empathy_trl.evaluation.metrics import path


def load(name, cache_dir=None):
    return evaluate.load(path(name), cache_dir=None if cache_dir is None else str(cache_dir))
