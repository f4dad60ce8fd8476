"""EMO-ACC: how often a classifier finds the dialogue's emotion in the reply."""

from empathy_trl.evaluation.intervals import mean_figures
from empathy_trl.metrics import judging, module

SOURCE = """\
@inproceedings{lee-etal-2022-gpt,
  title = {Does GPT-3 Generate Empathetic Dialogues? A Novel In-Context Example Selection Method and Automatic Evaluation Metric for Empathetic Dialogue Generation},
  author = {Lee, Young-Jun and Lim, Chae-Gyun and Choi, Ho-Jin},
  booktitle = {Proceedings of COLING},
  year = {2022},
}
"""


class EmoAcc(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT, references=module.TEXT)
    summary = "The share of replies in which a classifier finds the emotion of the dialogue."
    source = SOURCE

    def _compute(self, predictions, references, model: str | None = None, intervals: bool = False) -> dict:
        """Return `emo_acc`, and `emo_acc_majority`, which the most frequent emotion would get.

        Args:
            model: folder or Hub id of the classifier.
            intervals: return `{"value", "low", "high", "n"}` for each, with a 95 % bootstrap interval.

        Raises:
            UserError: the model cannot be loaded or is no classifier of emotions, or does not know one of the references.
        """
        judged = judging.judged("emotion", model, [], predictions, predictions, references)
        found = mean_figures(judged.rows)
        found |= {f"{name}_majority": figure for name, figure in judged.baselines["majority"].items()}
        return found if intervals else module.values(found)
