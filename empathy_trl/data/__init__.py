"""Data builders: from a source of rows to the `datasets.Dataset` a trainer takes.

One module per corpus, named in `BUILDERS`; each offers `build` and `read_split` as below, `TASKS` (what it has rows for),
and `targets` for label tasks or `EVALUATION` for the others. A builder reads its
source strictly (see `tables.py`), cleans the text (`text.py`) and writes the prompt. It knows no reward and
no trainer.
"""

import re
from importlib import import_module
from pathlib import Path

from empathy_trl.data.tables import did_you_mean
from empathy_trl.errors import UserError

# Builder name (the recipe's `data.name`) -> module, which is imported only when used.
BUILDERS = {
    "ed4": "empathy_trl.data.ed4",
    "wassa": "empathy_trl.data.wassa",
    "emotions": "empathy_trl.data.emotions",
    "intents": "empathy_trl.data.intents",
    "epitome": "empathy_trl.data.epitome",
}


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset` with the columns `task` needs.

    Args:
        config: a recipe's `data`: `name`, `path`, `revision`, `on_bad_rows`, `portion`, `max_words`.
        split: "train", "valid" or "test".
        task: "sft" or "grpo".

    Raises `DataError` for rows or files that cannot be used, `UserError` for an unknown name or an
    unreachable Hub id.
    """
    return _builder(config.name).build(config, split, task)


def read_split(config, split: str):
    """Return `(rows, report)`: the rows of `build` before prompts are written, and a `tables.Report`."""
    return _builder(config.name).read_split(config, split)


def tasks_of(name: str) -> tuple[str, ...]:
    """Return the tasks that a builder, a key of `BUILDERS`, has rows for."""
    return _builder(name).TASKS


def targets(config) -> dict[str, tuple]:
    """Return what a label task predicts: rating -> (lowest, highest), or group -> the names of its labels."""
    return _builder(config.name).targets(config)


def on_hub(path: str) -> bool:
    """Say whether `path` means a Hub id: it looks like "owner/name", and there is no such folder or file.

    `--check` asks this first, because reading such a split may download it, or wait in vain for a network.
    """
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path)) and not Path(path).exists()


def _builder(name: str):
    if name not in BUILDERS:
        raise UserError(f"data.name: unknown builder {name!r}{did_you_mean(name, BUILDERS)}")
    return import_module(BUILDERS[name])
