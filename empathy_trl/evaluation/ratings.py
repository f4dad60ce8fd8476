"""Kind `ratings`: a regression head's ratings, how far off and how well ordered they are."""

from pathlib import Path

import numpy as np

from empathy_trl.data import targets
from empathy_trl.evaluation import evaluate as artefacts
from empathy_trl.evaluation.base import NAMES, both_texts, markdown, score_rating_baselines
from empathy_trl.evaluation.metrics.agreement import FIGURES, MEAN, rating_statistics, score_ratings
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.evaluation.plots import draw_ratings
from empathy_trl.models.scorer import predict_outputs

ROWS_OF = "regress"
MAIN = f"pearson_{MEAN}"
MAIN_WORDS = "mean Pearson"
GOLD = "label"  # what a row is held against
VERSION = 1
PAIRED = False  # a correlation is none of single rows
WORDS = {"mae": "mean absolute error", "pearson": "Pearson", "spearman": "Spearman"}
NOTE = (
    "95 % bootstrap intervals; `mean` is the mean over the ratings. Errors are in units of the labels. A predictor that "
    "always says the mean has no correlation at all and often a fair error: read the two together."
)


def predict(model, tokenizer, stage, rows, batch_size: int | None) -> list[list[float]]:
    """Return the ratings of each row, in units of the labels."""
    return predict_outputs(model, rows).tolist()


def score(stage, rows, train, predictions: list[list[float]], rewards) -> tuple[dict, list[dict]]:
    """Return `metrics`, `baselines` and `ratings` (their names), and one row per example."""
    names, texts = list(targets(stage.data)), both_texts(rows)
    gold = np.array(rows["labels"], dtype=float)
    table = [
        {
            "text": text,
            "label": dict(zip(names, wanted, strict=True)),
            "prediction": dict(zip(names, given, strict=True)),
            "error": float(np.abs(np.subtract(wanted, given)).mean()),
        }
        for text, wanted, given in zip(texts, gold.tolist(), predictions, strict=True)
    ]
    baselines = score_rating_baselines(both_texts(train), train["labels"], texts, gold, names)
    return {"metrics": score_ratings(predictions, gold, names), "baselines": baselines, "ratings": names}, table


def draw(folder: Path, split: str, result: dict, table: list[dict], title: str) -> None:
    """Draw predicted over gold ratings."""
    draw_ratings(artefacts.ratings_path(folder, split), result["ratings"], table, title)


def summary(result: dict) -> list[str]:
    """Return the lines of a plain-text table: one line per rating, and the mean beside the baselines."""
    named = [(result["stage"], result["metrics"]), *((NAMES[key], row) for key, row in result["baselines"].items())]
    lines = [f"{'':<46}" + "".join(f"{WORDS[figure] + ' [95 %]':<30}" for figure in FIGURES)]
    for name, metrics in named:
        for rating in (*result["ratings"], MEAN):
            figures = "".join(f"{with_interval(metrics[f'{figure}_{rating}']):<30}" for figure in FIGURES)
            lines.append(f"{name + ', ' + rating:<46}{figures}")
    return lines


def columns(evaluation: dict) -> dict[str, str]:
    """Return metric -> heading of the table in which a report sets stages side by side."""
    return {f"{figure}_{MEAN}": f"{WORDS[figure]}, {MEAN}" for figure in FIGURES}


def details(stages: list) -> dict[str, str]:
    """Return heading -> text of what a report says beyond that table: every rating on its own."""
    rows = [["rating", "", *(WORDS[figure] for figure in FIGURES)]]
    last = stages[-1].evaluation
    named = [
        *((stage.name, stage.evaluation["metrics"]) for stage in stages),
        *((NAMES[key], row) for key, row in last["baselines"].items()),
    ]
    for rating in last["ratings"]:
        for name, metrics in named:
            rows.append([rating, name, *(with_interval(metrics[f"{figure}_{rating}"]) for figure in FIGURES)])
    return {"Per rating": markdown(rows)}


def row_values(evaluation: dict, rows: list[dict]) -> dict[str, list]:
    """Return metric -> one value per row, of which it is the mean: none, `statistics` has all."""
    return {}


def statistics(evaluation: dict, rows: list[dict]) -> dict[str, tuple]:
    """Return how to resample -> names and function of the metrics that are no means over rows."""
    names = evaluation["ratings"]
    predicted, gold = ([[row[key][name] for name in names] for row in rows] for key in ("prediction", "label"))
    return {"bootstrap": rating_statistics(predicted, gold, names)}


def row_score(row: dict) -> float:
    """Return how good the prediction of a row is: minus its mean absolute error."""
    return -row["error"]


def question(row: dict) -> list[tuple[str, str]]:
    """Return what an example is about, as (name, text)."""
    return [("text", row["text"]), ("ratings", _shown(row["label"]))]


def answer(row: dict) -> str:
    """Return what the model said."""
    return f"{_shown(row['prediction'])} (off by {row['error']:.2f} on average)"


def _shown(ratings: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in ratings.items())
