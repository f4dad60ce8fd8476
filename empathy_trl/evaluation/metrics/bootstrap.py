"""95 % bootstrap intervals: how far a metric would move if the test rows were drawn again.

The percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13): resample the rows
with replacement many times, compute the statistic on each resample, and report the 2.5th and 97.5th percentile. Two
models on the same rows are compared on the same resamples, which removes the difficulty of the rows from the
difference. With several seeds, the seeds are drawn again as well (`over_seeds`).
"""

import math
from collections.abc import Callable

import numpy as np

# Rows drawn at once, over many resamples: enough to be fast, and no more than 16 MB of indices.
_ROWS_AT_ONCE = 2_000_000


def bootstrap(statistic: Callable, *arrays, n_resamples: int = 2000, seed: int = 0):
    """Return `(value, low, high)` of a statistic, with its 95 % percentile interval.

    Args:
        statistic: takes the arrays with rows on the last axis, shape (rows,) or (resamples, rows), and
            returns a number, or an array of m numbers, for each: shape () or (m,) for the former,
            (resamples,) or (resamples, m) for the latter. `lambda x: x.mean(axis=-1)` is one. With m numbers
            all of them see the same draws.
        arrays: one-dimensional, all with the same number of rows, at least one.
        n_resamples: number of draws.
        seed: of the draws.

    Returns three floats, or three arrays of shape (m,). One row, or constant rows, give a width of 0.
    """
    value, draws = _resample(statistic, arrays, n_resamples, seed)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return (float(value), float(low), float(high)) if value.ndim == 0 else (value, low, high)


