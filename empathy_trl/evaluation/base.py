"""The base class of evaluators, the baselines shown beside every result, and the files that hold a result.

`Evaluator` declares what each kind of evaluation provides. The baselines are fitted on the training labels and scored
by the same functions as a model: the majority class or the mean rating, which ignore the text, and TF-IDF with a linear
model, which counts words. `evaluate` describes the files.
"""

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.agreement import score_predictions, score_ratings
from empathy_trl.io import nearest_path, read_json, read_rows, write_rows, write_text

UNTRAINED = "untrained"  # in a stage's folder: the evaluation of its model before the training
NAMES = {
    "majority": "majority class",
    "tfidf_logreg": "TF-IDF + logistic regression",
    "mean": "mean rating",
    "tfidf_ridge": "TF-IDF + ridge regression",
    "chance": "chance",
    "longer": "the longer reply",
    "reference": "reference replies",
    "constant_0": "level 0 for every reply",
}


class Evaluator(ABC):
    """One kind of evaluation: how its predictions are made, scored, drawn and shown.

    Attributes:
        title: what the model does, as the heading of a leaderboard's table.
        hub_task: what the Hub calls such a task, and its name in a model card.
        rows_task: the task whose rows are evaluated.
        main_metric, main_metric_title: key of the main metric, and what a reader calls it.
        note: what a reader of its table has to know.
        reference_column: key of a row of the predictions: what it is held against.
        paired: whether every row has a score of its own, whose mean is the main metric.
        metrics_version: raised when the same predictions would give another figure.
    """

    title: str
    hub_task: tuple[str, str]
    rows_task: str
    main_metric: str
    main_metric_title: str
    note: str
    reference_column = "label"
    paired = True
    metrics_version = 1

    @abstractmethod
    def predict(self, model, tokenizer, stage, rows, batch_size: int | None, **how) -> list:
        """Return one prediction per row, in every process; `how`, for completions alone, is that of `generate_shared`."""

    def next_words(self, model, tokenizer, stage, rows, batch_size: int | None) -> list[str] | None:
        """Return the label that a model finds most likely as the next word, one per row; None: there is no such question."""
        return None

    @abstractmethod
    def score(self, stage, rows, train, predictions: list, rewards: dict) -> tuple[dict, list[dict]]:
        """Return `metrics`, `baselines` and what the kind adds to `eval_<split>.json`, and one row per example.

        `train` are all training rows, from which the baselines learn; None for no baselines.
        """

    @abstractmethod
    def directions(self, stage, rewards: dict) -> dict[str, bool]:
        """Return metric -> whether more is better, of those by which the best checkpoint of a stage can be chosen."""

    def draw(self, folder: Path, split: str, result: dict, table: list[dict], title: str) -> None:  # noqa: B027 - a default
        """Draw the pictures of one evaluation: none, the report's picture has the main metric beside its baselines."""

    @abstractmethod
    def summary(self, result: dict) -> list[str]:
        """Return the lines of a plain-text table: the model above or beside its baselines."""

    @abstractmethod
    def column_titles(self, evaluation: dict) -> dict[str, str]:
        """Return metric -> title of its column, of the table in which a report sets stages side by side."""

    def other_rows(self, evaluation: dict) -> dict[str, dict]:
        """Return name -> metrics of other rows for the same model in that table: nothing."""
        return {}

    def details(self, stages: list) -> dict[str, str]:
        """Return heading -> text of what a report says beyond that table: nothing."""
        return {}

    def row_values(self, evaluation: dict, rows: list[dict]) -> dict[str, list]:
        """Return metric -> one number per row (None: does not apply), of which it is the mean: nothing."""
        return {}

    def statistics(self, evaluation: dict, rows: list[dict]) -> dict[str, tuple]:
        """Return `bootstrap` or `jackknife` -> names of other metrics, and a function from row numbers to them: nothing."""
        return {}

    @abstractmethod
    def row_score(self, row: dict) -> float | None:
        """Return how good the prediction of a row is, None where that cannot be said."""

    @abstractmethod
    def question(self, row: dict) -> list[tuple[str, str]]:
        """Return what an example is about, as (name, text)."""

    @abstractmethod
    def answer(self, row: dict) -> str:
        """Return what the model said."""

    def model_and_baselines(self, result: dict) -> list[tuple[str, dict]]:
        """Return name and metrics of the model, and then of its other rows and its baselines."""
        baselines = {NAMES[key]: row for key, row in result["baselines"].items()}
        return [(row_name(result), result["metrics"]), *(self.other_rows(result) | baselines).items()]


def row_name(result: dict) -> str:
    """Return the name of the model's row in a table: its stage, or its own name if it is not the model of that stage."""
    *_, recipe, stage = ["", "", *Path(result["model"]).parts]
    return stage if (recipe, stage) == (result["recipe"], result["stage"]) else result["model"][-28:]


def score_baselines(train_texts, train_labels, test_texts, gold, labels) -> dict[str, dict]:
    """Fit both baselines on training texts and labels and score them on test texts.

    Args:
        train_texts, train_labels: the training split; at least two different labels.
        test_texts, gold: the evaluated rows.
        labels: the emotions.

    Returns `{"majority": metrics, "tfidf_logreg": metrics}`, metrics as in `score_predictions`.
    """
    predictions = predict_baselines(train_texts, train_labels, test_texts, labels)
    return {name: score_predictions(predicted, gold, labels)[0] for name, predicted in predictions.items()}


