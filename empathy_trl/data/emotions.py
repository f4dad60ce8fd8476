"""Which of 32 emotions does a situation express? (EmpatheticDialogues, Rashkin et al. 2019)"""

from empathy_trl.data import intents
from empathy_trl.data.labelled import TASKS, build_labelled, read_labelled

__all__ = ["LABELS", "TASKS", "build", "read_split", "targets"]

LABELS = (
    *("afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring", "confident"),
    *("content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful", "furious"),
    *("grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely", "nostalgic", "prepared"),
    *("proud", "sad", "sentimental", "surprised", "terrified", "trusting"),
)


def targets(config) -> dict[str, tuple[str, ...]]:
    """Return the one group of labels, `emotion`."""
    return {"emotion": LABELS}


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, see `labelled.build_labelled`."""
    return build_labelled(config, split, task, "emotions", LABELS, intents.LABELS)


def read_split(config, split: str):
    """Return `(rows, report)`; rows with a response intent, which EmpatheticIntents has beside, are skipped."""
    return read_labelled(config, split, "emotions", LABELS, intents.LABELS)
