"""What is said in a dialogue: read from a row's cells as JSON has them, and written as chat messages."""

from empathy_trl.data.tables import BadRow, Row, shown
from empathy_trl.data.text import clean


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
