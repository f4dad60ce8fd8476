"""Emotions named by a model: accuracy, macro-F1, and the share of answers that are not an emotion."""

from empathy_trl.errors import UserError, show
from empathy_trl.evaluation.metrics import module
from empathy_trl.evaluation.metrics.agreement import score_predictions, share_statistics
from empathy_trl.evaluation.metrics.bootstrap import mean_figure
from empathy_trl.tags import match_label, read_answer

SOURCE = """\
@inproceedings{rashkin-etal-2019-towards,
  title = {Towards Empathetic Open-domain Conversation Models: A New Benchmark and Dataset},
  author = {Rashkin, Hannah and Smith, Eric Michael and Li, Margaret and Boureau, Y-Lan},
  booktitle = {Proceedings of ACL},
  year = {2019},
}
"""
FIGURES = ("accuracy", "macro_f1")


class EmotionAccuracy(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT, references=module.TEXT)
    summary = (
        "Accuracy and macro-F1 of emotions, where an invalid answer counts as wrong, and the share of invalid answers."
    )
    source = SOURCE

    def _compute(
        self, predictions, references, labels: list[str] | None = None, tagged: bool = True, intervals: bool = False
    ) -> dict:
        """Return `accuracy`, `macro_f1` and `invalid_share`.

        Args:
            labels: all emotions that may be answered.
            tagged: predictions are completions, whose answer `empathy_trl.tags.read_answer` reads;
                otherwise they are the emotions themselves.
            intervals: return `{"value", "low", "high", "n"}` for each, with a 95 % bootstrap interval.

        Raises:
            UserError: no labels, a reference that is none of them, or bare emotions where completions are expected.
        """
        labels = _checked_labels(labels, references)
        if tagged:
            _refuse_bare(predictions, labels)
        answers = [read_answer(text, labels) for text in predictions] if tagged else predictions
        invalid = [answer not in labels for answer in answers]
        if intervals:
            metrics, _ = score_predictions(answers, references, labels)
            return {name: metrics[name] for name in FIGURES} | {"invalid_share": mean_figure(invalid)}
        shares = module.point_values(*share_statistics(answers, references, labels), len(references))
        return {name: shares[name] for name in FIGURES} | {"invalid_share": sum(invalid) / len(invalid)}


def _checked_labels(labels, references) -> list[str]:
    if isinstance(labels, str) or not labels or not all(isinstance(label, str) for label in labels):
        raise UserError(f"labels: expected a list of all emotions that may be answered, got {show(labels)}")
    labels = list(labels)
    odd = [label for number, label in enumerate(labels) if not label.strip() or match_label(label, labels[:number])]
    if odd:
        raise UserError(f"labels: expected different emotions, got {odd[0]!r}")
    for row, label in enumerate(references):
        if label not in labels:
            raise UserError(f"references, row {row}: {label!r} is not one of labels ({', '.join(labels)})")
    return labels


def _refuse_bare(predictions, labels: list[str]) -> None:
    """Without this, whoever passes emotions and not completions would be told that all of them are wrong."""
    bare = sum(match_label(text, labels) is not None for text in predictions)
    if bare and not any("<answer>" in text for text in predictions):
        raise UserError(
            f"predictions: {bare} of {len(predictions)} are an emotion, and none has an <answer> tag; emotions themselves need "
            "tagged=False"
        )