def predict_baselines(train_texts, train_labels, test_texts, labels) -> dict[str, list]:
    """Return what both baselines predict for the test texts, `{"majority": labels, "tfidf_logreg": labels}`."""
    constant = majority(train_labels, labels)
    # logistic regression wants two classes; without them it would be the constant anyway
    learned = tfidf_logreg(train_texts, train_labels, test_texts) if len(set(train_labels)) > 1 else None
    return {"majority": [constant] * len(test_texts), "tfidf_logreg": learned or [constant] * len(test_texts)}


def majority(train_labels, labels) -> str:
    """Return the most frequent training label; among equals the first of `labels`."""
    counts = Counter(train_labels)
    return max(labels, key=lambda label: counts[label])


def tfidf_logreg(train_texts, train_labels, test_texts) -> list[str]:
    """Predict labels of the test texts by logistic regression on TF-IDF weights of words and word pairs.

    C = 10 regularises less than scikit-learn's default: TF-IDF rows have length 1, and a few hundred short
    texts are underfitted at C = 1.
    """
    from sklearn.linear_model import LogisticRegression

    classifier = _on_tfidf(LogisticRegression(C=10, max_iter=1000))
    return classifier.fit(list(train_texts), list(train_labels)).predict(list(test_texts)).tolist()


def score_rating_baselines(train_texts, train_labels, test_texts, gold, names: list[str]) -> dict[str, dict]:
    """Score the mean of the training ratings, and ridge regression on TF-IDF weights, as `score_ratings` does.

    Args:
        train_texts, train_labels: the training split; labels of shape (rows, ratings).
        test_texts, gold: the evaluated rows.
        names: of the ratings.

    Returns `{"mean": metrics, "tfidf_ridge": metrics}`.
    """
    train_labels, gold = np.asarray(train_labels, dtype=float), np.asarray(gold, dtype=float)
    predictions = {
        "mean": np.broadcast_to(train_labels.mean(axis=0), gold.shape),
        "tfidf_ridge": tfidf_ridge(train_texts, train_labels, test_texts),
    }
    return {name: score_ratings(predicted, gold, names) for name, predicted in predictions.items()}


def tfidf_ridge(train_texts, train_labels: np.ndarray, test_texts) -> np.ndarray:
    """Predict ratings, shape (test texts, ratings), by ridge regression on TF-IDF weights of words and word pairs."""
    from sklearn.linear_model import Ridge

    ridge = _on_tfidf(Ridge(alpha=1.0)).fit(list(train_texts), train_labels)
    return ridge.predict(list(test_texts)).reshape(len(test_texts), -1)


def _on_tfidf(model):
    """Return a linear model on TF-IDF weights of words and word pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), model)


def markdown(rows: list[list]) -> str:
    """Return a Markdown table; the first row is the header. A bar in a cell is escaped."""
    cells = [[re.sub(r"(?<!\\)\|", r"\|", str(cell)) for cell in row] for row in rows]
    header, *body = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([header, "|---" * len(rows[0]) + "|", *body])


CUTS = {
    "dropped": "unusable rows left out",
    "shortened": "texts shortened by data.max_words",
    "cut": "texts truncated to the model's maximum length",
    "cut_off": "completions cut off at the maximum length",
}


def describe_cuts(data: dict) -> str:
    """Return counts of rows, texts and completions that were dropped or cut, each after a comma; "" without any.

    Args:
        data: the entry `data` of `eval_<split>.json`; earlier versions did not count.
    """
    return "".join(
        f", {data[key]} {words}" for key, words in CUTS.items() if isinstance(data.get(key), int) and data[key]
    )


def both_texts(rows) -> list[str]:
    """Return the text of every row, of a pair both with a bar between them."""
    if "pair" not in rows.column_names:
        return list(rows["text"])
    return [f"{text} | {pair}" for text, pair in zip(rows["text"], rows["pair"], strict=True)]


def eval_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"eval_{split}.json"


def predictions_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"predictions_{split}.jsonl"


def write_eval(folder: str | Path, split: str, result: dict) -> Path:
    """Write `eval_<split>.json`; NaN and infinity are refused (ValueError), they are no JSON."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_text(eval_path(folder, split), text)


def read_eval(folder: str | Path, split: str) -> dict:
    """Read `eval_<split>.json`. UserError names the file when it is missing or broken."""
    return read_json(_existing(eval_path(folder, split)))


def write_predictions(folder: str | Path, split: str, rows: list[dict]) -> Path:
    """Write `predictions_<split>.jsonl`, one line per row."""
    return write_rows(predictions_path(folder, split), rows)


def read_predictions(folder: str | Path, split: str) -> list[dict]:
    """Read `predictions_<split>.jsonl`. UserError names file and line when it is missing or broken."""
    return read_rows(_existing(predictions_path(folder, split)))


def _existing(path: Path) -> Path:
    if not path.is_file():
        inside = ", ".join(sorted(each.parent.name for each in path.parent.glob(f"*/{path.name}")))
        hint = f"; did you mean one of its folders: {inside}?" if inside else nearest_path(str(path.parent))
        raise UserError(f"{path}: no such file{hint}; evaluate the model first")
    return path
