"""Parallel lists: a folder of JSON files, each one list, in which the entries of one place belong together.

The layout of the dialogue and reward data of RLHF-GODEL: `contexts.json`, `targets.json` and so on.
"""

from collections.abc import Sequence

from empathy_trl.data.formats import read_list
from empathy_trl.data.sources import names_in
from empathy_trl.data.tables import BadRow, Row, Table, quote
from empathy_trl.data.text import clean
from empathy_trl.errors import DataError


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
                f"{folder}: {name} has {len(entries)} entries, {needed[0]} has {length}; the entries of one place belong "
                "together, so all lists have to be equally long"
            )
    cells = zip(*(lists.get(name, [None] * length) for name in columns), strict=True)
    rows = [Row(f"row {number}", dict(zip(columns, row, strict=True))) for number, row in enumerate(cells, 1)]
    return Table(str(folder), columns, rows)


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


def shown(value) -> str:
    """Return any value as a message shows it, cut after 60 characters."""
    return quote(value) if isinstance(value, str) else repr(value)[:60]
