"""Films in the texts of ReDial, and texts of a limited length.

A film stands in a text as its id, `@111776`, until the text has its final length: so no limit cuts a title or a
`<movie>` in two. Lengths are counted in words and punctuation marks, because a data builder knows no tokenizer; a model
usually has more tokens.
"""

import re

from empathy_trl.data.text import newest_turns

PLACEHOLDER = "<movie>"

_FILM = re.compile(r"@(\d+)")
# As in `text.truncate_start`, a run of letters counts as one word per 20 characters begun.
_PIECE = re.compile(r"@\d+|\w{1,20}|[^\w\s]")


def film_ids(text: str) -> list[str]:
    """Return the ids of the films in a text, each once, in order."""
    return list(dict.fromkeys(_FILM.findall(text)))


def fill_slots(text: str, titles: dict[str, str] | None) -> str:
    """Return `text` with every film's title in place of its id, or `<movie>` where `titles` is None."""
    return _FILM.sub(lambda film: PLACEHOLDER if titles is None else titles[film[1]], text)


def length(text: str, titles: dict[str, str] | None) -> int:
    """Return the number of words and punctuation marks; a film counts as many as its title has, or 1 for `<movie>`."""
    return sum(cost for _, _, cost in _pieces(text, titles))


def keep_start(text: str, limit: int, titles: dict[str, str] | None) -> str:
    """Return the beginning of `text` up to a length of `limit`, but at least its first word or film."""
    end = 0
    for _, stop, cost in _pieces(text, titles):
        limit -= cost
        if limit < 0 and end:
            return text[:end]
        end = stop
    return text


def keep_end(text: str, limit: int, titles: dict[str, str] | None) -> str:
    """Return the end of `text` up to a length of `limit`, but at least its last word or film."""
    start = len(text)
    for begin, _, cost in reversed(_pieces(text, titles)):
        limit -= cost
        if limit < 0 and start < len(text):
            return text[start:]
        start = begin
    return text


def keep_turns(turns: list[str], limit: int, titles: dict[str, str] | None) -> list[str]:
    """Return the newest of `turns` up to a length of `limit` together, see `text.newest_turns`."""
    return newest_turns(
        turns, limit, lambda turn: length(turn, titles), lambda turn, left: keep_end(turn, left, titles)
    )


def _pieces(text: str, titles: dict[str, str] | None) -> list[tuple[int, int, int]]:
    """Return begin, end and length of every word, mark and film."""
    return [(piece.start(), piece.end(), _cost(piece[0], titles)) for piece in _PIECE.finditer(text)]


def _cost(piece: str, titles: dict[str, str] | None) -> int:
    if titles is None or not _FILM.fullmatch(piece):
        return 1
    return len(_PIECE.findall(titles[piece[1:]]))
