"""The chat in a terminal: reads a message, shows the reply while it is written, and carries out commands.

A reaction is shown when it is complete, the response as it comes, and thoughts and a reflection only on request. Input may also
come from a pipe, a message per line; no styles are printed then.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from empathy_trl.chat.reply import TEXT, Chunk
from empathy_trl.chat.session import Session, SessionEvent
from empathy_trl.errors import UserError
from empathy_trl.tags import REACT, REFLECT, THOUGHT, completion_text
from empathy_trl.text import sanitise, words

RESET, DIM, REACTION = "\x1b[0m", "\x1b[2m", "\x1b[2;3m"  # faint; faint italics
LABELS = {THOUGHT: "thought: ", "reasoning": "reasoning: ", "answer": "answer: ", REFLECT: "reflection: "}
STYLES = {THOUGHT: DIM, "reasoning": DIM, REFLECT: DIM, REACT: REACTION}


class Display:
    """Shows one reply.

    Args:
        write: takes text and shows it at once.
        styled: use colours and italics.
        show_reflection: show what the model thought, too: thoughts before the reply, and its reflection.
    """

    def __init__(self, write: Callable[[str], None], styled: bool, show_reflection: bool):
        self._write, self._styled, self._shows = write, styled, show_reflection
        self._raw: list[str] = []  # of a reaction that is not complete
        self._thought: list[str] = []  # that is not shown
        self._in_parts = False  # whether tags were left away
        self._part: str | None = None  # on the screen; None at the start of a line

    def show(self, chunk: Chunk):
        """Show what is new."""
        self._in_parts = self._in_parts or chunk.part not in (TEXT, THOUGHT)
        if chunk.part == REFLECT and not self._shows:
            return
        if chunk.part == THOUGHT and not self._shows:
            self._fold(chunk)
            return
        if chunk.part == REACT:
            self._raw.append(chunk.text)
            if chunk.complete:
                self._end_line()
                self._write_part(REACT, "".join(self._raw).strip())
                self._raw = []
                self._end_line()
            return
        text = chunk.text
        if self._part != chunk.part:
            text = text.lstrip()
            if not text and not chunk.complete:  # white space between parts
                return
            self._end_line()
            self._part = chunk.part
            self._write_part(chunk.part, LABELS.get(chunk.part, ""))
        self._write_part(chunk.part, text.rstrip() if chunk.complete else text)
        if chunk.complete:
            self._end_line()

    def _fold(self, chunk: Chunk):
        """Show that the model thinks, and at the end of the thought how long it is; an empty one is not shown."""
        self._thought.append(chunk.text)
        if self._part != THOUGHT and chunk.text.strip():
            self._end_line()
            self._write_part(THOUGHT, "thinking …")
        if chunk.complete:
            if self._part == THOUGHT:
                count = len(words("".join(self._thought)))
                self._write_part(THOUGHT, f" {count} word{'s' if count != 1 else ''} (see /thought)")
                self._end_line()
            self._thought = []

    def end(self, reply: str, well_formed: bool | None):
        """Show what is left, and mark a reply that breaks its format.

        Args:
            reply: as the model wrote it, without thoughts.
            well_formed: False marks it.
        """
        self._end_line()
        if well_formed is False:
            if self._in_parts:
                self.note("the reply breaks its format; the model's output:")
                self._write(sanitise(reply).strip() + "\n")
            else:
                self.note("the reply breaks its format")
        elif self._raw:
            self._write_part(REACT, "".join(self._raw).strip())
            self._end_line()
        self._raw = []

    def note(self, text: str):
        """Show a line that is not the model's."""
        self._end_line()
        self._write(self._in_style(f"[{sanitise(text)}]", DIM) + "\n")

    def _write_part(self, part: str, text: str):
        if text:
            self._part = self._part or part
            self._write(self._in_style(sanitise(text), STYLES.get(part)))

    def _in_style(self, text: str, style: str | None) -> str:
        return f"{style}{text}{RESET}" if self._styled and style else text

    def _end_line(self):
        if self._part is not None:
            self._write("\n")
            self._part = None


HELP = """\
/undo          remove the last message and its reply
/retry         generate another reply to the last message
/reset         clear the conversation (also: reset)
/save FILE     write the conversation to a file, as training data
/stats         show timings and token counts of replies
/reflect       show the reflection of the last reply
/thought       show what the model thought before the last reply
/help          show this list
/quit          leave (also: quit, Ctrl-D)
Ctrl-C stops a reply."""
_COMMAND = re.compile(r"/(\w+)(?:\s+(\S.*?))?\s*")
_BARE = ("reset", "quit")  # commands that need no slash


