"""What does a listener's utterance do? Eight intents of empathic responses, or none of them (Welivita & Pu 2020)."""

from empathy_trl.data.labelled import TASKS, build_labelled, read_labelled

__all__ = ["LABELS", "TASKS", "build", "read_split", "targets"]

LABELS = (
    *("agreeing", "acknowledging", "encouraging", "consoling", "sympathizing", "suggesting", "questioning", "wishing"),
    "neutral",
)


def targets(config) -> dict[str, tuple[str, ...]]:
    """Return the one group of labels, `intent`."""
    return {"intent": LABELS}


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, see `labelled.build_labelled`."""
    return build_labelled(config, split, task, "intents", LABELS, _others())


def read_split(config, split: str):
    """Return `(rows, report)`; rows with an emotion, which EmpatheticIntents has beside, are skipped."""
    return read_labelled(config, split, "intents", LABELS, _others())


def _others() -> tuple[str, ...]:
    from empathy_trl.data import emotions  # which itself looks at these labels

    return emotions.LABELS
