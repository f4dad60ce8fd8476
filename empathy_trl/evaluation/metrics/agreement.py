"""Metrics that compare predictions with gold labels: emotions and classes, ratings, and the order of replies.

* Emotions and classes: accuracy, macro-F1, precision and recall from a confusion matrix. An answer that is not a label
  is invalid; it counts as wrong and has its own column.
* Ratings: mean absolute error, Pearson and Spearman correlation. Report both kinds: a model whose values are all too
  low can have a high correlation, and a model that always predicts the mean has a small error.
* Order: how often the better of two replies to the same context has the higher score.

Baselines are scored by the same functions as models.
"""

from collections.abc import Callable, Sequence

import numpy as np

from empathy_trl.evaluation.metrics.bootstrap import bootstrap, figures, mean_figure
from empathy_trl.models.label_schema import pearson, right_order
from empathy_trl.tags import completion_text, read_answer, tag_bodies, thought_text
from empathy_trl.text import words

INVALID = "invalid"


def reasoning_words(completion: str) -> int:
    """Count the words inside `<reasoning>`; without that tag, the words before `<answer>`."""
    text = completion_text(completion)
    bodies = tag_bodies(text, "reasoning") or [text.split("<answer>")[0]]
    return sum(len(body.split()) for body in bodies)


def thought_words(completions: list[str]) -> list[int]:
    """Count the words of the thoughts of each completion; an empty list if no completion has a thought."""
    counts = [len(words(thought_text(completion))) for completion in completions]
    return counts if any(counts) else []


def score_emotions(completions: list[str], gold: list[str], labels) -> tuple[dict, list[str | None], dict]:
    """Score completions: `(metrics, predictions, confusion)`.

    Args:
        completions: generated texts, one per row.
        gold: the label of each row, each one of `labels`.
        labels: the emotions, in the order of the report.

    Returns the metrics and the confusion of `score_predictions`, with three metrics more: `invalid_share` (in
    [0, 1]), `mean_reasoning_words` and, if there are thoughts, `mean_thought_words`; and the predictions, None where
    the answer is invalid.
    """
    predictions = [read_answer(completion, labels) for completion in completions]
    metrics, confusion = score_predictions(predictions, gold, labels)
    metrics["invalid_share"] = mean_figure([prediction is None for prediction in predictions])
    metrics["mean_reasoning_words"] = mean_figure([reasoning_words(completion) for completion in completions])
    if counts := thought_words(completions):
        metrics["mean_thought_words"] = mean_figure(counts)
    return metrics, predictions, confusion


def score_predictions(predictions: list[str | None], gold: list[str], labels) -> tuple[dict, dict]:
    """Score predicted labels: `(metrics, confusion)`. A prediction that is no label, such as None, is invalid.

    Metrics are `accuracy`, `macro_f1` (mean over all labels), `precision_<label>` and `recall_<label>`, each
    `{"value", "low", "high", "n"}`: a value in [0, 1], its 95 % bootstrap interval, and the rows it is a
    share of (all of them; for precision those predicted as the label, for recall those of the label). A share
    of no rows is 0. `confusion` is `{"rows": labels, "columns": labels + ["invalid"], "counts"}`, rows gold,
    columns predicted.

    Raises:
        ValueError: no rows, unequal lengths, or a gold label that is not one of `labels`.
    """
    labels = list(labels)
    cells = _cells(predictions, gold, labels)
    # One draw of rows serves all metrics: each is a function of the confusion counts of the draw.
    intervals = bootstrap(lambda draw: _shares(_count(draw, len(labels))), cells)
    counts = _count(cells, len(labels))
    rows = [len(gold), len(gold), *counts[:, :-1].sum(axis=0), *counts.sum(axis=1)]
    metrics = figures(_names(labels), *intervals, rows)
    return metrics, {"rows": labels, "columns": [*labels, INVALID], "counts": counts.tolist()}


def share_statistics(predictions: list[str | None], gold: list[str], labels) -> tuple[list[str], Callable]:
    """Return the names of the metrics of `score_predictions`, and what they are of any rows.

    The latter takes row numbers, shape (..., rows), and returns shape (..., metrics).
    """
    labels = list(labels)
    cells = _cells(predictions, gold, labels)
    return _names(labels), lambda rows: _shares(_count(cells[rows], len(labels)))


