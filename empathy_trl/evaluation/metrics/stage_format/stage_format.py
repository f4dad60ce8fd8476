"""Format of replies with three parts: react, respond, reflect."""

from empathy_trl.evaluation.metrics import module
from empathy_trl.evaluation.metrics.bootstrap import mean_figures
from empathy_trl.tags import PARTS, format_credit, read_parts

SOURCE = "The format is that of the data set leonvanbokhorst/react-respond-reflect-v1 on the Hugging Face Hub."


class StageFormat(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT)
    summary = (
        "The share of replies that are written as <react>, <respond>, <reflect>, and the mean credit for a part of it."
    )
    source = SOURCE

    def _compute(self, predictions, intervals: bool = False) -> dict:
        """Return `format_adherence` and `format_credit`.

        Args:
            intervals: return `{"value", "low", "high", "n"}` for each, with a 95 % bootstrap interval.
        """
        whole = [read_parts(text) is not None for text in predictions]
        credits = [format_credit(text, PARTS) for text in predictions]
        columns = {"format_adherence": whole, "format_credit": credits}
        if intervals:
            return mean_figures(columns)
        return {name: sum(column) / len(column) for name, column in columns.items()}
