"""Which column of a table holds the text?"""

from collections.abc import Iterable

from empathy_trl.data.tables import check_columns, quote
from empathy_trl.errors import DataError

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
