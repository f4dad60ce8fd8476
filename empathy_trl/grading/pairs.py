"""Contexts and responses to be scored: three layouts, one schema.

| source | a row is |
|---|---|
| JSON Lines, also gzipped | `{"context", "response"}` |
| a folder with `contexts.json` and `responses.json` | the entries of one place of the two lists |
| `predictions_<split>.jsonl` of an evaluation of replies | `{"text", "reply"}` and more, which is ignored |

A context is a text, a list of texts, or a list of chat messages `{"role", "content"}`. Texts are turns that two people
take: the last is by the one who is replied to, the one before it by the other, and so on. A response is a text, which
may be empty.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empathy_trl.data.dialogues import as_messages
from empathy_trl.data.tables import JSON_LINES, BadRow, Table, read_lists, read_objects
from empathy_trl.errors import DataError, UserError, show

COLUMNS = (("context", "response"), ("text", "reply"))
LISTS = ("contexts.json", "responses.json")


@dataclass(frozen=True)
class Pair:
    """A context, as it stands in its file, and a response to it."""

    context: Any
    response: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The context as chat messages."""
        turns = [self.context] if isinstance(self.context, str) else self.context
        if isinstance(turns[0], dict):
            return turns
        return as_messages(turns)


def read_pairs(path: Path) -> list[Pair]:
    """Read the rows of a source, at least one, in its order.

    Raises:
        UserError: there is no such file or folder, or it is none of the three layouts.
        DataError: a file cannot be read, one list is longer than the other, or a row is none; names file and line or row.
    """
    table, names = _parallel_lists(path) if path.is_dir() else _json_lines(path)
    pairs = []
    for row in table.rows:
        if isinstance(row, BadRow):
            raise DataError(f"{path}, {row.where}: {row.reason}: {row.detail}")
        pairs.append(_pair(f"{path}, {row.where}", names, [row.cells[name] for name in names]))
    return pairs


def _json_lines(path: Path) -> tuple[Table, tuple[str, str]]:
    """Return the rows of a file, and what context and response are called in it."""
    if not path.is_file():
        raise UserError(f"--input: {path}: no such file or folder")
    if not path.name.lower().endswith(JSON_LINES):
        raise UserError(
            f"--input: {path}: expected a name that ends in {' or '.join(JSON_LINES)}, or a folder with {' and '.join(LISTS)}"
        )
    table = read_objects(path)
    names = next((names for names in COLUMNS if set(names) <= set(table.columns)), None)
    if names is None:
        choices = " or ".join(f"{context} and {response}" for context, response in COLUMNS)
        raise DataError(f"{path}: expected rows with {choices}; found {', '.join(table.columns) or 'no keys'}")
    return table, names


def _parallel_lists(folder: Path) -> tuple[Table, tuple[str, str]]:
    """Return the entries of the two lists of a folder side by side, and the names of the lists."""
    for name in LISTS:
        if not (folder / name).is_file():
            raise UserError(f"--input: {folder} has no {name}; expected {' and '.join(LISTS)}")
    return read_lists(folder, LISTS), LISTS


def _pair(where: str, names: tuple[str, str], values) -> Pair:
    """Return a row; DataError, with its place and the name of the culprit, if it is none."""
    context, response = values
    if not isinstance(response, str):
        raise DataError(f"{where}: {names[1]} is {_given(response)}; expected a text, an empty one for no response")
    turns = [context] if isinstance(context, str) else context
    if not isinstance(turns, list) or not (_all_texts(turns) or _all_messages(turns)):
        raise DataError(
            f"{where}: {names[0]} is {_given(context)}; expected a text, a list of texts, or a list of messages with role "
            "and content"
        )
    if not any((turn if isinstance(turn, str) else turn["content"]).strip() for turn in turns):
        raise DataError(f"{where}: {names[0]} is empty; a response can only be graded as an answer to something")
    return Pair(context, response)


def _all_texts(turns: list) -> bool:
    return all(isinstance(turn, str) for turn in turns)


def _all_messages(turns: list) -> bool:
    return all(isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
               for turn in turns)  # fmt: skip


def _given(value) -> str:
    return "missing" if value is None else show(value)
