"""Kind `labels`: a classification head's labels, one per group, counted right or wrong."""

from pathlib import Path

import numpy as np

from empathy_trl.data import targets
from empathy_trl.evaluation import evaluate as artefacts
from empathy_trl.evaluation.base import NAMES, both_texts, markdown, predict_baselines
from empathy_trl.evaluation.metrics.agreement import score_predictions, share_statistics
from empathy_trl.evaluation.metrics.bootstrap import mean_figure, with_interval
from empathy_trl.evaluation.plots import draw_confusion
from empathy_trl.models.label_schema import Targets, predicted_labels
from empathy_trl.models.scorer import predict_outputs

ROWS_OF = "classify"
MAIN = "accuracy"
MAIN_WORDS = "accuracy"
GOLD = "label"  # what a row is held against
VERSION = 1
PAIRED = True  # rows have one score each, whose mean is the main metric
SEPARATOR = " / "  # between the labels of several groups
NOTE = "95 % bootstrap intervals. The baselines were fitted on the labels of the whole training split."


def predict(model, tokenizer, stage, rows, batch_size: int | None) -> list[tuple[str, ...]]:
    """Return the predicted label of every group, for each row."""
    outputs = Targets("classify", targets(stage.data))
    return _named(predicted_labels(predict_outputs(model, rows), outputs), outputs)


def score(stage, rows, train, predictions: list[tuple[str, ...]], rewards) -> tuple[dict, list[dict]]:
    """Return `metrics`, `baselines` and `confusions` (group -> matrix), and one row per example.

    With several groups, the metrics of each end with its name, and `accuracy` is the mean over the groups.
    """
    outputs = Targets("classify", targets(stage.data))
    gold, train_gold = _named(rows["labels"], outputs), _named(train["labels"], outputs)
    texts, train_texts = both_texts(rows), both_texts(train)
    guesses = {"majority": [], "tfidf_logreg": []}  # name -> one list of labels per group
    for group, labels in enumerate(outputs.outputs.values()):
        column = [row[group] for row in train_gold]
        for name, guess in predict_baselines(train_texts, column, texts, labels).items():
            guesses[name].append(guess)
    metrics, confusions = _metrics(predictions, gold, outputs)
    baselines = {name: _metrics(list(zip(*guess, strict=True)), gold, outputs)[0] for name, guess in guesses.items()}
    table = [
        {"text": text, "label": _shown(wanted), "prediction": _shown(given), "correct": _right(given, wanted)}
        for text, wanted, given in zip(texts, gold, predictions, strict=True)
    ]
    return {"metrics": metrics, "baselines": baselines, "confusions": confusions}, table


def _metrics(predictions: list[tuple], gold: list[tuple], outputs: Targets) -> tuple[dict, dict]:
    """Return all metrics, and group -> confusion matrix."""
    metrics, confusions = {}, {}
    for position, (group, labels) in enumerate(outputs.outputs.items()):
        given, wanted = ([row[position] for row in part] for part in (predictions, gold))
        scores, confusions[group] = score_predictions(given, wanted, labels)
        metrics |= {f"{key}{_ending(group, outputs)}": value for key, value in scores.items()}
    if len(outputs.outputs) > 1:
        shares = [_right(given, wanted) for given, wanted in zip(predictions, gold, strict=True)]
        metrics = {"accuracy": mean_figure(shares)} | metrics
    return metrics, confusions


def _named(positions, outputs: Targets) -> list[tuple[str, ...]]:
    """Return the names of labels that are given by their positions, shape (rows, groups)."""
    return [tuple(names[i] for names, i in zip(outputs.outputs.values(), row, strict=True)) for row in positions]


def _ending(group: str, outputs: Targets) -> str:
    return "" if len(outputs.outputs) == 1 else f"_{group}"


def _right(given: tuple, wanted: tuple) -> float:
    """Return the share of the groups that are right."""
    return sum(a == b for a, b in zip(given, wanted, strict=True)) / len(wanted)


def _shown(labels: tuple[str, ...]) -> str:
    return SEPARATOR.join(labels)


def draw(folder: Path, split: str, result: dict, table: list[dict], title: str) -> None:
    """Draw a confusion matrix per group; the files of several groups carry their names."""
    for group, confusion in result["confusions"].items():
        name = split if len(result["confusions"]) == 1 else f"{group}_{split}"
        draw_confusion(artefacts.confusion_path(folder, name), confusion, title)


def summary(result: dict) -> list[str]:
    """Return the lines of a plain-text table: the model above its baselines."""
    named = [(result["stage"], result["metrics"]), *((NAMES[key], row) for key, row in result["baselines"].items())]
    shown = columns(result)
    return [
        f"{'':<30}" + "".join(f"{heading + ' [95 %]':<36}" for heading in shown.values()),
        *(f"{name:<30}" + "".join(f"{with_interval(row[key]):<36}" for key in shown) for name, row in named),
    ]


def columns(evaluation: dict) -> dict[str, str]:
    """Return metric -> heading of the table in which a report sets stages side by side."""
    # from the metrics alone: a card's results have no confusions
    groups = [name.removeprefix("macro_f1") for name in evaluation["metrics"] if name.startswith("macro_f1")]
    headings = {f"macro_f1{group}": f"macro-F1, {group[1:]}" if group else "macro-F1" for group in groups}
    return {"accuracy": "accuracy"} | headings


def details(stages: list) -> dict[str, str]:
    """Return heading -> text of what a report says beyond that table: precision and recall of the last stage."""
    last = stages[-1].evaluation
    several = len(last["confusions"]) > 1
    rows = [["label", "precision", "recall", "n"]]
    for group, confusion in last["confusions"].items():
        for label in confusion["rows"]:
            ends = f"{label}_{group}" if several else label
            precision, recall = (last["metrics"][f"{share}_{ends}"] for share in ("precision", "recall"))
            name = f"{group}: {label}" if several else label
            rows.append([name, with_interval(precision), with_interval(recall), recall["n"]])
    return {"Per label": markdown(rows) + f"\n\n{stages[-1].name}; n: rows of that label."}


def row_values(evaluation: dict, rows: list[dict]) -> dict[str, list]:
    """Return metric -> one value per row, of which it is the mean."""
    return {"accuracy": [row["correct"] for row in rows]}


def statistics(evaluation: dict, rows: list[dict]) -> dict[str, tuple]:
    """Return how to resample -> names and function of the metrics that are no means over rows."""
    groups = evaluation["confusions"]
    columns = [list(zip(*(row[key].split(SEPARATOR) for row in rows), strict=True)) for key in ("prediction", "label")]
    names, functions = [], []
    for given, wanted, (group, confusion) in zip(*columns, groups.items(), strict=True):
        keys, function = share_statistics(given, wanted, confusion["rows"])
        names += [f"{key}_{group}" if len(groups) > 1 else key for key in keys]
        functions.append(function)
    return {"bootstrap": (names, lambda rows: np.concatenate([function(rows) for function in functions], axis=-1))}


def row_score(row: dict) -> float:
    """Return how good the answer of a row is; the mean over the rows is the main metric."""
    return row["correct"]


def question(row: dict) -> list[tuple[str, str]]:
    """Return what an example is about, as (name, text)."""
    return [("text", row["text"]), ("label", row["label"])]


def answer(row: dict) -> str:
    """Return what the model said."""
    mark = {1: "right", 0: "wrong"}.get(row["correct"], f"{row['correct']:.0%} right")
    return f"{row['prediction']} ({mark})"
