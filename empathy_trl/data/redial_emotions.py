"""Emotions of seekers from a table of their own, joined to the dialogues of ReDial.

A row says which emotion one message shows: `conversation_id`, `turn` (the number of the message among the `messages` of its
dialogue, from 0, empty ones included) and `emotion` (any words). One table may serve all splits.
"""

from pathlib import Path

from empathy_trl.data.formats import SUFFIXES, read_table
from empathy_trl.data.tables import BadRow, Row, quote, settle_bad_rows
from empathy_trl.data.text import clean
from empathy_trl.errors import DataError

_COLUMNS = ("conversation_id", "turn", "emotion")
_DIGITS = 9  # no dialogue has more messages, and Python refuses to read endless numbers


def join_emotions(config, dialogues: list[dict], source: str) -> tuple[dict[str, dict[int, str]], dict[str, int]]:
    """Return `(emotions, notes)`: conversation id -> number of a seeker's message -> emotion, and what else was found.

    Args:
        config: a recipe's `data`; read are `emotions` (the table's path, or None) and `on_bad_rows`.
        dialogues: as `redial_dialogues` gives them.
        source: where they are from, for messages.

    The notes count rows about dialogues that are not among these, rows about the recommender, and bad rows that were
    dropped.

    Raises `DataError` when the table cannot be used, when two dialogues have one id, when a row is bad (no emotion, no such
    message, a second row for one message) and `on_bad_rows` is "error", or when no row is about any of the dialogues.
    """
    if config.emotions is None:
        return {}, {}
    path = Path(config.emotions).expanduser()
    if not path.is_file():
        raise DataError(f"data.emotions: no file {config.emotions!r}; expected a table ({', '.join(SUFFIXES)})")
    table = read_table(path, _COLUMNS)
    roles = {dialogue["conversation"]: [role for role, _ in dialogue["messages"]] for dialogue in dialogues}
    first = {}
    for dialogue in dialogues:
        conversation, where = dialogue["conversation"], dialogue["where"]
        if (other := first.setdefault(conversation, where)) != where:
            raise DataError(
                f"{source}, {where}: conversation {conversation} is also in {other}, so data.emotions cannot tell which of "
                "them is meant; expected an id of its own for each dialogue"
            )
    seen, emotions, bad = {}, {}, []
    notes = {"emotions of other dialogues": 0, "emotions of the recommender": 0}
    for row in table.rows:
        parsed = row if isinstance(row, BadRow) else _parse(row, roles, seen)
        if isinstance(parsed, BadRow):
            bad.append(parsed)
        elif parsed is None:
            notes["emotions of other dialogues"] += 1
        else:
            conversation, number, emotion = parsed
            if roles[conversation][number] == "seeker":
                emotions.setdefault(conversation, {})[number] = emotion
            else:
                notes["emotions of the recommender"] += 1
    notes |= settle_bad_rows(table.source, bad, len(table.rows), config.on_bad_rows)
    if not emotions:
        raise DataError(f"data.emotions: no row of {path} is about a seeker's message in {source}")
    return emotions, {name: count for name, count in notes.items() if count}


def _parse(row: Row, roles: dict[str, list[str]], seen: dict) -> tuple[str, int, str] | BadRow | None:
    """Return conversation, number and emotion; None for a conversation that is not in `roles`."""
    conversation, turn = (row.cells[column].strip() for column in _COLUMNS[:2])
    emotion = clean(row.cells["emotion"])
    if not emotion:
        return BadRow(row.where, "no emotion", f"emotion is {quote(row.cells['emotion'])}")
    if not turn.isdecimal() or len(turn) > _DIGITS:
        return BadRow(row.where, "turn is no number", f"{quote(turn)}; expected the number of a message, from 0")
    key = conversation, int(turn)
    if (first := seen.setdefault(key, row.where)) != row.where:
        return BadRow(row.where, "second emotion", f"conversation {conversation}, turn {turn} was rated in {first}")
    if conversation not in roles:
        return None
    if int(turn) >= len(roles[conversation]):
        detail = f"conversation {conversation} has no turn {turn}; its messages are 0 to {len(roles[conversation]) - 1}"
        return BadRow(row.where, "no such turn", detail)
    return conversation, int(turn), emotion
