"""Data builders: from a source of rows to the `datasets.Dataset` a trainer takes.

One module per corpus, named in `BUILDERS`; each offers `TASKS`, `build` and `read_split`, as below. With task "regress"
or "classify" it also offers `targets`, and `COMPARABLE` where the rows of regress have a column `context`; with "sft" or
"grpo" `EVALUATION`, the kind by which completions are evaluated, and for the kind "emotions" `LABELS`.

A builder finds its source and splits it where it comes without splits (`sources.py`), reads it strictly (`readers.py`,
`rows.py`), cleans the text (`empathy_trl/text.py`, `normalize.py`) and writes the prompt. It knows no reward and no trainer.
"""

import re
from importlib import import_module
from pathlib import Path

from empathy_trl.data.rows import did_you_mean
from empathy_trl.errors import UserError

# Builder name (the recipe's `data.name`) -> module, which is imported only when used.
BUILDERS = {
    "dialogues": "empathy_trl.data.dialogues",
    "ed4": "empathy_trl.data.ed4",
    "emotions": "empathy_trl.data.labelled",
    "empath": "empathy_trl.data.empath",
    "epitome": "empathy_trl.data.epitome",
    "intents": "empathy_trl.data.labelled",
    "rated_replies": "empathy_trl.data.rated_replies",
    "redial": "empathy_trl.data.redial",
    "wassa": "empathy_trl.data.wassa",
}
# Key of `data` -> the builders that read it; what is not listed here is read by all.
OWN_KEYS = {
    "context_tokens": ("redial",),
    "emotions": ("redial",),
    "instruction": ("dialogues", "empath"),
    "max_words": tuple(name for name in BUILDERS if name != "redial"),
    "normalize": ("wassa",),
    "ranges": ("wassa", "rated_replies"),
    "reflections": ("empath",),
    "reply_tokens": ("redial",),
    "slots": ("redial",),
    "split_by": ("wassa",),
    "text_column": ("wassa",),
}


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset` with the columns `task` needs.

    Args:
        config: a recipe's `data`; a builder's `read_split` says what it reads of it.
        split: "train", "valid" or "test".
        task: one of the builder's `TASKS`.

    Raises `DataError` for rows or files that cannot be used, `UserError` for an unknown name or an
    unreachable Hub id.
    """
    return _builder(config.name).build(config, split, task)


def read_split(config, split: str):
    """Return `(rows, report)`: the rows of `build` before prompts are written, and a `rows.Report`."""
    return _builder(config.name).read_split(config, split)


def targets(config) -> dict[str, tuple]:
    """Return what stands in the column `labels`, in its order.

    For "regress" `{dimension: (lowest, highest)}`, and `labels` holds a float for each dimension; for "classify"
    `{group: (names)}`, and `labels` holds for each group the position of its name.

    Raises `UserError` for an unknown builder, or one whose rows have no such labels.
    """
    builder = _builder(config.name)
    if not hasattr(builder, "targets"):
        raise UserError(f"data.name: the {config.name} data has no labels to predict; its tasks: {builder.TASKS}")
    return builder.targets(config)


def tasks_of(name: str) -> tuple[str, ...]:
    """Return the tasks that a builder, a key of `BUILDERS`, has rows for."""
    return _builder(name).TASKS


def comparable(name: str) -> bool:
    """Say whether the rows of a builder have a `context`, so that replies to the same one can be compared."""
    return getattr(_builder(name), "COMPARABLE", False)


def normalization(config) -> dict[str, bool] | None:
    """Return the switches of `normalize.normalize` for the texts, None for a builder that cleans otherwise."""
    return config.normalize.model_dump() if config.name == "wassa" else None


def on_hub(path: str) -> bool:
    """Say whether `path` means a Hub id: it looks like "owner/name", and there is no such folder or file.

    `--check` asks this first, because reading such a split may download it, or wait in vain for a network.
    """
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path)) and not Path(path).exists()


def _builder(name: str):
    if name not in BUILDERS:
        raise UserError(f"data.name: unknown builder {name!r}{did_you_mean(name, BUILDERS)}")
    return import_module(BUILDERS[name])
