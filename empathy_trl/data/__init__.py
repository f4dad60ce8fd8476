"""Corpora: from a source of rows to the `datasets.Dataset` that a trainer takes.

Each corpus is one class, a `base.Corpus`, in the module that `CORPORA` names. It finds its source, reads it strictly
and splits it if it has no splits (`sources.py`, `tables.py`), cleans the text (`empathy_trl/text.py`)
and writes the prompt. It does not depend on rewards or trainers.

`data.name` in a recipe is a key of `CORPORA`. For a corpus outside the package, `data.builder:
my_package.my_module:MyCorpus` names the class, and `data.name` is the name used in results.
"""

from empathy_trl.data.base import BadRow, Corpus, Report
from empathy_trl.errors import UserError, suggestion
from empathy_trl.io import import_object

__all__ = ["CORPORA", "BadRow", "Corpus", "build", "corpus", "read_split", "targets"]

# `data.name` -> module and class, which are imported only when used
CORPORA = {
    "dialogues": "empathy_trl.data.dialogues:Dialogues",
    "ed4": "empathy_trl.data.ed4:Ed4",
    "emotions": "empathy_trl.data.labelled:Emotions",
    "empath": "empathy_trl.data.empath:Empath",
    "epitome": "empathy_trl.data.labelled:Epitome",
    "intents": "empathy_trl.data.labelled:Intents",
    "rated_replies": "empathy_trl.data.dialogues:RatedReplies",
    "redial": "empathy_trl.data.redial:Redial",
    "wassa": "empathy_trl.data.wassa:Wassa",
}


def corpus(name: str, builder: str | None = None) -> Corpus:
    """Return a corpus.

    Args:
        name: a key of `CORPORA`, or with a builder any name.
        builder: `package.module:Class` of a corpus from outside the package.

    Raises `UserError` for an unknown name, or a builder that is not such a class.
    """
    if builder is None:
        if name not in CORPORA:
            raise UserError(
                f"data.name: unknown corpus {name!r}{suggestion(name, CORPORA)}; for your own corpus, also set "
                "data.builder: my_package.my_module:MyCorpus"
            )
        return import_object("data.name", CORPORA[name])()
    if name in CORPORA:
        raise UserError(f"data.name: {name!r} is a corpus of this package; with data.builder, choose another name")
    found = import_object("data.builder", builder)
    if not (isinstance(found, type) and issubclass(found, Corpus)):
        raise UserError(f"data.builder: {builder} is not a subclass of empathy_trl.data.Corpus")
    try:
        return found()
    except TypeError as error:  # abstract methods are missing, or it takes arguments
        raise UserError(f"data.builder: {builder}() raises TypeError: {error}") from error


def build(config, split: str, task: str):
    """Return one split of a recipe's `data` as a `datasets.Dataset`; see `base.Corpus.build`."""
    return corpus(config.name, config.builder).build(config, split, task)


def read_split(config, split: str) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: the rows of `build` before prompts are written; see `base.Corpus.read_split`."""
    return corpus(config.name, config.builder).read_split(config, split)


def targets(config) -> dict[str, tuple]:
    """Return what stands in the column `labels`; see `base.Corpus.targets`."""
    return corpus(config.name, config.builder).targets(config)
