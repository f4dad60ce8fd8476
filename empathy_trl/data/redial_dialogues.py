"""A row of ReDial as a dialogue, from either of two layouts.

The original one names workers: who asks for a film is the initiator (here the seeker), who answers is the respondent
(the recommender), and each has filled in a form about the films. The Hub has the same columns, with lists where the files
have mappings. The other layout names roles. Film ids stay in the texts (`@111776`); `redial_slots.py` replaces them.
"""

from collections.abc import Callable

from empathy_trl.data.redial_slots import film_ids
from empathy_trl.data.tables import BadRow, Row, Table, check_columns, quote, shown
from empathy_trl.data.text import clean

ROLES = ("seeker", "recommender")
LIKES = (0, 1, 2)  # did not like it, liked it, did not say

_ORIGINAL = (
    *("conversationId", "messages", "movieMentions", "initiatorWorkerId", "respondentWorkerId"),
    *("initiatorQuestions", "respondentQuestions"),
)
_BY_ROLE = ("conversation_id", "messages", "movies", "liked")


class _Unusable(ValueError):
    """What is wrong with a dialogue: reason and detail of its `BadRow`."""


def dialogue_parser(table: Table) -> Callable[[Row], dict | BadRow]:
    """Return the function that turns a row of `table` into a dialogue; the layout follows from the columns.

    A dialogue is a dict with `where` (of the row), `conversation` (its id), `messages` (role and clean text of each, "" for
    one without text), `films` (id -> title, single spaces) and `likes` (id -> 0, 1 or 2 of `LIKES`).

    Raises `DataError` for a table that has the columns of neither layout.
    """
    original = "movieMentions" in table.columns or "conversationId" in table.columns
    check_columns(table.source, table.columns, _ORIGINAL if original else _BY_ROLE)
    read = _read_original if original else _read_by_role

    def parse(row: Row) -> dict | BadRow:
        try:
            dialogue = read(row.cells)
            _check(dialogue)
        except _Unusable as error:
            return BadRow(row.where, *error.args)
        return {"where": row.where} | dialogue

    return parse


def conversation_of(row: Row | BadRow) -> str | None:
    """Return the id of a row's conversation in either layout; None for a row that has none."""
    cells = row.cells if isinstance(row, Row) else {}
    found = cells.get("conversation_id", cells.get("conversationId"))
    return clean(str(found)) or None if _is_id(found) else None


def _read_original(cells: dict) -> dict:
    workers = cells["initiatorWorkerId"], cells["respondentWorkerId"]
    for column, worker in zip(("initiatorWorkerId", "respondentWorkerId"), workers, strict=True):
        if not _is_id(worker):
            raise _Unusable("unknown sender", f"{column} is {shown(worker)}; expected the id of a worker")
    if workers[0] == workers[1]:
        raise _Unusable("unknown sender", f"initiator and respondent are both worker {workers[0]!r}")
    likes = _by_id(cells, "respondentQuestions", "liked") | _by_id(cells, "initiatorQuestions", "liked")
    return _dialogue(cells, "conversationId", "movieMentions", likes, "senderWorkerId", workers)


def _read_by_role(cells: dict) -> dict:
    return _dialogue(cells, "conversation_id", "movies", _by_id(cells, "liked", "liked"), "role", ROLES)


def _dialogue(cells: dict, identity: str, films: str, likes: dict, sender: str, senders: tuple) -> dict:
    """Return a dialogue; `senders` are the values of `sender` that stand for the two roles."""
    messages = cells["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _Unusable("no messages", f"messages is {quote(str(messages))}; expected a list of mappings")
    if not _is_id(cells[identity]):
        raise _Unusable("no conversation", f"{identity} is {shown(cells[identity])}; expected a number or a text")
    role_of = dict(zip(senders, ROLES, strict=True))
    for number, message in enumerate(messages):
        if message.get(sender) not in senders:
            expected = " or ".join(repr(each) for each in senders)
            detail = f"{sender} of message {number} is {message.get(sender)!r}; expected {expected}"
            raise _Unusable("unknown sender", detail)
    titles = {film: _text(title, f"the title of @{film}") for film, title in _by_id(cells, films, "movieName").items()}
    return {
        "conversation": clean(str(cells[identity])),
        "messages": [
            (role_of[message[sender]], _text(message.get("text"), f"text of message {number}"))
            for number, message in enumerate(messages)
        ],
        "films": {film: title for film, title in titles.items() if title},
        "likes": {film: like for film, like in likes.items() if like is not None},
    }


def _is_id(value) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _text(value, name: str) -> str:
    """Return a clean text, "" for null."""
    if value is not None and not isinstance(value, str):
        raise _Unusable("no text", f"{name} is {shown(value)}; expected a text")
    return clean(value or "")


def _by_id(cells: dict, column: str, key: str) -> dict:
    """Return `{film id: value}` of a mapping or of the Hub's list of `{"movieId": id, key: value}`.

    A value that is a mapping itself stands for its `key`. An empty list is an empty mapping, as in the original files.
    """
    value = cells[column] or []
    entries = (
        [(entry.get("movieId"), entry) for entry in value if isinstance(entry, dict)]
        if isinstance(value, list)
        else None
    )
    if isinstance(value, dict):
        entries = list(value.items())
    if entries is None or len(entries) < len(value):
        raise _Unusable("no mapping", f"{column} is {quote(str(value))}; expected film ids and what belongs to each")
    return {str(film): entry.get(key) if isinstance(entry, dict) else entry for film, entry in entries}


def _check(dialogue: dict) -> None:
    if not dialogue["conversation"]:
        raise _Unusable("no conversation", "the id of the conversation is empty")
    if not any(text for _, text in dialogue["messages"]):
        raise _Unusable("no messages", f"conversation {dialogue['conversation']} has no text")
    texts = " ".join(text for _, text in dialogue["messages"])
    liked = [film for film, like in dialogue["likes"].items() if like == 1]
    unknown = [film for film in dict.fromkeys(film_ids(texts) + liked) if film not in dialogue["films"]]
    if unknown:
        named = ", ".join(f"@{film}" for film in unknown)
        detail = (
            f"{named} in conversation {dialogue['conversation']} has no title among its {len(dialogue['films'])} films"
        )
        raise _Unusable("unknown film id", detail)
    for film, like in dialogue["likes"].items():
        if isinstance(like, bool) or like not in LIKES:
            raise _Unusable("unknown like", f"{like!r} for @{film}; expected {', '.join(map(str, LIKES))}")
