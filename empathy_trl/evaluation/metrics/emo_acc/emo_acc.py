"""EMO-ACC: how often a classifier finds the dialogue's emotion in the reply."""

from empathy_trl.evaluation.metrics import module


class EmoAcc(module.Module):
    """See README.md."""

    inputs = module.inputs(predictions=module.TEXT, references=module.TEXT)
    summary = "The share of replies in which a classifier finds the emotion of the dialogue."
    source = module.LEE

    def _compute(self, predictions, references, model: str | None = None, intervals: bool = False) -> dict:
        """Return `emo_acc`, and `emo_acc_majority`, which the most frequent emotion would get.

        Args:
            model: folder or Hub id of the classifier.
            intervals: return `{"value", "low", "high", "n"}` for each, with a 95 % bootstrap interval.

        Raises:
            UserError: the model cannot be loaded or is no classifier of emotions, or does not know one of the references.
        """
        return module.agreement("emotion", model, predictions, predictions, references, intervals=intervals)
