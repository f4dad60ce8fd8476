"""What the modules with a classifier share: the classifier's name becomes an opinion of replies."""

from empathy_trl.errors import UserError
from empathy_trl.evaluation.intervals import mean_figures
from empathy_trl.evaluation.reply_classifiers import Judged, judge_replies, load_classifiers
from empathy_trl.metrics.module import values
from empathy_trl.recipe.classifiers import KEY

LEE = """\
@inproceedings{lee-etal-2022-gpt,
  title = {Does GPT-3 Generate Empathetic Dialogues? A Novel In-Context Example Selection Method and
    Automatic Evaluation Metric for Empathetic Dialogue Generation},
  author = {Lee, Young-Jun and Lim, Chae-Gyun and Choi, Ho-Jin},
  booktitle = {Proceedings of COLING},
  year = {2022},
}
"""


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


def agreement(
    kind: str, model: str, replies: list[str], references: list[str], emotions=None, *, intervals: bool
) -> dict:
    """Return `<metric>` and `<metric>_majority` of a classifier of emotions or intents; arguments as for `judged`."""
    found = judged(kind, model, [], replies, references, emotions)
    majority = {f"{name}_majority": figure for name, figure in found.baselines["majority"].items()}
    figures = mean_figures(found.rows) | majority
    return figures if intervals else values(figures)
