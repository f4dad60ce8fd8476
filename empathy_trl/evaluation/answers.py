"""Evaluators of answers that are right or wrong, or near: emotions that a completion names, and what a head predicts (labels,
ratings, scores that order replies)."""

from pathlib import Path

import numpy as np
from accelerate import PartialState

from empathy_trl.data import corpus, targets
from empathy_trl.errors import DataError
from empathy_trl.evaluation.base import (
    NAMES,
    Evaluator,
    both_texts,
    markdown,
    predict_baselines,
    score_baselines,
    score_rating_baselines,
    tfidf_ridge,
)
from empathy_trl.evaluation.generation import generate_shared
from empathy_trl.evaluation.metrics.agreement import (
    FIGURES,
    MEAN,
    pair_accuracy,
    rating_statistics,
    reasoning_words,
    score_emotions,
    score_predictions,
    score_ratings,
    share_statistics,
    thought_words,
)
from empathy_trl.evaluation.metrics.bootstrap import mean_figure, with_interval
from empathy_trl.evaluation.plots import draw_confusion, draw_ratings
from empathy_trl.models.api import ApiModel
from empathy_trl.models.label_schema import Targets, pairs_of, predicted_labels, right_order
from empathy_trl.models.likelihood import next_words
from empathy_trl.models.scorer import predict_outputs
from empathy_trl.tags import format_credit, is_grounded, tag_bodies
from empathy_trl.text import in_markdown, words

SEPARATOR = " / "  # between the labels of several groups
TITLES = {"mae": "mean absolute error", "pearson": "Pearson", "spearman": "Spearman"}
EMOTION_TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "invalid_share": "invalid answers",
    "mean_reasoning_words": "words of reasoning",
    "grounded_reasoning": "grounded reasoning",
    "mean_thought_words": "words of thought",
}
NEXT_WORD, NEXT_WORD_TITLE = "next_word_accuracy", "next word, calibrated"
NEXT_WORD_BATCH = 16
NOT_IN_ALL = ("grounded_reasoning", "mean_thought_words")  # of earlier versions; of models that do not think


