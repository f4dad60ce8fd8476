"""Rated replies: how good is a reply in its context, as one number or by several named ratings?

The rows of reward models. Two formats: parallel lists (`contexts.json`, `responses.json`, `ratings.json`, the layout of
RLHF-GODEL), and JSON Lines with `context`, `response` and `ratings`. A source that comes in parts is used so; a single one
is split 90/10 by context (see `sources.py`), so that no context is in two parts.
"""

import math

from empathy_trl.data.readers import JSON_LINES, read_objects
from empathy_trl.data.rows import BadRow, Report, Row, Table, did_you_mean, shown, text_of, turns_of
from empathy_trl.data.sources import (
    FOLDERS,
    check_split,
    check_task,
    local_path,
    names_in,
    read_lists,
    split_file,
    split_folder,
    split_table,
    usable_rows,
)
from empathy_trl.errors import DataError

TASKS = ("regress",)
COMPARABLE = True  # its column `context` says which replies can be compared
RATING = "rating"  # the name of a bare number
RANGES = {RATING: (1.0, 5.0)}
SAMPLE_RANGES = dict.fromkeys(("empathy", "informativeness", "recommendation", "engagement", "overall"), (1.0, 5.0))

# What a row has -> the file of a folder of parallel lists that has it.
_FILES = {"context": "contexts.json", "response": "responses.json", "ratings": "ratings.json"}
_EXPECTED = (
    "a folder with contexts.json, responses.json and ratings.json or with train, val and test folders of them, a folder with "
    "train, valid and test files of JSON Lines, or one such file"
)


def targets(config) -> dict[str, tuple[float, float]]:
    """Return `{rating: (lowest, highest)}` in the order of `labels`: `config.ranges`, or else those of the source.

    They are the five of the embedded corpus, and elsewhere one, `rating`, from 1 to 5.
    """
    return dict(config.ranges or (SAMPLE_RANGES if config.path == "sample" else RANGES))


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, one row per reply, in the order of the source.

    Columns: `text` (the last turn of the context), `pair` (the reply), `labels` (a float32 for each of `targets`), `context`
    (all of its turns, one a line: replies with the same can be compared).

    Raises what `read_split` raises, and `UserError` for an unknown task.
    """
    check_task("rated_replies", task, TASKS)
    rows, _ = read_split(config, split)
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    columns = {"text": text, "pair": text, "labels": List(Value("float32")), "context": text}
    return Dataset.from_dict({name: [row[name] for row in rows] for name in columns}, features=Features(columns))


def read_split(config, split: str) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: dicts with `text`, `pair`, `context` and `labels` (floats).

    `text` and `pair` have `config.max_words` words each. A row without one of the ratings of `targets`, or where it is no
    number or out of range, is a bad row; other ratings are ignored.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when no row is left;
    `UserError` for an unknown split.
    """
    check_split(split)
    table = _read_source(config, split)
    columns = {key: file if file in table.columns else key for key, file in _FILES.items()}
    ranges = targets(config)
    return usable_rows(config, split, table, lambda row: _parse(row, columns, ranges), texts=("text", "pair"))


def _parse(row: Row, columns: dict[str, str], ranges: dict[str, tuple[float, float]]) -> dict | BadRow:
    turns, response = turns_of(row, columns["context"]), text_of(row, columns["response"], "response")
    given = row.cells[columns["ratings"]]
    ratings = given if isinstance(given, dict) else {RATING: given}
    labels = [_label(row, ratings, name, *bounds) for name, bounds in ranges.items()]
    if (bad := next((part for part in (turns, response, *labels) if isinstance(part, BadRow)), None)) is not None:
        return bad
    return {"text": turns[-1], "pair": response, "context": _joined(turns), "labels": labels}


def _label(row: Row, ratings: dict, name: str, low: float, high: float) -> float | BadRow:
    """Return one rating; true and false are no numbers."""
    expected, value = f"expected a number from {low:g} to {high:g}", ratings.get(name)
    if value is None and name in ratings:
        return BadRow(row.where, "missing rating", f"{name} is null; {expected}")
    if value is None:
        there = did_you_mean(name, ratings, "ratings found")
        return BadRow(row.where, "missing rating", f"no {name}{there}; say with data.ranges which ratings are meant")
    # isfinite is for floats: it cannot read a whole number of 400 digits
    is_number = isinstance(value, int) or isinstance(value, float) and math.isfinite(value)
    if isinstance(value, bool) or not is_number:
        return BadRow(row.where, "rating is no number", f"{name} is {shown(value)}; {expected}")
    if not low <= value <= high:
        return BadRow(row.where, "rating out of range", f"{name} is {shown(value)}; {expected}")
    return float(value)


def _read_source(config, split: str) -> Table:
    """Return the table of one split, from whatever kind of source `config.path` names."""
    path = local_path(config.path, "sample/rated_replies", _EXPECTED)
    if path.is_file():
        return _part(read_objects(path, _FILES), split)
    files = list(_FILES.values())
    if path.joinpath(files[0]).is_file():
        return _part(read_lists(path, files), split)
    folders = [name for names in FOLDERS.values() for name in names if path.joinpath(name).is_dir()]
    if folders:
        alone = folders == ["train"]  # the published layout has nothing held out
        table = read_lists(split_folder(path, "train" if alone else split), files)
        return _part(table, split) if alone else table
    tables = [entry for entry in path.iterdir() if entry.is_file() and entry.name.lower().endswith(JSON_LINES)]
    if len(tables) == 1:
        return _part(read_objects(tables[0], _FILES), split)
    if not tables:
        raise DataError(f"data.path: {path} has no rated replies (files found: {names_in(path)}); expected {_EXPECTED}")
    return read_objects(split_file(path, split, JSON_LINES), _FILES)


def _part(table: Table, split: str) -> Table:
    """Return the rows of one part of a table without splits; a row without a context is a group of its own."""
    column = _FILES["context"] if _FILES["context"] in table.columns else "context"
    turns = [turns_of(row, column) if isinstance(row, Row) else row for row in table.rows]
    groups = [number if isinstance(said, BadRow) else _joined(said) for number, said in enumerate(turns)]
    return split_table(table, groups, "context", split)[0]


def _joined(turns: list[str]) -> str:
    return "\n".join(turns)  # no turn has a line break any more
