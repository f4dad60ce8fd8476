"""A row as a dialogue of a user and an assistant that reacts, responds and reflects.

A row is `{"conversation_id", "messages": [{"role", "content"}], "emotion"}`, of which only the messages have to be there. The
builder `empath` and `recipes/check_dialogues.py` read rows through these functions, so that what passes the check can be
trained on.
"""

from dataclasses import dataclass

from empathy_trl.data.tables import BadRow, Row, shown
from empathy_trl.data.text import clean
from empathy_trl.data.turn_faults import EMPTY, fault
from empathy_trl.data.turns import optional_text
from empathy_trl.parts import read_parts

ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Dialogue:
    """A dialogue whose messages are in order; what the assistant wrote is not looked at yet.

    Attributes:
        where: how messages name its row.
        conversation: its id, or the name of the row where it has none.
        emotion: of the whole dialogue, if the source tells.
        has_system: whether a system message came first; it is left out.
        users: the clean turns of the user, who begins.
        replies: the turns of the assistant as they are, as many as `users` or one less.
    """

    where: str
    conversation: str
    emotion: str | None
    has_system: bool
    users: list[str]
    replies: list[str]

    def place_of(self, number: int) -> int:
        """Return the place of a reply among the messages of the row, counted from 0 like the reply."""
        return self.has_system + 2 * number + 1


class _Unusable(ValueError):
    """What is wrong with a dialogue: reason and detail of its `BadRow`."""


def read_dialogue(row: Row) -> Dialogue | BadRow:
    """Return the dialogue of a row; a `BadRow` where the messages are no dialogue, or id or emotion are no text."""
    emotion = optional_text(row, "emotion")
    if isinstance(emotion, BadRow):
        return emotion
    try:
        messages = _messages(row.cells.get("messages"))
        identity = _identity(row.cells.get("conversation_id"))
        has_system = bool(messages) and messages[0][0] == "system"
        turns = messages[has_system:]
        _check_roles(turns, has_system)
        users = [_user_text(text, has_system + 2 * place) for place, (_, text) in enumerate(turns[::2])]
    except _Unusable as error:
        return BadRow(row.where, *error.args)
    replies = [text for _, text in turns[1::2]]
    return Dialogue(row.where, identity or row.where, emotion or None, has_system, users, replies)


def turn_parts(where: str, text: str) -> dict[str, str] | BadRow:
    """Return the clean parts of an assistant's turn, see `parts.read_parts`; a `BadRow` counted by the kind of the fault."""
    if (found := fault(text)) is not None:
        return BadRow(where, *found)
    parts = {part: clean(body) for part, body in read_parts(text).items()}
    empty = [part for part, body in parts.items() if not body]
    return BadRow(where, EMPTY, f"nothing is left of <{empty[0]}> after cleaning") if empty else parts


def _messages(value) -> list[tuple[str, str]]:
    """Return (role, text) of every message, the texts as they are."""
    if not isinstance(value, list) or not value:
        raise _Unusable("no messages", f"messages is {shown(value)}; expected a list of {{role, content}}")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise _Unusable("no message", f"message {number} is {shown(message)}; expected {{role, content}}")
        text = message["content"]
        if not isinstance(text, str):
            raise _Unusable("no text", f"content of message {number} is {shown(text)}; expected a text")
        if not text.strip():
            raise _Unusable("empty text", f"content of message {number} is {shown(text)}")
    return [(message["role"], message["content"]) for message in value]


def _identity(value) -> str:
    if value is None or isinstance(value, (str, int)) and not isinstance(value, bool):
        return clean("" if value is None else str(value))
    raise _Unusable("no id", f"conversation_id is {shown(value)}; expected a text or a whole number, or nothing")


def _check_roles(turns: list[tuple[str, str]], has_system: bool) -> None:
    """Raise _Unusable unless user and assistant take turns, and the user begins."""
    if not turns:
        raise _Unusable("no messages", "nobody says anything after the system message")
    for place, (role, _) in enumerate(turns):
        name = f"message {has_system + place + 1}"
        if role == "system":
            raise _Unusable("system message in the middle", f"{name}; a system message may only come first, and once")
        if role not in ROLES:
            raise _Unusable("unknown role", f"role of {name} is {shown(role)}; expected {' or '.join(ROLES)}")
        if role != ROLES[place % 2]:
            reason = "two turns of one role" if place else "the assistant begins"
            raise _Unusable(reason, f"{name} is of the {role}; expected the {ROLES[place % 2]}")


def _user_text(text: str, place: int) -> str:
    cleaned = clean(text)
    if not cleaned:
        raise _Unusable("empty text", f"nothing is left of {shown(text)} in message {place + 1} after cleaning")
    return cleaned