class EmotionEvaluator(Evaluator):
    """Kind `emotions`: completions that answer with a label in `<answer>`, counted right or wrong."""

    title = "Naming emotions"
    hub_task = ("text-classification", "naming an emotion, with reasoning")
    rows_task = "grpo"
    main_metric = "accuracy"
    main_metric_title = "accuracy"
    note = (
        "95 % bootstrap intervals. An invalid answer (no single `<answer>` tag, or no known emotion in it) "
        "counts as wrong. The baselines were fitted on the labels of the whole training split."
    )

    def predict(self, model, tokenizer, stage, rows, batch_size: int | None, **how) -> list[str]:
        """Return one completion per row; `how` is that of `generate_shared`."""
        return generate_shared(model, tokenizer, list(rows["prompt"]), batch_size, stage, **how)

    def next_words(self, model, tokenizer, stage, rows, batch_size: int | None) -> list[str] | None:
        """Return the label that a model finds most likely as the next word, see `likelihood.next_words`.

        None if the corpus has no beginning of an answer (`Corpus.next_word`), or if the model is behind an API.
        """
        asked = corpus(stage.data.name, stage.data.builder)
        if not asked.next_word:
            return None
        if isinstance(model, ApiModel):
            PartialState().print(
                f"next word: left out, because {model.name} does not tell the probabilities of given words"
            )
            return None
        return next_words(
            model, tokenizer, list(rows["prompt"]), asked.next_word, asked.labels, batch_size or NEXT_WORD_BATCH
        )

    def score(self, stage, rows, train, completions: list[str], rewards) -> tuple[dict, list[dict]]:
        """Return `metrics`, `baselines` and `confusion`, and one row per example."""
        labels = corpus(stage.data.name, stage.data.builder).labels
        gold = list(rows["label"])
        metrics, predictions, confusion = score_emotions(completions, gold, labels)
        grounded = [is_grounded(*pair, labels) for pair in zip(completions, rows["text"], strict=True)]
        metrics["grounded_reasoning"] = mean_figure(grounded)
        baselines = (
            score_baselines(train["text"], train["label"], rows["text"], gold, labels) if train is not None else {}
        )
        table = [
            {
                "text": text,
                "label": label,
                "prediction": prediction,
                "correct": prediction == label,
                "grounded": is_about_it,
                "completion": completion,
            }
            for text, label, prediction, is_about_it, completion in zip(
                rows["text"], gold, predictions, grounded, completions, strict=True
            )
        ]
        return {"metrics": metrics, "baselines": baselines, "confusion": confusion}, table

    def directions(self, stage, rewards) -> dict[str, bool]:
        """Return metric -> whether more is better, of those by which the best checkpoint can be chosen."""
        return {"accuracy": True, "macro_f1": True, "invalid_share": False, "grounded_reasoning": True}

    def draw(self, folder: Path, split: str, result: dict, table: list[dict], title: str) -> None:
        """Draw the confusion matrix."""
        draw_confusion(folder / f"confusion_{split}.png", result["confusion"], title)

    def summary(self, result: dict) -> list[str]:
        """Return the lines of a plain-text table: the model above its baselines."""
        metrics = result["metrics"]
        shown = ("accuracy", "macro_f1")
        invalid, words = metrics["invalid_share"]["value"], metrics["mean_reasoning_words"]["value"]
        thought, grounded = metrics.get("mean_thought_words"), metrics["grounded_reasoning"]
        return [
            f"{'':<30}{'accuracy [95 %]':<24}macro-F1 [95 %]",
            *(
                f"{name:<30}" + "".join(f"{with_interval(row[key]):<24}" for key in shown if key in row).rstrip()
                for name, row in self.model_and_baselines(result)
            ),
            f"invalid answers {invalid:.1%}, reasoning {words:.1f} words on average"
            + (f", thoughts {thought['value']:.1f}" if thought else ""),
            f"grounded reasoning {with_interval(grounded)}",
        ]

    def column_titles(self, evaluation: dict) -> dict[str, str]:
        """Return metric -> heading of the table in which a report sets stages side by side."""
        there = evaluation["metrics"]
        return {name: title for name, title in EMOTION_TITLES.items() if name in there or name not in NOT_IN_ALL}

    def other_rows(self, evaluation: dict) -> dict[str, dict]:
        """Return the row of the next word, if the model was asked for it."""
        figure = evaluation["metrics"].get(NEXT_WORD)
        return {NEXT_WORD_TITLE: {"accuracy": figure}} if figure else {}

    def details(self, stages: list) -> dict[str, str]:
        """Return heading -> text of what a report says beyond that table."""
        header = [f"{share}, {in_markdown(stage.name)}" for stage in stages for share in ("precision", "recall")]
        rows = [["emotion", *header, "n"]]
        for label in stages[-1].evaluation["confusion"]["rows"]:
            shares = [
                with_interval(stage.evaluation["metrics"][f"{share}_{label}"])
                for stage in stages
                for share in ("precision", "recall")
            ]
            rows.append([in_markdown(label), *shares, stages[-1].evaluation["metrics"][f"recall_{label}"]["n"]])
        return {"Per emotion": markdown(rows) + "\n\nn: rows of that emotion."}

    def row_values(self, evaluation: dict, rows: list[dict]) -> dict[str, list]:
        """Return metric -> one value per row, of which it is the mean."""
        completions = [row["completion"] for row in rows]
        values = {
            "invalid_share": [row["prediction"] is None for row in rows],
            "mean_reasoning_words": [reasoning_words(completion) for completion in completions],
        }
        if all("grounded" in row for row in rows):  # not in earlier versions
            values["grounded_reasoning"] = [row["grounded"] for row in rows]
        if NEXT_WORD in evaluation["metrics"]:
            values[NEXT_WORD] = [row["next_word"] == row["label"] for row in rows]
        thoughts = thought_words(completions)
        return values | ({"mean_thought_words": thoughts} if thoughts else {})

    def statistics(self, evaluation: dict, rows: list[dict]) -> dict[str, tuple]:
        """Return how to resample -> names and function of the metrics that are no means over rows."""
        predictions, gold = ([row[key] for row in rows] for key in ("prediction", "label"))
        return {"bootstrap": share_statistics(predictions, gold, evaluation["confusion"]["rows"])}

    def row_score(self, row: dict) -> float:
        """Return how good the answer of a row is; the mean over the rows is the main metric."""
        return float(row["correct"])

    def question(self, row: dict) -> list[tuple[str, str]]:
        """Return what an example is about, as (name, text)."""
        return [("situation", row["text"]), ("emotion", row["label"])]

    def answer(self, row: dict) -> str:
        """Return what the model said; of a well-formed completion, answer and reasoning without their tags."""
        text = row["completion"]
        if row["prediction"] is not None and format_credit(text, ("reasoning", "answer")) == 1:
            (text,) = tag_bodies(text, "reasoning")
        reasons = {True: ", grounded", False: ", not grounded"}.get(row.get("grounded"), "")
        return f"{row['prediction'] or 'invalid'} ({'right' if row['correct'] else 'wrong'}{reasons}): {text}"


