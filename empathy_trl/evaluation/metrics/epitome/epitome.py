"""EPITOME: levels of three mechanisms of empathy in replies, and how they differ from those of the references."""

from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics import module
from empathy_trl.evaluation.metrics.bootstrap import mean_figures
from empathy_trl.text import is_visible

SOURCE = """\
@inproceedings{sharma-etal-2020-computational,
  title = {A Computational Approach to Understanding Empathy Expressed in Text-Based Mental Health Support},
  author = {Sharma, Ashish and Miner, Adam and Atkins, David and Althoff, Tim},
  booktitle = {Proceedings of EMNLP},
  year = {2020},
}
"""


class Epitome(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT, references=module.TEXT, prompts=module.TEXT)
    summary = "Levels of EPITOME's mechanisms in replies, and their difference to the levels of the reference replies."
    source = SOURCE + module.LEE

    def _compute(self, predictions, references, prompts, model: str | None = None, intervals: bool = False) -> dict:
        """Return `epitome_<mechanism>` and its `_difference`, `_mse`, `_pearson`, `_reference` and `_mse_of_level_0`.

        A correlation is None where all replies, or all references, have one level. `n` is how many rows have a prompt.

        Args:
            model: folder or Hub id of the classifier.
            intervals: return `{"value", "low", "high", "n"}` for each, with a 95 % bootstrap interval.

        Raises:
            UserError: the model cannot be loaded, or is no classifier of EPITOME's levels; or there is no prompt.
        """
        if not any(map(is_visible, prompts)):
            raise UserError("prompts: all are empty; expected what was replied to")
        judged = module.judged("epitome", model, prompts, predictions, references)
        found = mean_figures(judged.rows)
        found |= {f"{name}_reference": figure for name, figure in judged.baselines["reference"].items()}
        constant = {name: figure for name, figure in judged.baselines["constant_0"].items() if name.endswith("_mse")}
        found |= {f"{name}_of_level_0": figure for name, figure in constant.items()}
        found |= judged.metrics
        if intervals:
            return found
        rows = sum(value is not None for value in next(iter(judged.rows.values())))
        return module.values(found) | dict.fromkeys(judged.left_out) | {"n": rows}
