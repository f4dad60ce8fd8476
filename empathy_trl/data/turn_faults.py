"""What is wrong with a reply that should react, respond and reflect, and which of it can be put right without a doubt.

`parts.read_parts` says whether a reply is well-formed; this module gives what is not a name, by which it is counted, and
repairs what is only a matter of spelling: white space, and the case of tags. No word is ever changed.
"""

import re
from collections import Counter

from empathy_trl.data.tables import quote
from empathy_trl.parts import PARTS, read_parts, write_parts

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


def fixed(text: str) -> str | None:
    """Return a reply as `parts.write_parts` writes it, if that takes no more than case and white space; else None.

    Changed are the case of tags, and white space in them, outside of them, and where a part begins and ends.
    """
    parts = read_parts(text) or read_parts(_respelt(text))
    return write_parts(parts) if parts else None


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
