"""INTENT-ACC: how often a classifier finds the intent of the reference in the reply."""

from empathy_trl.evaluation.intervals import mean_figures
from empathy_trl.metrics import judging, module

SOURCE = """\
@inproceedings{welivita-pu-2020-taxonomy,
  title = {A Taxonomy of Empathetic Response Intents in Human Social Conversations},
  author = {Welivita, Anuradha and Pu, Pearl},
  booktitle = {Proceedings of COLING},
  year = {2020},
}
@inproceedings{lee-etal-2022-gpt,
  title = {Does GPT-3 Generate Empathetic Dialogues? A Novel In-Context Example Selection Method and Automatic Evaluation Metric for Empathetic Dialogue Generation},
  author = {Lee, Young-Jun and Lim, Chae-Gyun and Choi, Ho-Jin},
  booktitle = {Proceedings of COLING},
  year = {2022},
}
"""


class IntentAcc(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT, references=module.TEXT)
    summary = "The share of replies with the intent that a classifier finds in the reference reply."
    source = SOURCE

    def _compute(self, predictions, references, model: str | None = None, intervals: bool = False) -> dict:
        """Return `intent_acc`, and `intent_acc_majority`, which the most frequent intent would get.

        Args:
            model: folder or Hub id of the classifier.
            intervals: return `{"value", "low", "high", "n"}` for each, with a 95 % bootstrap interval.

        Raises:
            UserError: the model cannot be loaded, or is no classifier of intents.
        """
        judged = judging.judged("intent", model, [], predictions, references)
        found = mean_figures(judged.rows)
        found |= {f"{name}_majority": figure for name, figure in judged.baselines["majority"].items()}
        return found if intervals else module.values(found)
