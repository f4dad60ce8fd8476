"""Strict reading of table files: CSV, TSV and JSON Lines (also gzipped).

What is wrong with a file as a whole is a `DataError`; what is wrong with one row of it becomes a `BadRow`.
"""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable

from empathy_trl.data.rows import BadRow, Row, Table, check_columns, quote
from empathy_trl.errors import DataError

JSON_LINES = (".jsonl", ".jsonl.gz")
SUFFIXES = (".csv", ".tsv", *JSON_LINES)
BYTE_ORDER_MARK = "\ufeff"


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


def read_list(path) -> list:
    """Read a UTF-8 JSON file that holds one list. Raises `DataError` for anything else, and for an empty list."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; expected one JSON list") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: {quote(text.strip())} is not a JSON list")
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
    """Say whether the name of `path` ends as that of a table does."""
    return path.name.lower().endswith(SUFFIXES)


def _read_csv(path, text: str, columns: Iterable[str], separator: str) -> Table:
    rows, header = [], None
    for line, cells in _records(path, text, separator):
        if header is None:
            header = _header(path, cells)
        elif len(cells) != len(header):
            detail = f"{len(cells)} cells, the header has {len(header)}: {quote(separator.join(cells))}"
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
        raise DataError(f"{path}: the file is empty; expected one JSON object a line{_with(columns)}")
    read = {number: _json_object(number, line) for number, line in lines.items()}
    if all(isinstance(row, BadRow) for row in read.values()):
        first = next(iter(read.values()))
        raise DataError(f"{path}: no line is a JSON object; {first.where}: {first.detail}")
    return read


def _json_object(number: int, line: str) -> dict | BadRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(f"line {number}", "not JSON", f"{error}: {quote(line)}")
    if not isinstance(value, dict):
        return BadRow(f"line {number}", "not a JSON object", quote(line))
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
            raise DataError(f"{path}: {count} columns are called {quote(column)}; names must differ")
    return header
