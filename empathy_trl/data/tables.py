"""Tables: finding the file of a split, reading it strictly (CSV, TSV, JSON Lines, JSON lists; also gzipped), splitting it.

A file that cannot be used as a whole (missing, not UTF-8, broken quoting, a missing column) raises `DataError`. A
single bad row (too many cells, not JSON) becomes a `BadRow`, which names the defect and the position.

`split_rows` and `split_table` split data without splits 90/10, by row or by conversation. Turns of the same
conversation quote and answer each other. A split by row puts some of them on both sides, so a test score also measures
memorisation; a split by conversation avoids this. Published figures often come from a split by row, so both are
available.
"""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from empathy_trl.errors import DataError, show, suggestion

JSON_LINES = (".jsonl", ".jsonl.gz")
SUFFIXES = (".csv", ".tsv", *JSON_LINES)
BYTE_ORDER_MARK = "\ufeff"
# Split -> how the names of its files begin.
STEMS = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}
# Split -> what its folder may be called.
FOLDERS = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}
# Not the recipe's seed: runs that differ in their seed are compared on the same test rows.
SPLIT_SEED = 42


@dataclass(frozen=True)
class Row:
    """One usable row: `where` is how a message names it ("line 12"), `cells` maps column to text.

    A reader of JSON (`read_objects`, `read_lists`) keeps the values as they are: lists, mappings, numbers.
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


def local_path(path: str, sample: str | None, expected: str):
    """Return the folder or file that `data.path` names.

    Args:
        path: "sample", or a folder or file.
        sample: the folder below `empathy_trl/data` that "sample" means; None where nothing is embedded.
        expected: for the error about a path that does not exist, what else `data.path` may be.
    """
    is_sample = path == "sample" and sample is not None
    found = files("empathy_trl.data").joinpath(sample) if is_sample else Path(path).expanduser()
    if not found.is_dir() and not found.is_file():
        embedded = "'sample' (the embedded corpus), " if sample is not None else ""
        raise DataError(f"data.path: no folder {show(path)} here; expected {embedded}{expected}")
    return found


def split_file(folder, split: str, suffixes: tuple[str, ...], advice: str = ""):
    """Return the one file of a split in `folder`: one of `STEMS` with one of `suffixes`; `advice` ends the error."""
    names = [stem + suffix for stem in STEMS[split] for suffix in suffixes]
    found = split_files(folder, split, suffixes)
    if len(found) > 1:
        raise DataError(f"data.path: {folder} has several files for the split {split}: {', '.join(found)}; keep one")
    if not found:
        raise DataError(f"data.path: {folder} has no {' or '.join(names)} (files found: {names_in(folder)}){advice}")
    return folder.joinpath(found[0])


def split_files(folder, split: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the names of the files in `folder` that may be those of a split."""
    names = [stem + suffix for stem in STEMS[split] for suffix in suffixes]
    return [name for name in names if folder.joinpath(name).is_file()]


def split_folder(folder, split: str):
    """Return the one sub-folder of a split, by one of the names of `FOLDERS`."""
    found = [name for name in FOLDERS[split] if folder.joinpath(name).is_dir()]
    if len(found) > 1:
        raise DataError(f"data.path: {folder} has several folders for the split {split}: {', '.join(found)}; keep one")
    if not found:
        raise DataError(
            f"data.path: {folder} has no folder {' or '.join(FOLDERS[split])} (files found: {names_in(folder)})"
        )
    return folder.joinpath(found[0])


def tables_in(folder) -> list:
    """Return the table files of a folder, by name."""
    return sorted((entry for entry in folder.iterdir() if entry.is_file() and is_table(entry)), key=lambda e: e.name)


def names_in(folder) -> str:
    """Return the names of the first 20 entries of a folder, for a message."""
    return ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "none"


def check_columns(source, found: list[str], columns: Iterable[str]) -> None:
    """Raise a `DataError` that lists the columns found when one of `columns` is missing."""
    for column in columns:
        if column not in found:
            hint = suggestion(column, found, "columns found")
            if len(found) == 1 and any(separator in found[0] for separator in ";\t|"):
                hint += "; cells must be separated by commas"
            raise DataError(f"{source}: no column {column!r}{hint}")


def read_table(path, columns: Iterable[str] = ()) -> Table:
    """Read a UTF-8 table, in file order. Its format follows from its name, which ends in one of `SUFFIXES`.

    CSV and TSV have a header line and are quoted with `"`; JSON Lines has one object a line, whose top-level
    values become text (null and missing keys: empty). Blank lines are skipped. A row of the wrong shape is a
    `BadRow`. Lines are numbered from 1 as an editor does; a row with quoted line breaks is named by its first.

    Args:
        path: a `pathlib.Path` or an `importlib.resources` file.
        columns: columns that must be there; others are kept too.

    Raises `DataError` when the file as a whole cannot be used.
    """
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise DataError(f"{path}: unknown kind of file; expected a name that ends in {', '.join(SUFFIXES)}")
    text = read_text(path)
    if suffix in JSON_LINES:
        table = _read_jsonl(path, text, columns, as_text)
    else:
        table = _read_csv(path, text, columns, "\t" if suffix == ".tsv" else ",")
    check_columns(path, table.columns, columns)
    if not table.rows:
        raise DataError(f"{path}: the file has a header but no rows")
    return table


