"""What the modules with a classifier share: the classifier's name becomes an opinion of replies."""

from empathy_trl.errors import UserError
from empathy_trl.evaluation.reply_classifiers import Judged, judge_replies, load_classifiers
from empathy_trl.recipe.classifiers import KEY


def judged(
    kind: str, model: str, prompts: list[str], replies: list[str], references: list[str], emotions=None
) -> Judged:
    """Return what a classifier says of replies, see `judge_replies`.

    Args:
        kind: epitome, emotion or intent.
        model: folder or Hub id of the classifier.
        prompts, replies, references, emotions: of the same rows; what the kind does not read may be anything.

    Raises:
        UserError: the model cannot be loaded or is no classifier of this kind, or does not know an emotion.
    """
    if not isinstance(model, str) or not model:
        raise UserError(f"model: expected the folder or Hub id of a classifier, got {model!r}")
    try:
        return judge_replies(load_classifiers({kind: model}), prompts, replies, references, emotions)
    except UserError as error:  # which calls it by its name in a recipe
        raise UserError(str(error).replace(f"{KEY}.{kind}:", "model:")) from error
