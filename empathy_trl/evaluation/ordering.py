"""How often is the better of two replies to one context given the higher score?"""

import itertools
from collections.abc import Sequence

import numpy as np

from empathy_trl.evaluation.intervals import bootstrap


def pairs_of(contexts: Sequence, ratings: Sequence) -> list[tuple[int, int]]:
    """Return the row numbers (better, worse) of every two replies to one context whose ratings differ.

    Args:
        contexts: what every reply answers.
        ratings: a number per reply, or a sequence that holds just one.
    """
    values = np.asarray(ratings, dtype=float).reshape(len(contexts)).tolist()
    rows_of = {}
    for row, context in enumerate(contexts):
        rows_of.setdefault(context, []).append(row)
    couples = (couple for rows in rows_of.values() for couple in itertools.combinations(rows, 2))
    return [(a, b) if values[a] > values[b] else (b, a) for a, b in couples if values[a] != values[b]]


def right_order(scores: Sequence[float], pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return for every pair (better, worse) 1 where the better one has the higher score, 0.5 for a tie, else 0."""
    scores, pairs = np.asarray(scores, dtype=float), np.asarray(pairs, dtype=int).reshape(-1, 2)
    return (1 + np.sign(scores[pairs[:, 0]] - scores[pairs[:, 1]])) / 2


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
