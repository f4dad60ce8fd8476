"""Tables and their rows, and one clear message for each way in which they can be wrong.

There are two kinds of trouble. A file that cannot be trusted as a whole (missing, not UTF-8, broken quoting,
no such column) always stops with a `DataError`. A single bad row (too many cells, unknown label, no text)
becomes a `BadRow`; the recipe's `on_bad_rows` then says whether bad rows stop the run or are dropped and
counted. How files are read is in `readers.py`.

Which column of a table holds the text?

What is said in a dialogue: read from a row's cells as JSON has them, and written as chat messages.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from empathy_trl.errors import DataError
from empathy_trl.text import clean

logger = logging.getLogger(__name__)

_SHOWN_ROWS = 5


@dataclass(frozen=True)
class Row:
    """One usable row: `where` is how a message names it ("line 12"), `cells` maps column to text.

    Where a reader keeps what stands in JSON (`readers.read_objects`, `sources.py`), a cell is whatever stood there.
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


@dataclass(frozen=True)
class Report:
    """What became of a split: `used` of `read` rows remain, `shortened` of these lost their beginning.

    `skipped` rows are good ones that belong to another task; `dropped` counts bad rows by reason; `notes` are other
    things that a builder counts, by name.
    """

    source: str
    read: int
    dropped: dict[str, int]
    used: int
    shortened: int
    skipped: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = f" ({_counts(self.dropped)})" if self.dropped else ""
        dropped = f"{sum(self.dropped.values())} dropped{reasons}"
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        used = f"{self.read} read, {dropped}{skipped}, {self.used} used, {self.shortened} shortened"
        return f"{self.source}: {used}" + (f"; {_counts(self.notes)}" if self.notes else "")


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


def shown(value) -> str:
    """Return any value as a message shows it, cut after 60 characters."""
    return quote(value) if isinstance(value, str) else repr(value)[:60]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


CANDIDATES = ("text", "utterance", "response", "essay", "message", "sentence", "reply", "comment", "post")


def text_column(
    source: str, found: list[str], wanted: str | None = None, candidates: Iterable[str] = CANDIDATES
) -> str:
    """Return the wanted column, or else the only one of `found` that is called like a candidate, in any case.

    Raises `DataError` when the wanted one is not there, when no candidate is, or when several are: which of them is
    meant is not guessed.
    """
    if wanted is not None:
        check_columns(source, found, [wanted])
        return wanted
    there = [column for column in found if column.lower() in candidates]
    if len(there) == 1:
        return there[0]
    columns = ", ".join(quote(column) for column in found)
    if there:
        several = ", ".join(quote(column) for column in there)
        raise DataError(f"{source}: {len(there)} columns may hold the text: {several}; name one with data.text_column")
    raise DataError(
        f"{source}: no column is called {', '.join(candidates)}; name the one that holds the text with "
        f"data.text_column (columns found: {columns})"
    )


def turns_of(row: Row, column: str) -> list[str] | BadRow:
    """Return the clean turns of a context: a list of texts, or one text. Turns of which nothing is left are left out."""
    value = row.cells[column]
    turns = [value] if isinstance(value, str) else value
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        return BadRow(
            row.where, "context is no text", f"{column} has {shown(value)}; expected a list of texts, or a text"
        )
    cleaned = [turn for turn in map(clean, turns) if turn]
    return cleaned or BadRow(
        row.where, "empty context", f"nothing is left of {shown(value)} in {column} after cleaning"
    )


def text_of(row: Row, column: str, name: str) -> str | BadRow:
    """Return a clean text that has to be there; `name` is what messages call it."""
    value = row.cells[column]
    if not isinstance(value, str):
        return BadRow(row.where, f"{name} is no text", f"{column} has {shown(value)}; expected a text")
    detail = f"nothing is left of {shown(value)} in {column} after cleaning"
    return clean(value) or BadRow(row.where, f"empty {name}", detail)


def optional_text(row: Row, column: str) -> str | BadRow:
    """Return a clean text that may be missing, then ""."""
    value = row.cells.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        return BadRow(row.where, "no text", f"{column} has {shown(value)}; expected a text, or an empty one for none")
    return clean(value)


def as_messages(turns: list[str]) -> list[dict[str, str]]:
    """Return the turns of two people who take turns, the oldest first, as chat messages.

    The last turn is the user's, the one before it the assistant's, and so on back to the first.
    """
    roles = [("user", "assistant")[place % 2] for place in range(len(turns))][::-1]
    return [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
