"""Reading a reply while it is written: which part of it does what is new belong to?

A whole reply is read by `empathy_trl.tags` and `empathy_trl.tags`; what they make of it when it is complete is what this
reader makes of it, however it was cut into pieces on its way.

A text that is written in a thread and read as it comes.

What a turn costs.

How replies are written, by a model here or on a server.
"""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

from empathy_trl.rewards.format import Format
from empathy_trl.tags import PARTS, read_parts

REASONED = ("reasoning", "answer")
TAGS = (*PARTS, *REASONED)
TEXT = "text"  # what stands outside of all tags

_MARK = re.compile(rf"</?({'|'.join(TAGS)})>")


@dataclass(frozen=True)
class Piece:
    """Something new in a reply.

    Attributes:
        part: one of `TAGS`, or `TEXT`.
        text: what is new, without tags, as the model wrote it: not safe for a terminal or a page. May be empty.
        complete: whether the part ends here, by its closing tag.
    """

    part: str
    text: str
    complete: bool = False


class ReplyReader:
    """Takes a reply in pieces of any size and says of each which part it belongs to, as soon as that is certain.

    Only what may still become a tag is held back: a `<` and what follows it. Inside a part nothing ends it but its own
    closing tag. White space between parts comes out as `TEXT`; whoever shows a reply in parts leaves it away.

    Args:
        expects: the tags that a reply has to have, `PARTS` or `REASONED`; empty takes any format, and none.

    Attributes:
        well_formed: None before `close`, then whether the reply is written as its format asks, see `is_well_formed`.
    """

    def __init__(self, expects: tuple[str, ...] = ()):
        self._expects = expects
        self.well_formed: bool | None = None
        self._part = TEXT
        self._read: list[str] = []
        self._held = ""

    def feed(self, text: str) -> list[Piece]:
        """Return what is certain now, in order; neighbours of one part are one piece."""
        self._read.append(text)
        self._held += text
        pieces: list[Piece] = []
        while self._held:
            start = self._held.find("<")
            if start != 0:
                self._emit(pieces, len(self._held) if start < 0 else start)
                continue
            marks = [f"<{tag}>" for tag in TAGS] if self._part == TEXT else [f"</{self._part}>"]
            mark = next((mark for mark in marks if self._held.startswith(mark)), None)
            if mark is not None:
                self._held = self._held[len(mark) :]
                self._pass(mark, pieces)
            elif any(mark.startswith(self._held) for mark in marks):
                break
            else:
                self._emit(pieces, 1)
        return pieces

    def close(self) -> list[Piece]:
        """Return what was held back, and judge the reply; nothing can be fed afterwards."""
        pieces: list[Piece] = []
        if self._held:
            self._emit(pieces, len(self._held))
        self.well_formed = is_well_formed("".join(self._read), self._expects)
        return pieces

    def _emit(self, pieces: list[Piece], length: int):
        """Move the first characters that are held back to the pieces."""
        text, self._held = self._held[:length], self._held[length:]
        if pieces and pieces[-1].part == self._part and not pieces[-1].complete:
            pieces[-1] = Piece(self._part, pieces[-1].text + text)
        else:
            pieces.append(Piece(self._part, text))

    def _pass(self, mark: str, pieces: list[Piece]):
        """Go into a part, or out of it."""
        if self._part == TEXT:
            self._part = mark.strip("</>")
            return
        if pieces and pieces[-1].part == self._part and not pieces[-1].complete:
            pieces[-1] = Piece(self._part, pieces[-1].text, complete=True)
        else:
            pieces.append(Piece(self._part, "", complete=True))
        self._part = TEXT


def is_well_formed(text: str, expects: tuple[str, ...] = ()) -> bool:
    """Whether a whole reply is written as the format of its tags asks, and that is the format that is expected.

    That is all of react, respond and reflect (`tags.read_parts`), or reasoning and answer (the reward `format`). What is expected
    is all that is looked at: tags of the other format are words then, as they are for the rewards and in an evaluation. A reply
    without any tag is well-formed where nothing is expected.
    """
    found = set(_MARK.findall(text))
    if not found:
        return not expects
    asked = set(expects) or found
    if asked <= set(REASONED):
        return Format(tags=list(REASONED))(None, [text]) == [1.0]
    return asked <= set(PARTS) and read_parts(text) is not None


_END = object()


class Either:
    """Is set when one of two events is."""

    def __init__(self, first: threading.Event, second: threading.Event):
        self.is_set = lambda: first.is_set() or second.is_set()


def streamed(write: Callable[[Callable[[str], None], Either], None], stop: threading.Event) -> Iterator[str]:
    """Yield what `write(put, stopped)` puts, without empty texts.

    Args:
        write: runs in a thread of its own, and ends soon after `stopped.is_set()`. What it raises is raised here.
        stop: ends it; what was put by then is still read. Leaving the iterator ends it, too, and waits for the thread.
    """
    queue, left = SimpleQueue(), threading.Event()

    def run():
        try:
            write(queue.put, Either(stop, left))
            queue.put(_END)
        except BaseException as error:  # noqa: BLE001 - it is the reader's to know
            queue.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            if item:
                yield item
    finally:
        left.set()
        thread.join()


@dataclass
class Counts:
    """Tokens of one turn: computed before the first new one, taken from earlier turns, and written.

    `cut_off` says that the reply was not at its end when it had as many as it may have.
    """

    prefilled: int = 0
    cached: int = 0
    written: int = 0
    cut_off: bool = False


@dataclass(frozen=True)
class Sampling:
    """How replies are written.

    Attributes:
        temperature: 0 takes the likeliest token, above 0 samples.
        top_p: sample from the likeliest tokens only, those that have this probability together.
        seed: of the sampling; None for another one each time.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    seed: int | None = None
