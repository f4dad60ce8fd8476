"""A reply while it is generated: sampling settings, streaming from a thread, token counts, and splitting into parts.

`ReplyReader` assigns each new piece of text to a part of the reply. The result does not depend on how the reply was cut
into pieces, and agrees with `empathy_trl.tags`, which reads whole replies.
"""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

from empathy_trl.errors import UserError
from empathy_trl.rewards.format import Format
from empathy_trl.tags import PARTS, THOUGHT, THOUGHT_MARKS, THOUGHTS, read_parts, tag_marks, without_thoughts

REASONED = ("reasoning", "answer")
TAGS = (*PARTS, *REASONED)
MARKS = (*tag_marks(TAGS), *THOUGHT_MARKS)
TEXT = "text"  # what stands outside of all tags

_MARK = re.compile(rf"</?({'|'.join(TAGS)})>")
_BEGINS = {f"<{tag}>": (tag, f"</{tag}>") for tag in TAGS} | {
    begin: (THOUGHT, end) for begin, end in THOUGHTS.items()
}  # mark -> the part that it begins, and what ends that


@dataclass(frozen=True)
class Chunk:
    """Something new in a reply.

    Attributes:
        part: one of `TAGS`, `THOUGHT`, or `TEXT`.
        text: what is new, without tags, as the model wrote it: not safe for a terminal or a page. May be empty.
        complete: whether the part ends here, by its closing tag.
    """

    part: str
    text: str
    complete: bool = False


class ReplyReader:
    """Takes a reply in chunks of any size and says of each which part it belongs to, as soon as that is certain.

    Only what may still become a tag is held back: a `<` or `[` and what follows it. Inside a part nothing ends it but its own
    closing tag. Outside of all parts, a `</think>` ends a thought that a server's prompt has opened. White space between parts
    is returned as `TEXT`; code that shows a reply in parts leaves it out.

    Args:
        expects: the tags that a reply has to have, `PARTS` or `REASONED`; empty takes any format, and none.

    Attributes:
        well_formed: None before `close`, then whether the reply is written as its format asks, see `is_well_formed`.
    """

    def __init__(self, expects: tuple[str, ...] = ()):
        self._expects = expects
        self.well_formed: bool | None = None
        self._part, self._end = TEXT, ""
        self._read: list[str] = []
        self._held = ""

    def feed(self, text: str) -> list[Chunk]:
        """Return what is certain now, in order; neighbours of one part are one chunk."""
        self._read.append(text)
        self._held += text
        chunks: list[Chunk] = []
        while self._held:
            start = re.search(r"[<\[]|\Z", self._held).start()
            if start != 0:
                self._emit(chunks, start)
                continue
            marks = [*_BEGINS, *THOUGHTS.values()] if self._part == TEXT else [self._end]
            mark = next((mark for mark in marks if self._held.startswith(mark)), None)
            if mark is not None:
                self._held = self._held[len(mark) :]
                self._pass(mark, chunks)
            elif any(mark.startswith(self._held) for mark in marks):
                break
            else:
                self._emit(chunks, 1)
        return chunks

    def close(self) -> list[Chunk]:
        """Return what was held back, and judge the reply; nothing can be fed afterwards."""
        chunks: list[Chunk] = []
        if self._held:
            self._emit(chunks, len(self._held))
        self.well_formed = is_well_formed("".join(self._read), self._expects)
        return chunks

    def _emit(self, chunks: list[Chunk], length: int):
        """Move the first characters that are held back to the chunks."""
        text, self._held = self._held[:length], self._held[length:]
        if chunks and chunks[-1].part == self._part and not chunks[-1].complete:
            chunks[-1] = Chunk(self._part, chunks[-1].text + text)
        else:
            chunks.append(Chunk(self._part, text))

    def _pass(self, mark: str, chunks: list[Chunk]):
        """Go into a part, or out of it."""
        if self._part == TEXT and mark in _BEGINS:
            self._part, self._end = _BEGINS[mark]
            return
        if chunks and chunks[-1].part == self._part and not chunks[-1].complete:
            chunks[-1] = Chunk(self._part, chunks[-1].text, complete=True)
        else:
            chunks.append(Chunk(self._part, "", complete=True))
        self._part = TEXT


def is_well_formed(text: str, expects: tuple[str, ...] = ()) -> bool:
    """Whether a whole reply is written as the format of its tags asks, and that is the format that is expected.

    That is all of react, respond and reflect (`tags.read_parts`), or reasoning and answer (the reward `format`). What is expected
    is all that is looked at: tags of the other format are words then, as they are for the rewards and in an evaluation. A reply
    without any tag is well-formed where nothing is expected.
    """
    text = without_thoughts(text)
    found = set(_MARK.findall(text))
    if not found:
        return not expects
    asked = set(expects) or found
    if asked <= set(REASONED):
        return Format(tags=list(REASONED))(None, [text]) == [1.0]
    return asked <= set(PARTS) and read_parts(text) is not None


_END = object()


class AnyEvent:
    """Is set as soon as one of two events is."""

    def __init__(self, first: threading.Event, second: threading.Event):
        self.is_set = lambda: first.is_set() or second.is_set()


def streamed(write: Callable[[Callable[[str], None], AnyEvent], None], stop: threading.Event) -> Iterator[str]:
    """Yield what `write(put, stopped)` puts, without empty texts.

    Args:
        write: runs in a thread of its own, and ends soon after `stopped.is_set()`. What it raises is raised here.
        stop: ends it; what was put by then is still read. Leaving the iterator ends it, too, and waits for the thread.
    """
    queue, left = SimpleQueue(), threading.Event()

    def run():
        try:
            write(queue.put, AnyEvent(stop, left))
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
    """How replies are sampled.

    Attributes:
        temperature: at least 0; 0 takes the likeliest token.
        top_p: above 0, at most 1: sample from the likeliest tokens that together have this probability.
        seed: from 0 to 2**32 - 1; None samples differently each time.

    Raises:
        UserError: a value is out of range.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    seed: int | None = None

    def __post_init__(self):
        if not 0 <= self.temperature <= 10:
            raise UserError(f"temperature: got {self.temperature!r}, expected a number from 0 to 10")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: got {self.top_p!r}, expected a number above 0 and at most 1")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise UserError(f"seed: got {self.seed!r}, expected a whole number from 0 to {2**32 - 1}")
