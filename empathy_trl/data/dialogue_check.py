"""Files of dialogues that react, respond and reflect: what is wrong in them, and a repair of what is only spelling.

Rows are read by the functions that the builder `empath` reads them by. A repair is `turn_faults.fixed`: case and white space
around tags, nothing else.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from empathy_trl.data.empath_turns import fixed, read_dialogue, turn_parts
from empathy_trl.data.readers import BYTE_ORDER_MARK, JSON_LINES, json_objects, read_marked_text
from empathy_trl.data.rows import BadRow, Row, quote
from empathy_trl.data.sources import names_in
from empathy_trl.errors import UserError
from empathy_trl.io import write_atomically

_COUNTS = ("dialogues", "turns", "well-formed")
_SHOWN_FAULTS = 5
_CONTEXT = 20  # characters before a change


@dataclass
class Checked:
    """What was found in a file.

    Attributes:
        name: of the file.
        dialogues: rows, good and bad.
        turns: of assistants, in the dialogues that could be read; `well_formed` of them are.
        faults: malformed dialogues and turns, `where` being line and turn.
        changes: one line for every turn that was repaired.
        text: of the whole file, with the repairs; other rows are as they were.
    """

    name: str
    text: str
    dialogues: int = 0
    turns: int = 0
    well_formed: int = 0
    faults: list[BadRow] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


def dialogue_files(path: Path) -> list[Path]:
    """Return a file of dialogues, or those of a folder by name. Raises UserError where there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"--input: no file or folder {quote(str(path))}")
    found = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.name.lower().endswith(JSON_LINES))
    if not found:
        expected = " or ".join(f"*{suffix}" for suffix in JSON_LINES)
        raise UserError(f"--input: {path} has no {expected} (files found: {names_in(path)})")
    return found


def check_file(path: Path, fix: bool = False) -> Checked:
    """Return what is wrong in a file of dialogues; with `fix`, what is left when it is repaired.

    Raises `DataError` when the file cannot be read, or no line of it is a JSON object.
    """
    whole = read_marked_text(path)
    text = whole.removeprefix(BYTE_ORDER_MARK)
    lines, checked = text.split("\n"), Checked(path.name, whole)
    for number, row in json_objects(path, text, ["messages"]).items():
        checked.dialogues += 1
        if isinstance(row, BadRow):
            checked.faults.append(row)
        elif _check_dialogue(row, f"line {number}", checked, fix):
            lines[number - 1] = _as_line(row, lines[number - 1])
    checked.text = whole.removesuffix(text) + "\n".join(lines)
    return checked


def report(checked: Iterable[Checked]) -> str:
    """Return a table of the counts of all files, and the first faults of each kind with file, line, turn and detail."""
    checked = list(checked)
    found = [(fault.reason, f"{each.name}, {fault.where}: {fault.detail}") for each in checked for fault in each.faults]
    kinds = Counter(reason for reason, _ in found)
    lines = _table(checked, kinds)
    for kind, count in kinds.items():
        where = [place for reason, place in found if reason == kind]
        lines += ["", f"{kind} ({count}):", *(f"  {place}" for place in where[:_SHOWN_FAULTS])]
        lines += [f"  and {count - _SHOWN_FAULTS} more"] if count > _SHOWN_FAULTS else []
    return "\n".join(lines)


def write_dialogues(path: Path, text: str) -> Path:
    """Write the text of a file of dialogues atomically, gzipped if its name says so."""
    data = text.encode()
    if path.name.lower().endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    return write_atomically(path, lambda temporary: temporary.write_bytes(data))


def _check_dialogue(row: dict, line: str, checked: Checked, fix: bool) -> bool:
    """Add what a row holds to `checked`, and with `fix` repair its turns in place; returns whether any was."""
    dialogue = read_dialogue(Row(line, row))
    if isinstance(dialogue, BadRow):
        checked.faults.append(dialogue)
        return False
    changes = len(checked.changes)
    for number, reply in enumerate(dialogue.replies):
        where = f"{line}, turn {number + 1}"
        repaired = fixed(reply) if fix else None
        if repaired not in (None, reply):
            row["messages"][dialogue.place_of(number)]["content"] = repaired
            checked.changes.append(f"{checked.name}, {where}: {_difference(reply, repaired)}")
            reply = repaired
        parts = turn_parts(where, reply)
        checked.turns += 1
        if isinstance(parts, BadRow):
            checked.faults.append(parts)
        else:
            checked.well_formed += 1
    return len(checked.changes) > changes


def _difference(before: str, after: str) -> str:
    """Return both texts from shortly before their first difference, cut and escaped."""
    same = next((place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    start = max(0, (min(len(before), len(after)) if same is None else same) - _CONTEXT)
    return " → ".join(quote("…" * (start > 0) + text[start:]) for text in (before, after))


def _as_line(row: dict, line: str) -> str:
    """Return a row as a line of JSON, with ASCII only if the line that it replaces has nothing else."""
    end = line[len(line.rstrip()) :]  # a carriage return
    text = json.dumps(row, ensure_ascii=line.isascii())
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which only an escape can stand for
        text = json.dumps(row)
    return text + end


def _table(checked: list[Checked], kinds: Iterable[str]) -> list[str]:
    """Return the lines of a table: a row for every count, a column for every file."""
    rows = [["", *(each.name for each in checked)]]
    rows += [[name, *(getattr(each, name.replace("-", "_")) for each in checked)] for name in _COUNTS]
    rows += [[kind, *(sum(fault.reason == kind for fault in each.faults) for each in checked)] for kind in kinds]
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [name.ljust(widths[0]), *(str(cell).rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
        )
        for name, *cells in rows
    ]
