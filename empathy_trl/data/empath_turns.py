"""A row as a dialogue of a user and an assistant that reacts, responds and reflects.

A row is `{"conversation_id", "messages": [{"role", "content"}], "emotion"}`, of which only the messages have to be there. The
builder `empath` reads rows through these functions.

`tags.read_parts` says whether a reply is well-formed; this module names the fault of one that is not, and the name is what a
report of the data counts.
"""

import re
from collections import Counter
from dataclasses import dataclass

from empathy_trl.data.rows import BadRow, Row, optional_text, quote, shown
from empathy_trl.tags import PARTS, read_parts
from empathy_trl.text import clean

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
    """Return the clean parts of an assistant's turn, see `tags.read_parts`; a `BadRow` counted by the kind of the fault."""
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


NO_TAGS = "no tags"
MISSPELT = "upper case or spaces in a tag"
MISSING = "missing tag"
NOT_CLOSED = "tag not closed"
TWICE = "tag opened twice"
CLOSED_TWICE = "tag closed twice"
NESTED = "nested tags"
ORDER = "tags out of order"
OUTSIDE = "text outside the tags"
EMPTY = "empty part"

_NAMES = "|".join(PARTS)
_MARK = re.compile(rf"<(/?)({_NAMES})>")
# In any case, ASCII letters only ("ſ" is no "s"). Possessive, so that many spaces take no longer than others.
_LOOSE_MARK = re.compile(rf"<\s*+(/?)\s*+((?ai:{_NAMES}))\s*+>")


def fault(text: str) -> tuple[str, str] | None:
    """Return (reason, detail): the first fault of a reply; None for one that is well-formed.

    Tags in upper case or with spaces in them are taken for tags: they are the fault only where there is no other.
    """
    if read_parts(text) is not None:
        return None
    respelt = _respelt(text)
    if read_parts(respelt) is None:
        return _structural_fault(respelt)
    wrong = [mark.group() for mark in _LOOSE_MARK.finditer(text) if _MARK.fullmatch(mark.group()) is None]
    return MISSPELT, ", ".join(f"{quote(mark)} for {_respelt(mark)}" for mark in wrong)


def _respelt(text: str) -> str:
    """Return the text with all tags of the format in small letters and without spaces."""
    return _LOOSE_MARK.sub(lambda mark: f"<{mark[1]}{mark[2].lower()}>", text)


def _structural_fault(text: str) -> tuple[str, str]:
    """Return the first fault of a reply that is not well-formed, and whose tags are spelt as they should be."""
    marks = list(_MARK.finditer(text))
    if not marks:
        return NO_TAGS, quote(text)
    return _fault_of_counts(marks) or _fault_of_sequence(marks) or _fault_of_contents(text, marks)


def _fault_of_counts(marks: list[re.Match]) -> tuple[str, str] | None:
    """Return what does not stand exactly once."""
    counts = Counter(mark.group() for mark in marks)
    for part in PARTS:
        opening, closing = f"<{part}>", f"</{part}>"
        if not counts[opening]:
            return MISSING, f"no {opening}" + (f" before {closing}" if counts[closing] else "")
        if counts[opening] > 1:
            return TWICE, f"{opening} stands {counts[opening]} times"
        if not counts[closing]:
            return NOT_CLOSED, f"no {closing}"
        if counts[closing] > 1:
            return CLOSED_TWICE, f"{closing} stands {counts[closing]} times"
    return None


def _fault_of_sequence(marks: list[re.Match]) -> tuple[str, str] | None:
    """Return what stands in the wrong place, of marks that are complete."""
    is_open, order = None, []
    for mark in marks:
        closes, part = bool(mark[1]), mark[2]
        if not closes and is_open:
            return NESTED, f"<{part}> inside <{is_open}>"
        if closes and is_open != part:
            return ORDER, f"</{part}> before <{part}>"
        is_open = None if closes else part
        order += [] if closes else [part]
    return None if tuple(order) == PARTS else (ORDER, f"{', '.join(order)}; expected {', '.join(PARTS)}")


def _fault_of_contents(text: str, marks: list[re.Match]) -> tuple[str, str]:
    """Return what stands outside the tags, or where nothing stands inside, of marks that are complete and in order."""
    ends = [0, *(place for mark in marks for place in mark.span()), len(text)]
    pieces = [text[start:end].strip() for start, end in zip(ends[::2], ends[1::2], strict=True)]
    outside = [piece for piece in pieces[::2] if piece]
    if outside:
        return OUTSIDE, quote(outside[0])
    empty = [part for part, body in zip(PARTS, pieces[1::2], strict=True) if not body]
    return EMPTY, f"nothing in <{empty[0]}>"
