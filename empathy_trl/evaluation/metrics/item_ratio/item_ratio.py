"""Item ratio: how many items a recommender's replies name on average."""

from empathy_trl.errors import UserError, show
from empathy_trl.evaluation.metrics import module
from empathy_trl.evaluation.metrics.bootstrap import mean_figures
from empathy_trl.evaluation.metrics.reply_metrics import item_counts

SOURCE = """\
@inproceedings{wang2022unicrs,
  title = {Towards Unified Conversational Recommender Systems via Knowledge-Enhanced Prompt Learning},
  author = {Wang, Xiaolei and Zhou, Kun and Wen, Ji-Rong and Zhao, Wayne Xin},
  booktitle = {Proceedings of KDD},
  year = {2022},
}
"""


class ItemRatio(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT)
    summary = "How often the placeholder of an item, such as <movie>, occurs per reply that is not empty."
    source = SOURCE

    def _compute(self, predictions, placeholder: str = "<movie>", intervals: bool = False) -> dict:
        """Return `item_ratio`, None where all replies are empty, and `n`, the replies that are not.

        Args:
            placeholder: what stands for an item.
            intervals: return `{"value", "low", "high", "n"}` as `item_ratio`, with a 95 % bootstrap interval.

        Raises:
            UserError: the placeholder is no text, or an empty one.
        """
        if not isinstance(placeholder, str) or not placeholder:
            raise UserError(
                f"placeholder: expected what stands for an item, such as '<movie>', got {show(placeholder)}"
            )
        counts = item_counts(predictions, placeholder)
        said = [count for count in counts if count is not None]
        if intervals:
            return mean_figures({"item_ratio": counts}) or {"item_ratio": None}
        return {"item_ratio": sum(said) / len(said) if said else None, "n": len(said)}
