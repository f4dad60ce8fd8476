"""Tables: reading users' rows in every format, and splitting a table without splits.

| format | name ends in | read by |
|---|---|---|
| CSV, TSV | `.csv`, `.tsv` | `_read_csv` |
| JSON Lines, or a JSON list of objects | `.jsonl`, `.json` | `_read_json` |
| parquet, `datasets` | `.parquet` | `as_table` |
| lists side by side | `contexts.json` … | `read_lists` |

Text formats may be gzipped (`.csv.gz`). An unusable file (missing, not UTF-8, a missing column) raises `DataError`. An unusable
row (too many cells, an open quote, not JSON) becomes a `BadRow`, which names the defect and the position. `sources` finds the
table of a split.

`split_rows` and `split_table` split data without splits 90/10, by row or by conversation. Turns of the same
conversation quote and answer each other. A split by row puts some of them on both sides, so a test score also measures
memorisation; a split by conversation avoids this. Published figures often come from a split by row, so both are
available.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from empathy_trl.errors import DataError, show, suggestion
from empathy_trl.io import json_lines, read_text
from empathy_trl.text import encodable

_TABULAR = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".json")
# Endings of the formats with nested values (lists, mappings), and of all formats.
NESTED = (*_JSON, ".parquet")
SUFFIXES = (*_TABULAR, *NESTED)
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
# EmpatheticDialogues' own CSV has no quoting: a comma is written `_comma_`, and `"` is an ordinary character.
_UNQUOTED = ("conv_id", "utterance_idx", "utterance")
# A list of texts or mappings in a cell, as pandas and `datasets` write one into CSV: `['a', 'b']`, `[{'role': …}\n {…}]`.
_LIST = re.compile(r"""\s*\[\s*(['"{]).*['"}]\s*\]\s*""", re.DOTALL)
_MAYBE_HALF = re.compile(r"\\u[dD][89a-fA-F]")
# Optional column of any table: how often the training draws a row, compared with others.
WEIGHT = "row_weight"
# Not the recipe's seed: runs that differ in their seed are compared on the same test rows.
SPLIT_SEED = 42


@dataclass(frozen=True)
class Row:
    """One usable row: `where` is how a message names it ("line 12"), `cells` maps column to text.

    With `nested` (see `read_table`), and from `read_lists`, values stay as they are: lists, mappings, numbers.
    """

    where: str
    cells: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be used: `reason` is what rows are counted by, `detail` quotes the value."""

    where: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Table:
    """A table as read: `source` is how messages name it; every `Row` has a cell for each of `columns`."""

    source: str
    columns: list[str]
    rows: list[Row | BadRow]


def with_weight(row: "Row | BadRow", source: Row) -> "Row | BadRow":
    """Return a row with the weight of the row that it was made from, `source`, if that one has a weight."""
    if isinstance(row, BadRow) or WEIGHT not in source.cells:
        return row
    return replace(row, cells=row.cells | {WEIGHT: source.cells[WEIGHT]})


def weight_of(row: Row) -> float | BadRow:
    """Return the `row_weight` of a row, 1 where it is missing or empty."""
    value = row.cells.get(WEIGHT)
    if value is None or value == "":
        return 1.0
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if math.isfinite(weight) and weight >= 0:
        return weight
    return BadRow(row.where, f"unusable {WEIGHT}", f"{show(value)}; expected a number of at least 0, or nothing for 1")


def check_columns(source, found: list[str], columns: Iterable[str]) -> None:
    """Raise a `DataError` that lists the columns found when one of `columns` is missing."""
    for column in columns:
        if column not in found:
            raise DataError(f"{source}: no column {column!r}{suggestion(column, found, 'columns found')}")


def kind_of(name: str, suffixes: tuple[str, ...] = SUFFIXES) -> str | None:
    """Return the one of `suffixes` that a file name ends in, with or without `.gz`, or None."""
    plain = name.lower().removesuffix(".gz")
    kind = next((suffix for suffix in suffixes if plain.endswith(suffix)), None)
    return None if kind == ".parquet" and plain != name.lower() else kind


def read_table(path, columns: Iterable[str] = (), nested: bool = False) -> Table:
    """Read a table, in file order. Its ending determines the format, see the module's docstring.

    CSV and TSV have a header line; a cell may be quoted with `"`. Blank lines are skipped. A row of the wrong shape is a
    `BadRow`. Lines are numbered from 1 as an editor does; a row with quoted line breaks is named by its first.

    Args:
        path: a `pathlib.Path` or an `importlib.resources` file.
        columns: columns that must be there; others are kept too.
        nested: keep the values of JSON and parquet, with None for a missing key. By default, values become text, and null,
            NaN and missing keys become "". Cells of CSV and TSV are always text.

    Raises `DataError` when the file as a whole cannot be used.
    """
    names, rows = _read(path, columns, nested)
    check_columns(path, names, columns)
    if not rows:
        raise DataError(f"{path}: the file has a header but no rows")
    if kind_of(path.name) in _TABULAR:
        return Table(str(path), names, rows)
    for row in rows:
        if isinstance(row, Row) and not nested:
            row.cells.update({name: as_text(row.cells.get(name)) for name in names})
        elif isinstance(row, Row) and len(row.cells) < len(names):
            row.cells.update({name: row.cells.get(name) for name in names})
    return Table(str(path), names, rows)


def read_objects(path) -> list[Row | BadRow]:
    """Return the rows of a file as `read_table` with `nested`, but each row only with its own keys."""
    return _read(path, (), nested=True)[1]


def as_table(source: str, dataset, nested: bool = False) -> Table:
    """Return a `datasets.Dataset` as a `Table` called `source`; see `read_table` for `nested`."""
    names = dataset.column_names
    columns = dataset.with_format(None)[:]
    cells = zip(*(columns[name] if nested else map(as_text, columns[name]) for name in names), strict=True)
    rows = [Row(f"row {number}", dict(zip(names, row, strict=True))) for number, row in enumerate(cells, 1)]
    if not rows:
        raise DataError(f"{source}: the split has no rows")
    return Table(source, names, rows)


def as_text(value) -> str:
    """Return a value of a JSON object or a data set as the text of a cell; None and NaN, pandas' missing value, are empty."""
    if isinstance(value, str):
        return value
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def whole_number(cell) -> int | None:
    """Return the whole number in a cell, of up to nine digits, or None.

    `3.0` is one: pandas and `datasets` write whole numbers like that if another cell of the column is empty.
    """
    found = re.fullmatch(r"\s*(\d{1,9})(\.0+)?\s*", str(cell))
    return int(found[1]) if found else None


def _read(path, columns: Iterable[str], nested: bool) -> tuple[list[str], list[Row | BadRow]]:
    """Return the names of all columns, and the rows, each with its own keys only."""
    kind = kind_of(path.name)
    if kind is None:
        endings = f"{', '.join((*_TABULAR, *_JSON))} (also with .gz) or .parquet"
        raise DataError(f"{path}: unknown kind of file; expected a name that ends in {endings}")
    if kind == ".parquet":
        table = as_table(str(path), _parquet(path), nested=True)
        return table.columns, table.rows
    text = read_text(path)
    if not text.strip():
        expected = "one JSON object per line" if kind in _JSON else "a header"
        named = f" with the columns {', '.join(columns)}" if columns else ""
        raise DataError(f"{path}: the file is empty; expected {expected}{named}")
    if kind in _JSON:
        return _read_json(path, text)
    names, rows = _read_csv(path, text, _TABULAR[kind])
    return names, [_without_lists(row) for row in rows] if nested else rows


def _parquet(path):
    """Return a parquet file as a `Dataset`, in memory: `Dataset.from_parquet` would leave a copy in the cache."""
    import pyarrow.parquet
    from datasets import Dataset

    try:
        return Dataset(pyarrow.parquet.read_table(str(path)))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from error


def _read_json(path, text: str) -> tuple[list[str], list[Row | BadRow]]:
    """Read JSON Lines, or one list of objects."""
    rows = _list_rows(path, text) if text.lstrip().startswith("[") else None
    if rows is None:
        rows = [_json_row(number, line) for number, line in json_lines(text)]
    if all(isinstance(row, BadRow) for row in rows):
        raise DataError(f"{path}: no row is a JSON object; {rows[0].where}: {rows[0].detail}")
    return list(dict.fromkeys(key for row in rows if isinstance(row, Row) for key in row.cells)), rows


def _list_rows(path, text: str) -> list[Row | BadRow] | None:
    """Return the rows of one JSON list, or None if the text is JSON Lines that begin with a list."""
    try:
        entries = _loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        raise DataError(f"{path}, line {error.lineno}: not JSON: {error}; expected one list of objects") from error
    except (ValueError, RecursionError) as error:  # endless digits, endless brackets
        raise DataError(f"{path}: not JSON: {error}; expected one list of objects") from error
    if not entries:
        raise DataError(f"{path}: the list is empty")
    return [_object(f"row {number}", entry) for number, entry in enumerate(entries, 1)]


def _json_row(number: int, line: str) -> Row | BadRow:
    try:
        value = _loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(f"line {number}", "not JSON", f"{error}: {show(line)}")
    return _object(f"line {number}", value)


def _loads(text: str):
    """Return the value of a JSON text; halves of surrogate pairs are dropped from its texts, see `encodable`."""
    value = json.loads(text)
    return _encodable(value) if _MAYBE_HALF.search(text) else value


def _encodable(value):
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    return {encodable(key): _encodable(each) for key, each in value.items()} if isinstance(value, dict) else value


def _object(where: str, value) -> Row | BadRow:
    return Row(where, value) if isinstance(value, dict) else BadRow(where, "not a JSON object", show(value))


def _read_csv(path, text: str, separator: str) -> tuple[list[str], list[Row | BadRow]]:
    lines = list(io.StringIO(text, newline=""))
    start = next(number for number, line in enumerate(lines) if line.strip())
    first, cells = next(_records(lines, start, separator))
    if isinstance(cells, BadRow):
        raise DataError(f"{path}, line {first}: {cells.reason} in the header: {cells.detail}")
    header = _header(path, cells, separator)
    if separator == "," and set(_UNQUOTED) <= set(header) and "_comma_" in text:
        records = _unquoted(lines, start + 1, len(header))
    else:
        records = _records(lines, start, separator)
        next(records)
    rows = []
    for line, cells in records:
        if isinstance(cells, BadRow):
            rows.append(cells)
        elif len(cells) != len(header):
            detail = f"{len(cells)} cells, the header has {len(header)}: {show(separator.join(cells))}"
            rows.append(BadRow(f"line {line}", "wrong number of cells", detail))
        else:
            rows.append(Row(f"line {line}", dict(zip(header, cells, strict=True))))
    return header, rows


def _without_lists(row: Row | BadRow) -> Row | BadRow:
    """Return a row of CSV; a `BadRow` where a cell holds a list, which would be taken for what somebody said."""
    for name, cell in row.cells.items() if isinstance(row, Row) else ():
        if _LIST.fullmatch(cell):
            detail = f"{name} has {show(cell)}; cells of CSV are texts: save lists as JSON Lines or parquet"
            return BadRow(row.where, "list in a cell of text", detail)
    return row


def _records(lines: list[str], start: int, separator: str) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yield `(first line, cells)` for every record from `lines[start]` on, without blank lines.

    With `strict`, text after a closing quote and an open quote are errors. Otherwise, an open quote would silently merge all
    rows up to the next quote into one cell. Only the line with the error is read without `strict`, so that no other row is
    lost.
    """
    while start < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(start, len(lines))), delimiter=separator, strict=True)
        first = start
        try:
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    yield first + 1, cells
                first = start + reader.line_num
            return
        except csv.Error:
            yield first + 1, _lenient(lines[first], first + 1, separator)
            start = first + 1


def _lenient(line: str, number: int, separator: str) -> list[str] | BadRow:
    """Return the cells of one line, read without `strict`: a quote inside a cell is part of the text."""
    reader = csv.reader([line, ""], delimiter=separator)
    try:
        cells = next(reader)
    except csv.Error as error:  # Python's own limit of 131,072 characters a cell: no real text, but a lost quote
        return BadRow(f"line {number}", "cell too long", f"{error}: {show(line)}")
    if reader.line_num > 1:
        return BadRow(
            f"line {number}", "quote not closed", f"{show(line.rstrip())}; double a quote inside a quoted cell"
        )
    return cells


def _unquoted(lines: list[str], start: int, width: int) -> Iterator[tuple[int, list[str]]]:
    """Yield `(line, cells)` of a table without quoting. A row of EmpatheticDialogues may have one more cell, which is dropped."""
    for number, line in enumerate(lines[start:], start + 1):
        cells = line.rstrip("\r\n").split(",")
        if line.strip():
            yield number, cells[:width] if len(cells) == width + 1 else cells


def _header(path, cells: list[str], separator: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    others = [name for mark, name in _SEPARATORS.items() if len(header) == 1 and mark in header[0]]
    if others:
        advice = ", or a name that ends in .tsv" if others[0] == "tabs" else ""
        raise DataError(
            f"{path}: cells are separated by {others[0]}, as in the header {show(header[0])}; expected "
            f"{_SEPARATORS[separator]}{advice}"
        )
    # Spreadsheets leave nameless columns at the end, so only names count as duplicates.
    for column, count in Counter(header).items():
        if column and count > 1:
            raise DataError(f"{path}: {count} columns are called {show(column)}; names must differ")
    return header


def read_lists(folder, needed: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Return the lists of some files as a table, file name -> column; "row 1" has the first entry of each as it stands there.

    The cells of an optional file that is not there are None.

    Raises `DataError` when a needed file is missing, a file is no JSON list, or one list is longer than another.
    """
    columns = [*needed, *optional]
    files = {name: list_file(folder, name) for name in columns}
    missing = [name for name in needed if files[name] is None]
    if missing:
        raise DataError(f"data.path: {folder} has no {' and no '.join(missing)} (files found: {names_in(folder)})")
    lists = {name: read_list(file) for name, file in files.items() if file is not None}
    length = len(lists[needed[0]])
    for name, entries in lists.items():
        if len(entries) != length:
            raise DataError(
                f"{folder}: {name} has {len(entries)} entries, {needed[0]} has {length}; entries with the same index belong "
                "together, so all lists must have the same length"
            )
    cells = zip(*(lists.get(name, [None] * length) for name in columns), strict=True)
    rows = [Row(f"row {number}", dict(zip(columns, row, strict=True))) for number, row in enumerate(cells, 1)]
    return Table(str(folder), columns, rows)


def list_file(folder, name: str):
    """Return the file of a list in `folder`, gzipped or not; None where it is missing."""
    return next((file for end in ("", ".gz") if (file := folder.joinpath(name + end)).is_file()), None)


def names_in(folder) -> str:
    """Return the names of the first 20 entries of a folder, for a message."""
    return ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "none"


def read_list(path) -> list:
    """Read a UTF-8 JSON file that holds one list. Raises `DataError` for anything else, and for an empty list."""
    text = read_text(path)
    try:
        content = _loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; expected one JSON list") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: {show(text.strip())} is not a JSON list")
    if not content:
        raise DataError(f"{path}: the list is empty")
    return content


def split_rows(
    groups: Iterable[Hashable], seed: int = SPLIT_SEED, held_out: tuple[str, ...] = ("test", "valid")
) -> dict[str, list[int]]:
    """Return `{"train": …, "valid": …, "test": …}`: the numbers of the rows of each part, in ascending order.

    10 % of the rows are `test` (the 90/10 split), 10 % of the rest are `valid`, by which a checkpoint may be chosen;
    `train` keeps 81 %, or 90 % where only one part is `held_out`. Groups are shuffled and never divided; with large groups
    the shares are as near as they get. The result depends on `groups` and `seed` only (Python's own generator, whose
    sequence is stable).

    Args:
        groups: the group of each row, such as its conversation; `range(n)` splits by row.
        seed: of the shuffle.
        held_out: the parts to take from the rows, in this order; data that comes with a test part needs "valid" only.

    Raises `DataError` when a part would be empty.
    """
    groups = list(groups)
    sizes = Counter(groups)
    order = list(sizes)
    Random(seed).shuffle(order)
    part_of = {}
    for part in held_out:
        left = [group for group in order if group not in part_of]
        part_of |= dict.fromkeys(_tenth(left, sizes), part)
    parts = {"train": []} | {part: [] for part in reversed(held_out)}
    for number, group in enumerate(groups):
        parts[part_of.get(group, "train")].append(number)
    empty = [part for part, rows in parts.items() if not rows]
    if empty:
        rows = f"{len(groups)} rows in {len(sizes)} groups"
        raise DataError(f"{rows} are too few for a 90/10 split: no row is left for {' and '.join(empty)}")
    return parts


def split_table(
    table: Table, groups: Iterable[Hashable], by: str, split: str, held_out: tuple[str, ...] = ("test", "valid")
) -> tuple[Table, list[int]]:
    """Return the rows of one part of a table that comes without splits, and their places in it.

    Args:
        groups, held_out: see `split_rows`.
        by: what the groups are, for messages.

    Raises what `split_rows` raises, with the name of the table.
    """
    try:
        numbers = split_rows(groups, held_out=held_out)[split]
    except DataError as error:
        raise DataError(f"{table.source}: {error}") from error
    source = f"{table.source} ({split} of a 90/10 split by {by})"
    return Table(source, table.columns, [table.rows[number] for number in numbers]), numbers


def _tenth(groups: list, sizes: Counter) -> list:
    """Return those of `groups`, taken in order, that bring the number of rows nearer to a tenth of all."""
    target = sum(sizes[group] for group in groups)
    taken, rows = [], 0
    for group in groups:
        if abs(10 * (rows + sizes[group]) - target) < abs(10 * rows - target):
            taken.append(group)
            rows += sizes[group]
    return taken