def _resample(statistic: Callable, arrays, n_resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a statistic, shape () or (m,), and what it is of every draw, shape (resamples,) or (resamples, m)."""
    arrays = [np.asarray(array) for array in arrays]
    sizes = {len(array) for array in arrays}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"bootstrap needs arrays of one equal length above 0, got {[len(array) for array in arrays]}")
    n = sizes.pop()
    generator = np.random.default_rng(seed)
    per_chunk = max(1, _ROWS_AT_ONCE // n)
    draws = []
    for start in range(0, n_resamples, per_chunk):
        rows = generator.integers(0, n, size=(min(per_chunk, n_resamples - start), n))
        draws.append(statistic(*(array[rows] for array in arrays)))
    return np.asarray(statistic(*arrays), dtype=float), np.concatenate(draws)


def bootstrap_sums(statistic: Callable, table):
    """Return `bootstrap` of a statistic of column sums, without a copy of the table for every draw.

    Args:
        statistic: takes sums of shape (columns,) or (resamples, columns) and returns what one of `bootstrap` does.
        table: shape (rows, columns).

    The draws are those of `bootstrap`.
    """
    table = np.asarray(table, dtype=float)
    return bootstrap(lambda rows: statistic(times_drawn(rows, len(table)) @ table), np.arange(len(table)))


def times_drawn(rows: np.ndarray, n: int) -> np.ndarray:
    """Count how often each of n rows is in each draw: (..., draws) becomes (..., n)."""
    draws = rows.reshape(-1, rows.shape[-1])
    counts = np.bincount((draws + np.arange(len(draws))[:, None] * n).ravel(), minlength=len(draws) * n)
    return counts.reshape(*rows.shape[:-1], n).astype(float)


def paired_bootstrap(correct_a, correct_b, n_resamples: int = 2000, seed: int = 0) -> dict:
    """Compare two models on the same rows: `{"difference", "low", "high", "p", "n"}`, the mean of b - a.

    Args:
        correct_a: per row, whether (or how well) model a did: booleans or numbers, shape (rows,).
        correct_b: the same for model b, on the same rows in the same order.

    The difference is established, at the 5 % level, when the interval excludes 0; `p` is that of `paired_statistics`.
    """
    a, b = np.asarray(correct_a, dtype=float), np.asarray(correct_b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"a paired comparison needs the same rows for both, got {len(a)} and {len(b)}")
    change = b - a
    return paired_statistics(lambda rows: change[rows].mean(axis=-1, keepdims=True), len(a), n_resamples, seed)[0]


def paired_statistics(change: Callable, n: int, n_resamples: int = 2000, seed: int = 0) -> list[dict]:
    """Compare statistics of two models on the same rows by one paired draw, as `paired_bootstrap` does for a mean.

    `p` is two-sided and goes with the percentile interval: twice the share of draws on the smaller side of 0, the other
    side being where the change lies; the data themselves count as one more draw, so that it is never 0 (Davison & Hinkley,
    Bootstrap Methods and their Application, 1997, chapter 4). Koehn 2004 compares translation systems in this way ("Statistical
    Significance Tests for Machine Translation Evaluation"). Of one row nothing can be said: p is 1.

    Args:
        change: takes row numbers, shape (n,) or (resamples, n), and returns the statistics of model b on these rows minus
            those of model a, shape (m,) or (resamples, m).
        n: number of rows.

    Returns one `{"difference", "low", "high", "p", "n"}` per statistic.
    """
    value, draws = _resample(change, [np.arange(n)], n_resamples, seed)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    tail = np.minimum((draws <= 0).sum(axis=0), (draws >= 0).sum(axis=0))
    p = np.minimum(1.0, 2 * (tail + 1) / (len(draws) + 1)) if n > 1 else np.ones_like(value)
    return _changes(value, low, high, p, n)


def over_seeds(statistics: list[Callable], seed: int = 1) -> Callable:
    """Return a statistic that is the mean over several seeds, whose interval holds for new seeds and new rows.

    Rows and seeds are drawn independently, as in the pigeonhole bootstrap (Owen 2007, "The pigeonhole bootstrap", Annals of
    Applied Statistics 1). A draw has one seed fewer than there are, because a draw of all of them would make the variance too
    small by the factor (seeds - 1) / seeds (Rao & Wu 1988, "Resampling inference with complex survey data", JASA 83).

    Args:
        statistics: one per seed; each takes row numbers, shape (n,) or (resamples, n), and returns shape (m,) or (resamples, m).
        seed: of the draws; two sides with the same seeds of training take the same, so that these are drawn for both at once.

    A single statistic is returned as it is.
    """
    if len(statistics) == 1:
        return statistics[0]
    generator = np.random.default_rng(seed)

    def mean(rows: np.ndarray) -> np.ndarray:
        each = np.stack([statistic(rows) for statistic in statistics])
        if rows.ndim == 1:
            return each.mean(axis=0)
        drawn = generator.integers(0, len(each), (len(rows), len(each) - 1))
        return each[drawn, np.arange(len(rows))[:, None]].mean(axis=1)

    return mean


def jackknife(statistic: Callable, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return statistics of all rows, and their standard errors, both of shape (m,).

    For what a bootstrap distorts, such as the number of different words, because it draws rows twice. The jackknife leaves
    out one of ten parts each time, the rows dealt out in turn (Efron & Tibshirani 1993, chapter 11). Of one row the error is 0.

    Args:
        statistic: takes row numbers, shape (k,), also none, and returns shape (m,).
        n: number of rows.
    """
    rows, folds = np.arange(n), min(10, n)
    left = np.array([statistic(rows[rows % folds != fold]) for fold in range(folds)])
    error = np.sqrt((folds - 1) / folds * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    return np.asarray(statistic(rows), dtype=float), error


def paired_jackknife(change: Callable, n: int, variance: np.ndarray | float = 0.0) -> list[dict]:
    """Compare statistics of two models on the same rows by the `jackknife`.

    Interval and two-sided p-value are those of a normal distribution with its standard error. Of one row p is 1.

    Args:
        change: as for `paired_statistics`, but only ever called with rows of shape (k,).
        n: number of rows.
        variance: of the statistics over the seeds of training, if there are several; it is added to that over the rows.
    """
    value, error = jackknife(change, n)
    error = np.sqrt(error**2 + variance)
    z = np.divide(np.abs(value), error, out=np.where(value == 0, 0.0, np.inf), where=error > 0)
    p = np.array([math.erfc(each / math.sqrt(2)) for each in z]) if n > 1 else np.ones_like(value)
    return _changes(value, value - 1.96 * error, value + 1.96 * error, p, n)


def _changes(value, low, high, p, n: int) -> list[dict]:
    return [
        {"difference": float(d), "low": float(l), "high": float(h), "p": float(q), "n": n}
        for d, l, h, q in zip(value, low, high, p, strict=True)
    ]


def figures(names: list[str], value, low, high, n) -> dict[str, dict]:
    """Return name -> metric, `{"value", "low", "high", "n"}`, for the arrays that `bootstrap` returns.

    Args:
        value, low, high: shape (names,).
        n: number of rows, one for all or shape (names,).
    """
    table = np.stack([value, low, high], axis=-1).tolist()
    rows = np.broadcast_to(n, len(names)).tolist()
    return {
        name: {"value": v, "low": l, "high": h, "n": k} for name, (v, l, h), k in zip(names, table, rows, strict=True)
    }


def mean_figure(values: list) -> dict:
    """Return the mean of numbers or booleans as a metric: `{"value", "low", "high", "n"}`."""
    value, low, high = bootstrap(lambda draw: draw.mean(axis=-1), np.asarray(values, dtype=float))
    return {"value": value, "low": low, "high": high, "n": len(values)}


def mean_figures(columns: dict[str, list]) -> dict[str, dict]:
    """Return `mean_figure` of every column that has a value; None counts for nothing.

    Columns with values in the same rows share their draws, which is what makes many of them fast.

    Args:
        columns: name -> one number, boolean or None per row, all of equal length.
    """
    groups, found = {}, {}
    for name, values in columns.items():
        groups.setdefault(tuple(value is not None for value in values), []).append(name)
    for there, names in groups.items():
        if not any(there):
            continue
        table = np.array([[value for value in columns[name] if value is not None] for name in names], dtype=float).T
        found |= figures(names, *_means(table), len(table))
    return {name: found[name] for name in columns if name in found}


def _means(table: np.ndarray) -> list[np.ndarray]:
    """Return the means of the columns and the ends of their intervals, each of shape (columns,)."""
    parts = bootstrap_sums(lambda sums: sums / len(table), table)
    return [
        np.round(part, 12) + 0.0 for part in parts
    ]  # sums of a constant differ by rounding, and -0.000 is no figure


def with_interval(figure: dict) -> str:
    """Return a metric `{"value", "low", "high"}` as `0.610 [0.557, 0.662]`.

    A mean over several seeds also has the standard deviation over them, `sd`: `0.610 ± 0.012 [0.557, 0.662]`.
    """
    spread = "" if figure.get("sd") is None else f" ± {figure['sd']:.3f}"
    interval = "" if None in (figure["low"], figure["high"]) else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.3f}{spread}{interval}"