class LabelEvaluator(Evaluator):
    """Kind `labels`: a classification head's labels, one per group, counted right or wrong."""

    title = "Classifying"
    hub_task = ("text-classification", "classification of texts")
    rows_task = "classify"
    main_metric = "accuracy"
    main_metric_title = "accuracy"
    note = "95 % bootstrap intervals. The baselines were fitted on the labels of the whole training split."

    def predict(self, model, tokenizer, stage, rows, batch_size: int | None) -> list[tuple[str, ...]]:
        """Return the predicted label of every group, for each row."""
        outputs = Targets("classify", targets(stage.data))
        return _named(predicted_labels(predict_outputs(model, rows), outputs), outputs)

    def score(self, stage, rows, train, predictions: list[tuple[str, ...]], rewards) -> tuple[dict, list[dict]]:
        """Return `metrics`, `baselines` and `confusions` (group -> matrix), and one row per example.

        With several groups, the metrics of each end with its name, and `accuracy` is the mean over the groups.
        """
        outputs = Targets("classify", targets(stage.data))
        gold, texts = _named(rows["labels"], outputs), both_texts(rows)
        guesses = {}  # name -> one list of labels per group
        for group, labels in enumerate(outputs.outputs.values() if train is not None else ()):
            column = [row[group] for row in _named(train["labels"], outputs)]
            for name, guess in predict_baselines(both_texts(train), column, texts, labels).items():
                guesses.setdefault(name, []).append(guess)
        metrics, confusions = _metrics(predictions, gold, outputs)
        baselines = {
            name: _metrics(list(zip(*guess, strict=True)), gold, outputs)[0] for name, guess in guesses.items()
        }
        table = [
            {"text": text, "label": _joined(wanted), "prediction": _joined(given), "correct": _right(given, wanted)}
            for text, wanted, given in zip(texts, gold, predictions, strict=True)
        ]
        return {"metrics": metrics, "baselines": baselines, "confusions": confusions}, table

    def directions(self, stage, rewards) -> dict[str, bool]:
        """Return metric -> whether more is better, of those by which the best checkpoint can be chosen."""
        outputs = Targets("classify", targets(stage.data))
        ending = [_ending(group, outputs) for group in outputs.outputs]
        return dict.fromkeys(
            ["accuracy", *(f"{name}{each}" for name in ("macro_f1", "accuracy") for each in ending)], True
        )

    def draw(self, folder: Path, split: str, result: dict, table: list[dict], title: str) -> None:
        """Draw a confusion matrix per group; the files of several groups carry their names."""
        for group, confusion in result["confusions"].items():
            name = split if len(result["confusions"]) == 1 else f"{group}_{split}"
            draw_confusion(folder / f"confusion_{name}.png", confusion, title)

    def summary(self, result: dict) -> list[str]:
        """Return the lines of a plain-text table: the model above its baselines."""
        shown = self.column_titles(result)
        return [
            f"{'':<30}" + "".join(f"{heading + ' [95 %]':<36}" for heading in shown.values()),
            *(
                f"{name:<30}" + "".join(f"{with_interval(row[key]):<36}" for key in shown)
                for name, row in self.model_and_baselines(result)
            ),
        ]

    def column_titles(self, evaluation: dict) -> dict[str, str]:
        """Return metric -> heading of the table in which a report sets stages side by side."""
        # from the metrics alone: a card's results have no confusions
        groups = [name.removeprefix("macro_f1") for name in evaluation["metrics"] if name.startswith("macro_f1")]
        headings = {f"macro_f1{group}": f"macro-F1, {group[1:]}" if group else "macro-F1" for group in groups}
        return {"accuracy": "accuracy"} | headings

    def details(self, stages: list) -> dict[str, str]:
        """Return heading -> text of what a report says beyond that table: precision and recall of the last stage."""
        last = stages[-1].evaluation
        several = len(last["confusions"]) > 1
        rows = [["label", "precision", "recall", "n"]]
        for group, confusion in last["confusions"].items():
            for label in confusion["rows"]:
                ends = f"{label}_{group}" if several else label
                precision, recall = (last["metrics"][f"{share}_{ends}"] for share in ("precision", "recall"))
                name = in_markdown(f"{group}: {label}" if several else label)
                rows.append([name, with_interval(precision), with_interval(recall), recall["n"]])
        return {"Per label": markdown(rows) + f"\n\n{in_markdown(stages[-1].name)}; n: rows of that label."}

    def row_values(self, evaluation: dict, rows: list[dict]) -> dict[str, list]:
        """Return metric -> one value per row, of which it is the mean."""
        return {"accuracy": [row["correct"] for row in rows]}

    def statistics(self, evaluation: dict, rows: list[dict]) -> dict[str, tuple]:
        """Return how to resample -> names and function of the metrics that are no means over rows."""
        groups = evaluation["confusions"]
        columns = [
            list(zip(*(row[key].split(SEPARATOR) for row in rows), strict=True)) for key in ("prediction", "label")
        ]
        names, functions = [], []
        for given, wanted, (group, confusion) in zip(*columns, groups.items(), strict=True):
            keys, function = share_statistics(given, wanted, confusion["rows"])
            names += [f"{key}_{group}" if len(groups) > 1 else key for key in keys]
            functions.append(function)
        return {"bootstrap": (names, lambda rows: np.concatenate([function(rows) for function in functions], axis=-1))}

    def row_score(self, row: dict) -> float:
        """Return how good the answer of a row is; the mean over the rows is the main metric."""
        return row["correct"]

    def question(self, row: dict) -> list[tuple[str, str]]:
        """Return what an example is about, as (name, text)."""
        return [("text", row["text"]), ("label", row["label"])]

    def answer(self, row: dict) -> str:
        """Return what the model said."""
        mark = {1: "right", 0: "wrong"}.get(row["correct"], f"{row['correct']:.0%} right")
        return f"{row['prediction']} ({mark})"


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


