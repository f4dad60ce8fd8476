"""Rated turns of conversations: how emotional, how positive and how empathic is each? (WASSA shared tasks, 2022 on)

Three ratings per turn make the rows of task regress. For tasks sft and grpo the same turns are prompts, and what the other
person answered is the reference, see `wassa_replies.py`.

The source is the embedded corpus ("sample"), a folder, or a Hub id. A folder holds either train, valid and test files, or
one file of turns, which `data.split_by` then divides 90/10: by row, as published figures do, or by conversation, so that no
conversation is on both sides.
"""

import math

from empathy_trl.data import on_hub
from empathy_trl.data.columns import text_column
from empathy_trl.data.formats import SUFFIXES, read_table
from empathy_trl.data.hub import as_table, hub_split
from empathy_trl.data.normalize import normalize
from empathy_trl.data.sources import STEMS, check_split, check_task, local_folder, split_file, tables_in, usable_rows
from empathy_trl.data.splits import split_rows
from empathy_trl.data.tables import BadRow, Report, Row, Table, check_columns, quote
from empathy_trl.data.wassa_replies import answered_turns, make_completion, make_prompt
from empathy_trl.errors import DataError

TASKS = ("regress", "sft", "grpo")
EVALUATION = "replies"  # how completions are evaluated
RANGES = {"Emotion": (0.0, 5.0), "EmotionalPolarity": (0.0, 2.0), "Empathy": (0.0, 5.0)}

_CONVERSATION = ("conversation_id", "conv_id", "dialog_id")
_SPEAKER = ("speaker_id", "speaker", "speaker_number")
_EXPECTED = "a folder with train, valid and test files or one file of turns, or a Hub id"


def targets(config) -> dict[str, tuple[float, float]]:
    """Return rating -> (lowest, highest): `data.ranges`, or those of WASSA's turns."""
    return config.ranges or RANGES


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, in the order of the source.

    Columns for task regress, one row per turn: `text` (normalised), `labels` (float32, one per rating), `conversation`
    (None where the source has none). For grpo, one row per turn that is answered: `prompt` (system and user message), `text`
    (the turn), `reference` (the answer) and `conversation`; for sft also `completion`.

    Raises what `read_split` raises, and `UserError` for an unknown task.
    """
    check_task("wassa", task, TASKS)
    rows, report = read_split(config, split)
    from datasets import Dataset, Features, List, Value

    if task == "regress":
        columns = {
            "text": [row["text"] for row in rows],
            "labels": [list(row["labels"].values()) for row in rows],
            "conversation": [row["conversation"] for row in rows],
        }
        kinds = {"text": Value("string"), "labels": List(Value("float32")), "conversation": Value("string")}
        return Dataset.from_dict(columns, features=Features(kinds))
    pairs = answered_turns(rows)
    if not pairs:
        raise DataError(f"{report.source}: no turn is answered by the next; task {task} needs whole conversations")
    columns = {key: [pair[key] for pair in pairs] for key in ("text", "reference", "conversation")}
    columns["prompt"] = [make_prompt(pair["text"]) for pair in pairs]
    if task == "sft":
        columns["completion"] = [make_completion(pair) for pair in pairs]
    return Dataset.from_dict(columns)


def read_split(config, split: str) -> tuple[list[dict], Report]:
    """Return `(rows, report)` of one split: dicts with `text`, `labels` (rating -> number), `conversation`, `speaker`.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when no row is left; `UserError`
    for an unknown split or a Hub id that cannot be loaded.
    """
    check_split(split)
    table = _read_source(config, split)
    check_columns(table.source, table.columns, targets(config))
    text = text_column(table.source, table.columns, config.text_column)
    conversation, speaker = (_first(table.columns, names) for names in (_CONVERSATION, _SPEAKER))

    def parse(row: Row) -> dict | BadRow:
        cleaned = normalize(row.cells[text], **config.normalize.model_dump())
        if not cleaned.strip():
            return BadRow(row.where, "empty text", f"nothing is left of {quote(row.cells[text])} after normalisation")
        labels = {}
        for name, limits in targets(config).items():
            labels[name] = _number(row.cells[name], limits)
            if labels[name] is None:
                low, high = limits
                return BadRow(row.where, f"bad {name}", f"{quote(row.cells[name])} (expected {low:g} to {high:g})")
        who, where = (row.cells[name] if name else None for name in (speaker, conversation))
        return {"text": cleaned, "labels": labels, "conversation": where, "speaker": who}

    return usable_rows(config, split, table, parse)


def _number(cell: str, limits: tuple[float, float]) -> float | None:
    """Return the number of a cell, None where it is none or outside its limits."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and limits[0] <= value <= limits[1] else None


def _read_source(config, split: str) -> Table:
    if on_hub(config.path):
        return as_table(*hub_split(config.path, config.revision, split))
    folder = local_folder(config.path, "sample/wassa", _EXPECTED)
    tables = tables_in(folder)
    given = [table.name for table in tables if table.name.split(".")[0] in sum(STEMS.values(), ())]
    if config.split_by == "given":
        if not given and len(tables) == 1:
            raise DataError(
                f"data.path: {folder} has one file, {tables[0].name}; say how to split it with data.split_by: row or conversation"
            )
        return read_table(split_file(folder, split, SUFFIXES))
    if given or len(tables) != 1:
        names = ", ".join(table.name for table in tables) or "none"
        raise DataError(f"data.split_by: {config.split_by} divides one file of turns; {folder} has {names}")
    whole = read_table(tables[0])
    rows = [whole.rows[number] for number in split_rows(_groups(whole, config.split_by))[split]]
    return Table(f"{whole.source} ({split}, by {config.split_by})", whole.columns, rows)


def _groups(table: Table, split_by: str) -> list:
    """Return what belongs together in a split: a group per row, or the conversation of each row."""
    if split_by == "row":
        return list(range(len(table.rows)))
    column = _first(table.columns, _CONVERSATION)
    if column is None:
        raise DataError(
            f"{table.source}: data.split_by is conversation, and no column is called {', '.join(_CONVERSATION)} (columns found: "
            f"{', '.join(table.columns)}); use data.split_by: row, or leave the stage out with --stages.<name> null"
        )
    return [row.cells[column] if isinstance(row, Row) else row.where for row in table.rows]


def _first(columns: list[str], names: tuple[str, ...]) -> str | None:
    """Return the first column that is called like one of the names, in any case."""
    return next((column for column in columns if column.lower() in names), None)
