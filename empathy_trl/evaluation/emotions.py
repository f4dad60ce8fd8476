"""The evaluator of completions whose answer is an emotion."""

from pathlib import Path

from empathy_trl.data import corpus
from empathy_trl.evaluation.base import Evaluator, markdown, score_baselines
from empathy_trl.evaluation.generation import generate_shared
from empathy_trl.evaluation.metrics.agreement import reasoning_words, score_emotions, share_statistics
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.evaluation.plots import draw_confusion
from empathy_trl.text import in_markdown

COLUMNS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "invalid_share": "invalid answers",
    "mean_reasoning_words": "words of reasoning",
}


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

    def score(self, stage, rows, train, completions: list[str], rewards) -> tuple[dict, list[dict]]:
        """Return `metrics`, `baselines` and `confusion`, and one row per example."""
        labels = corpus(stage.data.name, stage.data.builder).labels
        gold = list(rows["label"])
        metrics, predictions, confusion = score_emotions(completions, gold, labels)
        baselines = score_baselines(train["text"], train["label"], rows["text"], gold, labels)
        table = [
            {
                "text": text,
                "label": label,
                "prediction": prediction,
                "correct": prediction == label,
                "completion": completion,
            }
            for text, label, prediction, completion in zip(rows["text"], gold, predictions, completions, strict=True)
        ]
        return {"metrics": metrics, "baselines": baselines, "confusion": confusion}, table

    def draw(self, folder: Path, split: str, result: dict, table: list[dict], title: str) -> None:
        """Draw the confusion matrix."""
        draw_confusion(folder / f"confusion_{split}.png", result["confusion"], title)

    def summary(self, result: dict) -> list[str]:
        """Return the lines of a plain-text table: the model above its baselines."""
        metrics = result["metrics"]
        invalid, words = metrics["invalid_share"]["value"], metrics["mean_reasoning_words"]["value"]
        return [
            f"{'':<30}{'accuracy [95 %]':<24}macro-F1 [95 %]",
            *(
                f"{name:<30}{with_interval(row['accuracy']):<24}{with_interval(row['macro_f1'])}"
                for name, row in self.model_and_baselines(result)
            ),
            f"invalid answers {invalid:.1%}, reasoning {words:.1f} words on average",
        ]

    def column_titles(self, evaluation: dict) -> dict[str, str]:
        """Return metric -> heading of the table in which a report sets stages side by side."""
        return COLUMNS

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
        return {
            "invalid_share": [row["prediction"] is None for row in rows],
            "mean_reasoning_words": [reasoning_words(row["completion"]) for row in rows],
        }

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
        """Return what the model said."""
        return f"{row['prediction'] or 'invalid'} ({'right' if row['correct'] else 'wrong'}): {row['completion']}"