def _joined(labels: tuple[str, ...]) -> str:
    return SEPARATOR.join(labels)


class RatingEvaluator(Evaluator):
    """Kind `ratings`: a regression head's ratings, how far off and how well ordered they are."""

    title = "Rating"
    hub_task = ("text-classification", "rating of texts")
    rows_task = "regress"
    main_metric = f"pearson_{MEAN}"
    main_metric_title = "mean Pearson"
    paired = False  # a correlation is none of single rows
    note = (
        "95 % bootstrap intervals; `mean` is the mean over the ratings. Errors are in units of the labels. A predictor that "
        "always says the mean has no correlation at all and often a fair error: read the two together."
    )

    def predict(self, model, tokenizer, stage, rows, batch_size: int | None) -> list[list[float]]:
        """Return the ratings of each row, in units of the labels."""
        return predict_outputs(model, rows).tolist()

    def score(self, stage, rows, train, predictions: list[list[float]], rewards) -> tuple[dict, list[dict]]:
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
        baselines = (
            score_rating_baselines(both_texts(train), train["labels"], texts, gold, names) if train is not None else {}
        )
        return {"metrics": score_ratings(predictions, gold, names), "baselines": baselines, "ratings": names}, table

    def directions(self, stage, rewards) -> dict[str, bool]:
        """Return metric -> whether more is better, of those by which the best checkpoint can be chosen."""
        names = [MEAN, *targets(stage.data)]
        return {f"{figure}_{name}": figure != "mae" for figure in ("pearson", "spearman", "mae") for name in names}

    def draw(self, folder: Path, split: str, result: dict, table: list[dict], title: str) -> None:
        """Draw predicted over gold ratings."""
        draw_ratings(folder / f"ratings_{split}.png", result["ratings"], table, title)

    def summary(self, result: dict) -> list[str]:
        """Return the lines of a plain-text table: one line per rating, and the mean beside the baselines."""
        lines = [f"{'':<46}" + "".join(f"{TITLES[figure] + ' [95 %]':<30}" for figure in FIGURES)]
        for name, metrics in self.model_and_baselines(result):
            for rating in (*result["ratings"], MEAN):
                figures = "".join(f"{with_interval(metrics[f'{figure}_{rating}']):<30}" for figure in FIGURES)
                lines.append(f"{name + ', ' + rating:<46}{figures}")
        return lines

    def column_titles(self, evaluation: dict) -> dict[str, str]:
        """Return metric -> heading of the table in which a report sets stages side by side."""
        return {f"{figure}_{MEAN}": f"{TITLES[figure]}, {MEAN}" for figure in FIGURES}

    def details(self, stages: list) -> dict[str, str]:
        """Return heading -> text of what a report says beyond that table: every rating on its own."""
        rows = [["rating", "", *(TITLES[figure] for figure in FIGURES)]]
        last = stages[-1].evaluation
        named = [
            *((in_markdown(stage.name), stage.evaluation["metrics"]) for stage in stages),
            *((NAMES[key], row) for key, row in last["baselines"].items()),
        ]
        for rating in last["ratings"]:
            for name, metrics in named:
                rows.append(
                    [in_markdown(rating), name, *(with_interval(metrics[f"{figure}_{rating}"]) for figure in FIGURES)]
                )
        return {"Per rating": markdown(rows)}

    def statistics(self, evaluation: dict, rows: list[dict]) -> dict[str, tuple]:
        """Return how to resample -> names and function of the metrics that are no means over rows."""
        names = evaluation["ratings"]
        predicted, gold = ([[row[key][name] for name in names] for row in rows] for key in ("prediction", "label"))
        return {"bootstrap": rating_statistics(predicted, gold, names)}

    def row_score(self, row: dict) -> float:
        """Return how good the prediction of a row is: minus its mean absolute error."""
        return -row["error"]

    def question(self, row: dict) -> list[tuple[str, str]]:
        """Return what an example is about, as (name, text)."""
        return [("text", row["text"]), ("ratings", _listed(row["label"]))]

    def answer(self, row: dict) -> str:
        """Return what the model said."""
        return f"{_listed(row['prediction'])} (off by {row['error']:.2f} on average)"


