"""INTENT-ACC: how often a classifier finds the intent of the reference in the reply."""

from empathy_trl.evaluation.metrics import module

SOURCE = """\
@inproceedings{welivita-pu-2020-taxonomy,
  title = {A Taxonomy of Empathetic Response Intents in Human Social Conversations},
  author = {Welivita, Anuradha and Pu, Pearl},
  booktitle = {Proceedings of COLING},
  year = {2020},
}
"""


class IntentAcc(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT, references=module.TEXT)
    summary = "The share of replies with the intent that a classifier finds in the reference reply."
    source = SOURCE + module.LEE

    def _compute(self, predictions, references, model: str | None = None, intervals: bool = False) -> dict:
        """Return `intent_acc`, and `intent_acc_majority`, which the most frequent intent would get.

        Args:
            model: folder or Hub id of the classifier.
            intervals: return `{"value", "low", "high", "n"}` for each, with a 95 % bootstrap interval.

        Raises:
            UserError: the model cannot be loaded, or is no classifier of intents.
        """
        return module.agreement("intent", model, predictions, references, intervals=intervals)
