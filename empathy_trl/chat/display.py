"""A reply in a terminal while it is written: the reaction at once, the words as they come, the thought unseen."""

from collections.abc import Callable

from empathy_trl.chat.reply import TEXT, Piece
from empathy_trl.parts import REACT, REFLECT
from empathy_trl.printable import printable

RESET, DIM, REACTION = "\x1b[0m", "\x1b[2m", "\x1b[2;3m"  # faint; faint italics
LABELS = {"reasoning": "reasoning: ", "answer": "answer: ", REFLECT: "reflection: "}
STYLES = {"reasoning": DIM, REFLECT: DIM, REACT: REACTION}


class Display:
    """Shows one reply.

    Args:
        write: takes text and shows it at once.
        styled: use colours and italics.
        show_reflection: show what the model thought, too.
    """

    def __init__(self, write: Callable[[str], None], styled: bool, show_reflection: bool):
        self._write, self._styled, self._shows = write, styled, show_reflection
        self._raw: list[str] = []  # of a reaction that is not complete
        self._in_parts = False  # whether tags were left away
        self._part: str | None = None  # on the screen; None at the start of a line

    def show(self, piece: Piece):
        """Show what is new."""
        self._in_parts = self._in_parts or piece.part != TEXT
        if piece.part == REFLECT and not self._shows:
            return
        if piece.part == REACT:
            self._raw.append(piece.text)
            if piece.complete:
                self._line()
                self._say(REACT, "".join(self._raw).strip())
                self._raw = []
                self._line()
            return
        text = piece.text
        if self._part != piece.part:
            text = text.lstrip()
            if not text and not piece.complete:  # white space between parts
                return
            self._line()
            self._part = piece.part
            self._say(piece.part, LABELS.get(piece.part, ""))
        self._say(piece.part, text.rstrip() if piece.complete else text)
        if piece.complete:
            self._line()

    def end(self, reply: str, well_formed: bool | None):
        """Show what is left, and mark a reply that breaks its format.

        Args:
            reply: as the model wrote it.
            well_formed: False marks it.
        """
        self._line()
        if well_formed is False:
            self.note("the reply breaks its format" + "; as the model wrote it:" * self._in_parts)
            if self._in_parts:
                self._write(printable(reply).strip() + "\n")
        elif self._raw:
            self._say(REACT, "".join(self._raw).strip())
            self._line()
        self._raw = []

    def note(self, text: str):
        """Show a line that is not the model's."""
        self._line()
        self._write(self._dressed(f"[{printable(text)}]", DIM) + "\n")

    def _say(self, part: str, text: str):
        if text:
            self._part = self._part or part
            self._write(self._dressed(printable(text), STYLES.get(part)))

    def _dressed(self, text: str, style: str | None) -> str:
        return f"{style}{text}{RESET}" if self._styled and style else text

    def _line(self):
        if self._part is not None:
            self._write("\n")
            self._part = None