def _names(labels: list[str]) -> list[str]:
    return ["accuracy", "macro_f1", *(f"{share}_{label}" for share in ("precision", "recall") for label in labels)]


def _cells(predictions: list[str | None], gold: list[str], labels: list[str]) -> np.ndarray:
    """Return the cell of the confusion matrix that each row counts in, shape (rows,)."""
    if not gold or len(predictions) != len(gold):
        raise ValueError(f"expected as many predictions as gold labels; got {len(predictions)} and {len(gold)}")
    for row, label in enumerate(gold):
        if label not in labels:
            raise ValueError(f"row {row}: gold label {label!r} is not one of {labels}")
    column, invalid = {label: number for number, label in enumerate(labels)}, len(labels)
    pairs = zip(gold, predictions, strict=True)
    return np.array([column[label] * (invalid + 1) + column.get(answer, invalid) for label, answer in pairs])


def _count(cells: np.ndarray, n_labels: int) -> np.ndarray:
    """Count confusion cells, shape (..., rows), into matrices of shape (..., labels, labels + 1)."""
    size = n_labels * (n_labels + 1)
    draws = cells.reshape(-1, cells.shape[-1])
    offsets = np.arange(len(draws))[:, None] * size
    counts = np.bincount((draws + offsets).ravel(), minlength=len(draws) * size)
    return counts.reshape(*cells.shape[:-1], n_labels, n_labels + 1)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Accuracy, macro-F1, precisions and recalls of confusion matrices, side by side on the last axis."""
    right = np.diagonal(counts[..., :-1], axis1=-2, axis2=-1)
    predicted, gold = counts[..., :-1].sum(axis=-2), counts.sum(axis=-1)
    accuracy = right.sum(axis=-1, keepdims=True) / gold.sum(axis=-1, keepdims=True)
    # A denominator of 0 means a numerator of 0: dividing by 1 instead makes the share 0.
    f1 = 2 * right / np.maximum(predicted + gold, 1)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(gold, 1)
    return np.concatenate([accuracy, f1.mean(axis=-1, keepdims=True), precision, recall], axis=-1)


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
    from scipy.stats import rankdata  # takes a second

    predicted, gold = np.asarray(predicted, dtype=float), np.asarray(gold, dtype=float)
    if predicted.shape != gold.shape or predicted.ndim != 2 or not len(gold):
        raise ValueError(f"expected equal shapes (rows, ratings), got {predicted.shape} and {gold.shape}")

    def statistic(rows: np.ndarray) -> np.ndarray:
        a, b = (np.moveaxis(table[rows], -1, -2) for table in (predicted, gold))  # (..., ratings, rows)
        parts = [np.abs(a - b).mean(axis=-1), pearson(a, b), pearson(rankdata(a, axis=-1), rankdata(b, axis=-1))]
        return np.concatenate([value for part in parts for value in (part, part.mean(axis=-1, keepdims=True))], axis=-1)

    return [f"{figure}_{name}" for figure in FIGURES for name in (*names, MEAN)], statistic


def pair_accuracy(scores: Sequence[float], pairs: Sequence[tuple[int, int]], contexts: Sequence) -> dict:
    """Return the share of pairs in the right order, `{"value", "low", "high", "n"}`, n being the number of pairs.

    Pairs of one context share replies, so the 95 % interval comes from drawing whole contexts.

    Args:
        scores, contexts: of every reply.
        pairs: from `pairs_of`, at least one.
    """
    right, count = {}, {}
    for (better, _), value in zip(pairs, right_order(scores, pairs).tolist(), strict=True):
        right[contexts[better]] = right.get(contexts[better], 0.0) + value
        count[contexts[better]] = count.get(contexts[better], 0) + 1
    value, low, high = bootstrap(
        lambda good, all_of: good.sum(axis=-1) / all_of.sum(axis=-1), list(right.values()), list(count.values())
    )
    return {"value": value, "low": low, "high": high, "n": len(pairs)}
