"""One label per text: the 32 emotions of EmpatheticDialogues (`emotions`), or the intents of replies (`intents`).

The emotions are those of Rashkin et al. (2019): which of 32 does a situation express? The intents are the eight of
Welivita & Pu (2020) and neutral: what does a listener's reply do? EmpatheticIntents labels both kinds of text with one
list of 41 labels; either builder skips the rows of the other.
"""

from empathy_trl.data import on_hub
from empathy_trl.data.readers import SUFFIXES, read_table
from empathy_trl.data.rows import BadRow, Report, Row, Table, check_columns, did_you_mean, quote
from empathy_trl.data.sources import (
    as_table,
    check_split,
    check_task,
    hub_split,
    local_folder,
    situations,
    split_file,
    usable_rows,
)
from empathy_trl.text import clean

TASKS = ("classify",)

EMOTIONS = (
    *("afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring"),
    *("confident", "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful"),
    *("furious", "grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely"),
    *("nostalgic", "prepared", "proud", "sad", "sentimental", "surprised", "terrified", "trusting"),
)
INTENTS = (
    *("agreeing", "acknowledging", "encouraging", "consoling", "sympathizing"),
    *("suggesting", "questioning", "wishing", "neutral"),
)
# Builder name -> the name of its one group of labels, and the labels.
LABEL_SETS = {"emotions": ("emotion", EMOTIONS), "intents": ("intent", INTENTS)}

_EXPECTED = (
    "a folder with train, valid and test tables of `text` and `label` (or `situation` and `emotion`), or a Hub id "
    "such as 'facebook/empathetic_dialogues'"
)
# Columns of the text and the label. EmpatheticDialogues as JSON Lines has one conversation a row.
_COLUMNS = (("text", "label"), ("situation", "emotion"))


def targets(config) -> dict[str, tuple[str, ...]]:
    """Return `{"emotion": (32 names)}` or `{"intent": (9 names)}`, by `config.name`; a label is a position in it."""
    group, names = LABEL_SETS[config.name]
    return {group: names}


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, one row per text, in the order of the source.

    Columns: `text` (clean) and `labels` (a list of one int, the position in `targets`).

    Raises what `read_split` raises, and `UserError` for an unknown task.
    """
    check_task(config.name, task, TASKS)
    rows, _ = read_split(config, split)
    from datasets import Dataset, Features, List, Value

    columns = {"text": Value("string"), "labels": List(Value("int64"))}
    return Dataset.from_dict({name: [row[name] for row in rows] for name in columns}, features=Features(columns))


def read_split(config, split: str) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: dicts with `text` and `labels` ([int]). A label of the other set is skipped and counted.

    `config.path` is "sample", a folder, or a Hub id; on the Hub the situations of EmpatheticDialogues are found too.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when no row is left;
    `UserError` for an unknown split or a Hub id that cannot be loaded.
    """
    check_split(split)
    table = _read_source(config, split)
    text, label = next((pair for pair in _COLUMNS if pair[1] in table.columns), _COLUMNS[0])
    check_columns(table.source, table.columns, (text, label))
    _, names = LABEL_SETS[config.name]
    return usable_rows(config, split, table, lambda row: _parse(row, text, label, names))


def _parse(row: Row, text: str, label: str, names: tuple[str, ...]) -> dict | BadRow | None:
    value = row.cells[label].strip().lower()
    if value not in names:
        if value in EMOTIONS or value in INTENTS:
            return None
        return BadRow(row.where, "unknown label", f"{quote(row.cells[label])}{did_you_mean(value, names)}")
    content = clean(row.cells[text])
    if not content:
        return BadRow(row.where, "empty text", f"nothing is left of {quote(row.cells[text])} after cleaning")
    return {"text": content, "labels": [names.index(value)]}


def _read_source(config, split: str) -> Table:
    if not on_hub(config.path):
        folder = local_folder(config.path, f"sample/{config.name}", _EXPECTED)
        return read_table(split_file(folder, split, SUFFIXES))
    source, dataset = hub_split(config.path, config.revision, split)
    return situations(source, dataset) if "context" in dataset.column_names else as_table(source, dataset)
