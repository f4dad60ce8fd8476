"""Strict reading of tables, and one clear message for each way in which they can be wrong.

There are two kinds of trouble. A file that cannot be trusted as a whole (missing, not UTF-8, broken quoting,
no such column) always stops with a `DataError`. A single bad row (too many cells, unknown label, no text)
becomes a `BadRow`; the recipe's `on_bad_rows` then says whether bad rows stop the run or are dropped and
counted.
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from empathy_trl.errors import DataError

logger = logging.getLogger(__name__)

_SHOWN_ROWS = 5


@dataclass(frozen=True)
class Row:
    """One usable row: `where` is how a message names it ("line 12"), `cells` maps column to text."""

    where: str
    cells: dict[str, str]


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be used: `reason` is what rows are counted by, `detail` quotes the value."""

    where: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Report:
    """What became of a split: `used` of `read` rows remain, `shortened` of these lost their beginning."""

    source: str
    read: int
    dropped: dict[str, int]
    used: int
    shortened: int

    def __str__(self) -> str:
        reasons = f" ({_counts(self.dropped)})" if self.dropped else ""
        dropped = f"{sum(self.dropped.values())} dropped{reasons}"
        return f"{self.source}: {self.read} read, {dropped}, {self.used} used, {self.shortened} shortened"


def read_csv(path, columns: Iterable[str]) -> list[Row | BadRow]:
    """Read a comma-separated UTF-8 file with a header line; other columns than `columns` are ignored.

    Args:
        path: a `pathlib.Path` or an `importlib.resources` file.
        columns: the columns that must be there.

    Returns the rows in file order; one with a wrong number of cells is a `BadRow`. Blank lines are skipped.
    Lines are numbered from 1 as an editor does; a row with quoted line breaks is named by its first line.
    Raises `DataError` when the file as a whole cannot be used.
    """
    rows, header = [], None
    for line, cells in _records(path, _decode(path)):
        if header is None:
            header = _check_header(path, cells, columns)
        elif len(cells) != len(header):
            detail = f"{len(cells)} cells, the header has {len(header)}: {quote(','.join(cells))}"
            rows.append(BadRow(f"line {line}", "wrong number of cells", detail))
        else:
            rows.append(Row(f"line {line}", dict(zip(header, cells, strict=True))))
    if header is None:
        raise DataError(f"{path}: the file is empty; expected a header with the columns {', '.join(columns)}")
    if not rows:
        raise DataError(f"{path}: the file has a header but no rows")
    return rows


def settle_bad_rows(source: str, bad: list[BadRow], read: int, on_bad_rows: str) -> dict[str, int]:
    """Raise one `DataError` about all bad rows ("error"), or log one warning and return the counts ("drop").

    Args:
        source: the file or Hub id that messages name.
        bad: the bad rows, in the order of the source.
        read: how many rows the source has, good and bad. When none is good this is an error in any case.
        on_bad_rows: "error" or "drop".
    """
    counts = dict(Counter(row.reason for row in bad))
    if not bad:
        return counts
    summary = f"{source}: {len(bad)} of {read} rows cannot be used ({_counts(counts)})"
    if on_bad_rows == "drop" and len(bad) < read:
        logger.warning("%s; dropped", summary)
        return counts
    shown = [f"  {row.where}: {row.reason}: {row.detail}" for row in bad[:_SHOWN_ROWS]]
    if len(bad) > _SHOWN_ROWS:
        shown.append(f"  and {len(bad) - _SHOWN_ROWS} more")
    dropping = on_bad_rows == "drop"
    advice = "no row is left" if dropping else "fix them, or leave them out with data.on_bad_rows: drop"
    raise DataError("\n".join([summary, *shown, advice]))


def check_columns(source, found: list[str], columns: Iterable[str]) -> None:
    """Raise a `DataError` that lists the columns found when one of `columns` is missing."""
    for column in columns:
        if column not in found:
            hint = did_you_mean(column, found, "columns found")
            if len(found) == 1 and any(separator in found[0] for separator in ";\t|"):
                hint += "; cells must be separated by commas"
            raise DataError(f"{source}: no column {column!r}{hint}")


def did_you_mean(value: str, choices: Iterable[str], title: str = "choices") -> str:
    """Return the end of an error message: the nearest of `choices`, if one is near, and all of them."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(value.lower(), by_lower, n=1)
    suggestion = f"; did you mean {quote(by_lower[near[0]])}?" if near else ""
    return f"{suggestion} ({title}: {', '.join(quote(choice) for choice in choices)})"


def quote(value: str) -> str:
    """Return `value` in quotes for a message, with invisible characters escaped, cut after 60 characters."""
    return repr(value if len(value) <= 60 else value[:60] + "…")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def _decode(path) -> str:
    """Read a whole file as UTF-8 text. A byte order mark at its start is dropped."""
    try:
        data = path.read_bytes()
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
    return text.removeprefix("\ufeff")


def _line_at(data: bytes, offset: int) -> int:
    return len((data[:offset] + b"x").splitlines())


def _records(path, text: str):
    """Yield `(first line, cells)` for every record of a CSV text, blank lines left out."""
    # strict: text after a closing quote and a quote that is never closed are errors. The default would
    # silently swallow all rows up to the next quote into one cell.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
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


def _check_header(path, cells: list[str], columns: Iterable[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    # Spreadsheets leave nameless columns at the end, so only names count as duplicates.
    for column, count in Counter(header).items():
        if column and count > 1:
            raise DataError(f"{path}: {count} columns are called {quote(column)}; names must differ")
    check_columns(path, header, columns)
    return header
