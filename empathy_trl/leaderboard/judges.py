"""Figures of different classifiers in columns of their own: an accuracy by one says nothing beside an accuracy by another."""

from collections import defaultdict

from empathy_trl.evaluation.judges import digests, kind_of_metric
from empathy_trl.leaderboard.entries import Entry

NOTE = (
    "What a classifier says of replies stands in a column for each one that was asked, named by a digest of its weights: the "
    "figures of two cannot be compared."
)
UNKNOWN = "not recorded"
SHOWN = 8  # letters of a digest


def columns_of(entries: list[Entry]) -> list[dict[str, str]]:
    """Return, for each entry, metric -> name of its column, of all metrics whose name is not that of the column.

    These are metrics that more than one model gave (`<metric> by <digest>`).
    """
    judges = [_judges(entry.evaluation) for entry in entries]
    given = defaultdict(set)
    for metric, judge in (pair for each in judges for pair in each.items()):
        given[metric].add(judge)
    return [
        {metric: f"{metric} by {judge}" for metric, judge in each.items() if len(given[metric]) > 1} for each in judges
    ]


def heading(words: str, column: str) -> str:
    """Return the heading of a column, from the words for its metric."""
    _, by, judge = column.partition(" by ")
    return f"{words} (classifier {judge})" if by else words


def _judges(evaluation: dict) -> dict[str, str]:
    """Return metric -> which model gave it, of the evaluation and its baselines."""
    known = digests(evaluation)
    tables = [evaluation["metrics"], *(evaluation.get("baselines") or {}).values()]
    kinds = {metric: kind_of_metric(metric) for table in tables for metric in table}
    return {metric: known[kind][:SHOWN] if kind in known else UNKNOWN for metric, kind in kinds.items() if kind}
