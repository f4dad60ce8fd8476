"""distinct-n: how varied replies are; also dist@k as published by UniCRS and ECR."""

from empathy_trl.evaluation.metrics import module
from empathy_trl.evaluation.metrics.reply_metrics import variety_metrics, variety_statistics

SOURCE = """\
@inproceedings{li-etal-2016-diversity,
  title = {A Diversity-Promoting Objective Function for Neural Conversation Models},
  author = {Li, Jiwei and Galley, Michel and Brockett, Chris and Gao, Jianfeng and Dolan, Bill},
  booktitle = {Proceedings of NAACL-HLT},
  year = {2016},
}
"""


class DistinctN(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT)
    summary = "How many different n-grams all replies together have, as a share of their n-grams, and per reply."
    source = SOURCE

    def _compute(self, predictions, intervals: bool = False) -> dict:
        """Return `distinct_1` to `distinct_4` and `dist_at_1` to `dist_at_4`.

        Args:
            intervals: return `{"value", "low", "high", "n"}` for each, with a 95 % interval of the jackknife.
        """
        if intervals:
            return variety_metrics(predictions)
        return module.point_values(*variety_statistics(predictions), len(predictions))
