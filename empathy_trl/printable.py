"""What a model wrote, made safe to print: nothing in it moves a cursor, sets a title, or turns a line around.

| characters | what becomes of them |
|---|---|
| line feed, tab | stay |
| carriage return | dropped: at the end of a line it says nothing, elsewhere it overwrites one |
| other control characters (C0, C1, DEL), such as escape | shown, as in `\\x1b` |
| format characters (bidirectional overrides, zero width, tags) | dropped, but for the joiners that Persian and emoji need |
| line and paragraph separators | a line feed |
| halves of surrogate pairs, which no encoding takes | U+FFFD |

Every character is looked at alone. So a text may come in pieces, cut anywhere: without its escape character, what is left
of an escape sequence are letters.
"""

import unicodedata

from empathy_trl.data.text import JOINERS

STAY = "\n\t" + JOINERS


def printable(text: str) -> str:
    """Return a text that may go to a terminal."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in STAY:
        return character
    if character == "\r":
        return ""
    kind = unicodedata.category(character)
    if kind == "Cc":
        return f"\\x{ord(character):02x}"
    return {"Cf": "", "Zl": "\n", "Zp": "\n", "Cs": "\ufffd"}.get(kind, character)
