"""Ratings of several dimensions: correlation (Pearson, Spearman) and error (MAE) of predictions."""

from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics import module
from empathy_trl.evaluation.metrics.agreement import MEAN, rating_statistics, score_ratings

SOURCE = """\
@inproceedings{giorgi-etal-2024-findings,
  title = {Findings of WASSA 2024 Shared Task on Empathy and Personality Detection in Interactions},
  author = {Giorgi, Salvatore and Sedoc, Jo{\\~a}o and Barriere, Valentin and Tafreshi, Shabnam},
  booktitle = {Proceedings of the 14th Workshop on Computational Approaches to
    Subjectivity, Sentiment, \\& Social Media Analysis},
  year = {2024},
}
"""


class PearsonDims(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.NUMBERS, references=module.NUMBERS)
    summary = "Pearson and Spearman correlation and mean absolute error of every dimension of ratings, and their means."
    source = SOURCE

    def _compute(self, predictions, references, names: list[str] | None = None, intervals: bool = False) -> dict:
        """Return `pearson_<name>`, `spearman_<name>` and `mae_<name>` for every dimension and for `mean`.

        Args:
            names: of the dimensions; by default their numbers from 0.
            intervals: return `{"value", "low", "high", "n"}` for each, with a 95 % bootstrap interval.

        Raises:
            UserError: rows of different lengths, or names that do not fit.
        """
        wanted = len(references[0])
        for source, rows in (("predictions", predictions), ("references", references)):
            for row, ratings in enumerate(rows):
                if len(ratings) != wanted or not ratings:
                    raise UserError(
                        f"{source}, row {row}: has {len(ratings)} ratings; expected {wanted or 'one or more'}, as in the "
                        "first row of references"
                    )
        names = [str(number) for number in range(wanted)] if names is None else list(names)
        if len(names) != wanted or len({*names, MEAN}) <= wanted or not all(isinstance(name, str) for name in names):
            raise UserError(f"names: expected {wanted} different texts, none of them {MEAN!r}, got {names}")
        if intervals:
            return score_ratings(predictions, references, names)
        return module.point_values(*rating_statistics(predictions, references, names), len(references))
