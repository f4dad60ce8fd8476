"""Cleaning of texts written by strangers.

The order matters. Entities are decoded first, so that an escaped tag is seen as a tag. Invisible characters
go next, so that none can hide inside a tag. A tag becomes a space, never nothing: words on both sides stay
apart, and the pieces around a removed tag cannot join into a new one (`<an<b>swer>`). A text therefore never
holds `<answer>`, `</reasoning>` or a chat template's `<|im_end|>`, which would be read as part of the model's
own output or of the conversation. `<movie>`, which stands for a film's title, is a word and stays.
"""

import html
import re
from collections.abc import Callable
from typing import TypeVar

# Control characters that are not white space, lone surrogates, and invisible formatting: soft hyphen,
# zero-width space, direction marks and overrides, word joiner, byte order mark. Kept are the joiners U+200C
# and U+200D, which Persian and many emoji need.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\ud800-\udfff\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
JOINERS = "\u200c\u200d"
# A letter, "/", "!", "?" or "|" must follow "<", which spares "<3" and "a < b".
_TAG = re.compile(r"<(?!movie>)[A-Za-z/!?|][^<>]*>")
_Turn = TypeVar("_Turn")
# A "word" is at most this many characters long, so that text without spaces is bounded too.
_LONGEST_WORD = 20


def clean(text: str) -> str:
    """Return `text` decoded once from HTML, without tags and invisible characters, white space collapsed.

    `<movie>` is no tag. Case, punctuation, emoji and right-to-left script are kept. The result may be empty.
    """
    text = INVISIBLE.sub("", html.unescape(text))
    text = _TAG.sub(" ", text)
    return " ".join(text.split()).strip(" " + JOINERS)


def truncate_turns(turns: list[str], max_words: int) -> list[str]:
    """Return the newest turns of a dialogue that have `max_words` words together, see `newest_turns`."""
    return newest_turns(turns, max_words, count_words, truncate_start)


def newest_turns(
    turns: list[_Turn], limit: int, length: Callable[[_Turn], int], end: Callable[[_Turn, int], _Turn]
) -> list[_Turn]:
    """Return the last turns of a dialogue that are no longer than `limit` together; of the last turn at least its end.

    The oldest turns go first, whole; only where the last one alone is too long does it lose its own beginning.

    Args:
        turns: at least one, the oldest first; texts, or whatever is to stay together.
        length: of a turn.
        end: takes a turn and a limit, and returns the end of the turn.
    """
    kept, left = [end(turns[-1], limit)], limit - length(turns[-1])
    for turn in reversed(turns[:-1]):
        left -= length(turn)
        if left < 0:
            break
        kept.insert(0, turn)
    return kept


def truncate_start(text: str, max_words: int) -> str:
    """Return the last `max_words` words of `text`: in a dialogue or a story the oldest words go first.

    Words are separated by white space; a longer run of characters counts as one word per 20 characters begun.
    A text within the limit is returned unchanged.
    """
    starts = _words(text)
    return text if len(starts) <= max_words else text[starts[-max_words] :]


def count_words(text: str) -> int:
    """Return the number of words of a text, as `truncate_start` counts them."""
    return len(_words(text))


def _words(text: str) -> list[int]:
    """Return where the words of a text begin."""
    return [match.start() for match in re.finditer(rf"\S{{1,{_LONGEST_WORD}}}", text)]
