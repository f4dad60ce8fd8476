"""Scores of predicted ratings: how far off (MAE), and how well ordered (Pearson, Spearman).

A correlation alone can be high for a model whose every value is too low, and an error alone is lowest for one that
dares nothing: both are always reported, beside the row of a predictor that always says the mean of the training labels.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from empathy_trl.evaluation.intervals import bootstrap, figures

FIGURES = ("mae", "pearson", "spearman")
MEAN = "mean"  # over the ratings


def score_ratings(predicted: np.ndarray, gold: np.ndarray, names: list[str]) -> dict[str, dict]:
    """Score predicted ratings.

    Args:
        predicted, gold: shape (rows, ratings), in units of the labels.
        names: of the ratings.

    Returns `mae_<name>`, `pearson_<name>`, `spearman_<name>` for every rating and for `mean`, the mean over the
    ratings; each `{"value", "low", "high", "n"}` with a 95 % bootstrap interval. A correlation with a constant is 0: it
    orders nothing.

    Raises:
        ValueError: no rows, or unequal shapes.
    """
    keys, statistic = rating_statistics(predicted, gold, names)
    return figures(keys, *bootstrap(statistic, np.arange(len(gold))), len(gold))


def rating_statistics(predicted: np.ndarray, gold: np.ndarray, names: list[str]) -> tuple[list[str], Callable]:
    """Return the names of the metrics of `score_ratings`, and what they are of any rows.

    The latter takes row numbers, shape (..., rows), and returns shape (..., metrics). Raises what `score_ratings` raises.
    """
    predicted, gold = np.asarray(predicted, dtype=float), np.asarray(gold, dtype=float)
    if predicted.shape != gold.shape or predicted.ndim != 2 or not len(gold):
        raise ValueError(f"expected equal shapes (rows, ratings), got {predicted.shape} and {gold.shape}")

    def statistic(rows: np.ndarray) -> np.ndarray:
        a, b = (np.moveaxis(table[rows], -1, -2) for table in (predicted, gold))  # (..., ratings, rows)
        parts = [np.abs(a - b).mean(axis=-1), pearson(a, b), pearson(rankdata(a, axis=-1), rankdata(b, axis=-1))]
        return np.concatenate([value for part in parts for value in (part, part.mean(axis=-1, keepdims=True))], axis=-1)

    return [f"{figure}_{name}" for figure in FIGURES for name in (*names, MEAN)], statistic


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation along the last axis, 0 where either side is constant, nan where a value is nan."""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    # rounding leaves a trace of spread in a constant
    tiny = 1e-12 * a.shape[-1]
    return np.where(scale <= tiny, 0.0, (a * b).sum(axis=-1) / np.maximum(scale, tiny))