def _listed(ratings: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in ratings.items())


class PairEvaluator(Evaluator):
    """Kind `pairs`: a score that orders the replies to one context, and how often it puts the better one first."""

    title = "Ordering replies"
    hub_task = ("text-classification", "ordering of replies")
    rows_task = "regress"
    main_metric = "pair_accuracy"
    main_metric_title = "pair accuracy"
    paired = False  # of pairs, not of rows
    note = (
        "n replies. Pair accuracy is the share of all pairs of replies to one context with different ratings in which the better "
        "one has the higher score; a tie counts half. 95 % bootstrap intervals over contexts. Chance is 0.5; a model that hardly "
        "beats the longer reply has learned to count words."
    )

    def predict(self, model, tokenizer, stage, rows, batch_size: int | None) -> list[float]:
        """Return the score of each row."""
        return predict_outputs(model, rows)[:, 0].tolist()

    def score(self, stage, rows, train, predictions: list[float], rewards) -> tuple[dict, list[dict]]:
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
        }
        if train is not None:
            labels = np.asarray(train["labels"], dtype=float)
            others["tfidf_ridge"] = tfidf_ridge(both_texts(train), labels, texts)[:, 0]
        shares = _shares(predictions, pairs)
        table = [
            {"text": text, "label": {name: rating}, "prediction": {name: given}, "right_share": shares.get(row)}
            for row, (text, rating, given) in enumerate(zip(texts, gold, predictions, strict=True))
        ]
        metrics = {self.main_metric: pair_accuracy(predictions, pairs, contexts)}
        baselines = {key: {self.main_metric: pair_accuracy(scores, pairs, contexts)} for key, scores in others.items()}
        return {"metrics": metrics, "baselines": baselines, "ratings": [name]}, table

    def directions(self, stage, rewards) -> dict[str, bool]:
        """Return metric -> whether more is better, of those by which the best checkpoint can be chosen."""
        return {self.main_metric: True}

    def summary(self, result: dict) -> list[str]:
        """Return the lines of a plain-text table: the model above its baselines."""
        return [
            f"{'':<30}{self.main_metric_title} [95 %], {result['metrics'][self.main_metric]['n']} pairs",
            *(f"{name:<30}{with_interval(row[self.main_metric])}" for name, row in self.model_and_baselines(result)),
        ]

    def column_titles(self, evaluation: dict) -> dict[str, str]:
        """Return metric -> heading of the table in which a report sets stages side by side."""
        return {self.main_metric: f"{self.main_metric_title}, {evaluation['metrics'][self.main_metric]['n']} pairs"}

    def row_score(self, row: dict) -> float | None:
        """Return how good the score of a reply is: the share of its pairs in the right order, None where it has no pair."""
        return row["right_share"]

    def question(self, row: dict) -> list[tuple[str, str]]:
        """Return what an example is about, as (name, text)."""
        return [
            ("text", row["text"]),
            ("rating", ", ".join(f"{name} {value:g}" for name, value in row["label"].items())),
        ]

    def answer(self, row: dict) -> str:
        """Return what the model said."""
        (value,) = row["prediction"].values()
        right = "nothing to compare" if row["right_share"] is None else f"{row['right_share']:.0%} of its pairs right"
        return f"score {value:.2f} ({right})"


def _shares(scores: list[float], pairs: list[tuple[int, int]]) -> dict[int, float]:
    """Return row -> the share of its pairs that are in the right order."""
    found = {}
    for pair, right in zip(pairs, right_order(scores, pairs).tolist(), strict=True):
        for row in pair:
            found.setdefault(row, []).append(right)
    return {row: sum(values) / len(values) for row, values in found.items()}