class Terminal:
    """The read-print loop of one session.

    Args:
        session: a `Session`.
        show_reflection: show thoughts and the reflection with every reply.
    """

    def __init__(self, session: Session, show_reflection: bool = False):
        self.session, self.show_reflection = session, show_reflection
        self.styled = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.interactive = sys.stdin.isatty()
        self._preparing: threading.Thread | None = None
        self._commands: dict[str, Callable[[str], object]] = {
            "undo": lambda _: self._note(f"taken back: {self.session.undo()}"),
            "retry": lambda _: self._reply(self.session.undo()),
            "reset": self._reset,
            "save": self._save,
            "stats": lambda _: self._print(self.session.summary()),
            "reflect": self._reflect,
            "thought": self._show_thought,
            "help": lambda _: self._print(HELP),
        }

    def run(self) -> int:
        """Talk until the user leaves; returns the exit status: 0, or 130 after Ctrl-C twice."""
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # see `_normalised`
        if self.interactive:
            _edit_lines()
        try:
            return self._talk()
        finally:
            if self._preparing:
                self.session.leave()
                self._preparing.join()  # torch in a thread crashes the interpreter's end

    def _talk(self) -> int:
        interrupted = False
        while True:
            try:
                line = _normalised(input("> " if self.interactive else ""))
                interrupted = False
                if not self._answer(line):
                    return 0
            except EOFError:
                if self.interactive:
                    self._print("")
                return 0
            except KeyboardInterrupt:
                if interrupted:
                    self._print("")
                    return 130
                interrupted = True
                self._print("\n[type quit or press Ctrl-C again to leave]")

    def _answer(self, line: str) -> bool:
        """Do what a line asks for; False to leave."""
        command = _COMMAND.fullmatch(line.strip())
        name = command[1] if command else line.strip().lower()
        if command or name in _BARE:
            if name == "quit":
                return False
            self._obey(name, (command and command[2]) or "")
        elif not line.strip():
            self._note("type a message; /help lists the commands")
        else:
            self._reply(line)
        return True

    def _obey(self, name: str, argument: str):
        if name not in self._commands:
            self._note(
                f"/{name}: no such command (choices: {', '.join(f'/{each}' for each in [*self._commands, 'quit'])})"
            )
            return
        try:
            self._commands[name](argument)
        except UserError as error:
            self._note(str(error))

    def _reply(self, message: str):
        display = self._display()
        before = len(self.session.all_stats)
        try:
            with stopping(self.session.stop):
                for item in self.session.send(message):
                    if isinstance(item, SessionEvent):
                        display.note(item.text)
                    else:
                        display.show(item)
        except UserError as error:
            display.note(str(error))
            return
        if len(self.session.all_stats) > before:  # something was said
            display.end(completion_text(self.session.history[-1:]), self.session.well_formed)
            self._preparing = threading.Thread(target=self.session.prepare, daemon=True)
            self._preparing.start()

    def _reset(self, _: str):
        self.session.reset()
        self._note("forgotten")

    def _save(self, argument: str):
        if not argument:
            raise UserError("/save: expected a file, such as /save talk.jsonl")
        self._note(f"written to {self.session.save(argument)}")

    def _reflect(self, _: str):
        if self.session.reflection is None:
            raise UserError("the last reply has no reflection")
        self._note(self.session.reflection)

    def _show_thought(self, _: str):
        if not self.session.thought:
            raise UserError("the last reply has no thought")
        self._note(self.session.thought)

    def _display(self) -> Display:
        return Display(self._write, self.styled, self.show_reflection)

    def _note(self, text: str):
        self._display().note(text)

    def _print(self, text: str):
        self._write(text + "\n")

    def _write(self, text: str):
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C call `stop`; the second one interrupts as usual."""

    def handle(number, frame):
        signal.signal(signal.SIGINT, usual)
        stop()

    usual = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _edit_lines():
    """Let the user edit the line, and take a paste of several lines as one message."""
    try:
        import readline
    except ImportError:  # missing in some builds of Python
        return
    readline.parse_and_bind("set enable-bracketed-paste on")


def _normalised(line: str) -> str:
    """Return the input with plain line feeds, and with ? for bytes that are not UTF-8."""
    line = line.replace("\r\n", "\n").replace("\r", "\n")
    return line.encode("utf-8", errors="replace").decode("utf-8")
