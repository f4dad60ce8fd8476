"""Kind `pairs`: a score that orders the replies to one context, and how often it puts the better one first."""

from pathlib import Path

import numpy as np

from empathy_trl.data import targets
from empathy_trl.errors import DataError
from empathy_trl.evaluation.base import NAMES, both_texts, tfidf_ridge
from empathy_trl.evaluation.metrics.agreement import pair_accuracy, pairs_of, right_order
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.models.scorer import predict_outputs
from empathy_trl.text import words

ROWS_OF = "regress"
MAIN = "pair_accuracy"
MAIN_WORDS = "pair accuracy"
GOLD = "label"  # what a row is held against
VERSION = 1
PAIRED = False  # of pairs, not of rows
NOTE = (
    "n replies. Pair accuracy is the share of all pairs of replies to one context with different ratings in which the better "
    "one has the higher score; a tie counts half. 95 % bootstrap intervals over contexts. Chance is 0.5; a model that hardly "
    "beats the longer reply has learned to count words."
)


def predict(model, tokenizer, stage, rows, batch_size: int | None) -> list[float]:
    """Return the score of each row."""
    return predict_outputs(model, rows)[:, 0].tolist()


def score(stage, rows, train, predictions: list[float], rewards) -> tuple[dict, list[dict]]:
    """Return `metrics`, `baselines` and `ratings` (the one name), and one row per reply.

    Raises:
        DataError: no two of the rows can be compared.
    """
    (name,), texts, contexts = targets(stage.data), both_texts(rows), list(rows["context"])
    gold = [rating for (rating,) in rows["labels"]]
    pairs = pairs_of(contexts, gold)
    if not pairs:
        raise DataError(f"no two of the {len(rows)} evaluated replies have the same context and different ratings")
    others = {
        "chance": np.zeros(len(rows)),
        "longer": [len(words(reply)) for reply in rows["pair"]],
        "tfidf_ridge": tfidf_ridge(both_texts(train), np.asarray(train["labels"], dtype=float), texts)[:, 0],
    }
    shares = _shares(predictions, pairs)
    table = [
        {"text": text, "label": {name: rating}, "prediction": {name: given}, "right_share": shares.get(row)}
        for row, (text, rating, given) in enumerate(zip(texts, gold, predictions, strict=True))
    ]
    metrics = {MAIN: pair_accuracy(predictions, pairs, contexts)}
    baselines = {key: {MAIN: pair_accuracy(scores, pairs, contexts)} for key, scores in others.items()}
    return {"metrics": metrics, "baselines": baselines, "ratings": [name]}, table


def _shares(scores: list[float], pairs: list[tuple[int, int]]) -> dict[int, float]:
    """Return row -> the share of its pairs that are in the right order."""
    found = {}
    for pair, right in zip(pairs, right_order(scores, pairs).tolist(), strict=True):
        for row in pair:
            found.setdefault(row, []).append(right)
    return {row: sum(values) / len(values) for row, values in found.items()}


def draw(folder: Path, split: str, result: dict, table: list[dict], title: str) -> None:
    """Draw nothing: scores have no scale, and the report's picture has the accuracy beside its baselines."""


def summary(result: dict) -> list[str]:
    """Return the lines of a plain-text table: the model above its baselines."""
    named = [(result["stage"], result["metrics"]), *((NAMES[key], row) for key, row in result["baselines"].items())]
    return [
        f"{'':<30}{MAIN_WORDS} [95 %], {result['metrics'][MAIN]['n']} pairs",
        *(f"{name:<30}{with_interval(row[MAIN])}" for name, row in named),
    ]


def columns(evaluation: dict) -> dict[str, str]:
    """Return metric -> heading of the table in which a report sets stages side by side."""
    return {MAIN: f"{MAIN_WORDS}, {evaluation['metrics'][MAIN]['n']} pairs"}


def details(stages: list) -> dict[str, str]:
    """Return heading -> text of what a report says beyond that table: nothing."""
    return {}


def row_values(evaluation: dict, rows: list[dict]) -> dict[str, list]:
    """Return metric -> one value per row, of which it is the mean: none, the accuracy is one of pairs."""
    return {}


def statistics(evaluation: dict, rows: list[dict]) -> dict[str, tuple]:
    """Return how to resample -> names and function of other metrics: none, the rows do not say which make a pair."""
    return {}


def row_score(row: dict) -> float | None:
    """Return how good the score of a reply is: the share of its pairs in the right order, None where it has no pair."""
    return row["right_share"]


def question(row: dict) -> list[tuple[str, str]]:
    """Return what an example is about, as (name, text)."""
    return [("text", row["text"]), ("rating", ", ".join(f"{name} {value:g}" for name, value in row["label"].items()))]


def answer(row: dict) -> str:
    """Return what the model said."""
    (value,) = row["prediction"].values()
    right = "nothing to compare" if row["right_share"] is None else f"{row['right_share']:.0%} of its pairs right"
    return f"score {value:.2f} ({right})"