def read_objects(path, columns: Iterable[str] = ()) -> Table:
    """Read JSON Lines as `read_table` does, but keep the values as they are: lists, mappings, numbers; missing keys: None.

    Raises `DataError` when the file as a whole cannot be used.
    """
    table = _read_jsonl(path, read_text(path), columns, lambda value: value)
    check_columns(path, table.columns, columns)
    return table


def read_lists(folder, needed: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Return the lists of some files as a table, file name -> column; "row 1" has the first entry of each as it stands there.

    The cells of an optional file that is not there are None.

    Raises `DataError` when a needed file is missing, a file is no JSON list, or one list is longer than another.
    """
    missing = [name for name in needed if not folder.joinpath(name).is_file()]
    if missing:
        raise DataError(f"data.path: {folder} has no {' and no '.join(missing)} (files found: {names_in(folder)})")
    columns = [*needed, *optional]
    lists = {name: read_list(folder.joinpath(name)) for name in columns if folder.joinpath(name).is_file()}
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


def read_list(path) -> list:
    """Read a UTF-8 JSON file that holds one list. Raises `DataError` for anything else, and for an empty list."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; expected one JSON list") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: {show(text.strip())} is not a JSON list")
    if not content:
        raise DataError(f"{path}: the list is empty")
    return content


def read_text(path) -> str:
    """Read a whole file, gzipped or not, as UTF-8 text; a byte order mark at its start is dropped.

    Raises `DataError` when it cannot be read, is not UTF-8, or holds NUL bytes.
    """
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = _line_at(data, error.start)
        byte = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise DataError(f"{path}, line {line}: {byte} is not UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        # A text file has none: this is a binary file, or UTF-16 without its mark, or a damaged disk block.
        offset = data.index(b"\0")
        line = _line_at(data, offset)
        raise DataError(f"{path}, line {line}: NUL byte at offset {offset}; save the file as UTF-8")
    return text.removeprefix(BYTE_ORDER_MARK)


def as_text(value) -> str:
    """Return a value of a JSON object or a Hub row as the text of a cell; None is empty."""
    return "" if value is None else str(value)


def is_table(path) -> bool:
    """Return whether the name of `path` ends as the name of a table does."""
    return path.name.lower().endswith(SUFFIXES)


def _read_csv(path, text: str, columns: Iterable[str], separator: str) -> Table:
    rows, header = [], None
    for line, cells in _records(path, text, separator):
        if header is None:
            header = _header(path, cells)
        elif len(cells) != len(header):
            detail = f"{len(cells)} cells, the header has {len(header)}: {show(separator.join(cells))}"
            rows.append(BadRow(f"line {line}", "wrong number of cells", detail))
        else:
            rows.append(Row(f"line {line}", dict(zip(header, cells, strict=True))))
    if header is None:
        raise DataError(f"{path}: the file is empty; expected a header{_with(columns)}")
    return Table(str(path), header, rows)


def _read_jsonl(path, text: str, columns: Iterable[str], cell: Callable) -> Table:
    """Read JSON Lines; `cell` makes the value of a cell from one in the file, or from None where a row lacks the key."""
    read = _json_objects(path, text, columns)
    objects = [row for row in read.values() if isinstance(row, dict)]
    keys = list(dict.fromkeys(key for row in objects for key in row))
    rows = [
        Row(f"line {number}", {key: cell(row.get(key)) for key in keys}) if isinstance(row, dict) else row
        for number, row in read.items()
    ]
    return Table(str(path), keys, rows)


def _json_objects(path, text: str, columns: Iterable[str] = ()) -> dict[int, dict | BadRow]:
    """Return number -> object for the lines of the text of a JSON Lines file, blank ones left out.

    Args:
        path: for messages.
        text: as `read_text` returns it.
        columns: for messages, what an object should have.

    Raises `DataError` when no line is an object.
    """
    # Not splitlines: a JSON string may hold U+2028 and its like as they are.
    lines = {number: line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not lines:
        raise DataError(f"{path}: the file is empty; expected one JSON object per line{_with(columns)}")
    read = {number: _json_object(number, line) for number, line in lines.items()}
    if all(isinstance(row, BadRow) for row in read.values()):
        first = next(iter(read.values()))
        raise DataError(f"{path}: no line is a JSON object; {first.where}: {first.detail}")
    return read


def _json_object(number: int, line: str) -> dict | BadRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(f"line {number}", "not JSON", f"{error}: {show(line)}")
    if not isinstance(value, dict):
        return BadRow(f"line {number}", "not a JSON object", show(line))
    return value


def _with(columns: Iterable[str]) -> str:
    return f" with the columns {', '.join(columns)}" if columns else ""


def _line_at(data: bytes, offset: int) -> int:
    return len((data[:offset] + b"x").splitlines())


def _records(path, text: str, separator: str):
    """Yield `(first line, cells)` for every record of a CSV text, blank lines left out."""
    # strict: text after a closing quote and a quote that is never closed are errors. The default would
    # silently swallow all rows up to the next quote into one cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        # Python's own limit of 131,072 characters a cell ends here too. It is no real text, but a lost quote.
        advice = "is a quote missing, or not doubled inside a quoted cell?"
        raise DataError(f"{path}, record that starts on line {line}: {error}; {advice}") from error


def _header(path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    # Spreadsheets leave nameless columns at the end, so only names count as duplicates.
    for column, count in Counter(header).items():
        if column and count > 1:
            raise DataError(f"{path}: {count} columns are called {show(column)}; names must differ")
    return header


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
