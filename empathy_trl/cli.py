"""Shared parts of the command lines: parsers, values of flags, exit statuses, and the lines that show progress."""

import argparse
import difflib
import inspect
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path

import huggingface_hub
from tqdm.auto import tqdm

from empathy_trl.engine import Engine, is_first_process
from empathy_trl.errors import Terminated, UserError
from empathy_trl.io import user_name, user_path
from empathy_trl.text import sanitise

OUTPUTS = Path("outputs")
ERROR_WAIT = 10  # seconds for the first process to end with the same error
NO_BARS = "TQDM_DISABLE"  # environment variable: any non-empty value switches progress bars off
LINE_EVERY = 10  # seconds, at least, between two lines about the same loop where bars are off
SAMPLING_HELP = (
    "settings of the requests to the server, as JSON; they replace the defaults, and null removes one: "
    '\'{"max_tokens": null, "max_completion_tokens": 900}\''
)


def command_parser(name: str, documentation: str) -> argparse.ArgumentParser:
    """Return the parser of a command whose help is a docstring: its first paragraph above the flags, the rest below them."""
    summary, _, examples = inspect.cleandoc(documentation).partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"empathy-trl {name}",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Give --quiet to a command that shows progress bars; `exit_status` takes its value."""
    shown = "print plain lines instead of progress bars; the default where stderr is not a terminal"
    parser.add_argument("--quiet", action="store_true", help=shown)


def parse_with_overrides(
    parser: argparse.ArgumentParser, arguments: list[str] | None, keys: Collection[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line whose other flags override keys of a recipe; returns the options and those flags.

    A flag that is no key, and nearly one of the command's own, ends the program as argparse does.

    Args:
        keys: the top-level keys of a recipe.
    """
    options, overrides = parser.parse_known_args(arguments)
    known = [name for action in parser._actions for name in action.option_strings]
    for flag in (text.partition("=")[0] for text in overrides if text.startswith("--")):
        if "." not in flag and flag.removeprefix("--") not in keys:
            for nearest in difflib.get_close_matches(flag, known, n=1, cutoff=0.75):
                parser.error(f"{flag}: unknown flag; did you mean {nearest}?")
    return options, overrides


def exit_status(work: Callable[[], int | None], interrupted: str = "interrupted", quiet: bool | None = None) -> int:
    """Do the work of a command and return its exit status: its own, 2 after a UserError or for a
    path that cannot be used, 130 after Ctrl-C, or 143 after a SIGTERM that has ended a training.

    Args:
        interrupted: what to print after Ctrl-C.
        quiet: the flag --quiet of a command with progress bars, None for one without.
    """
    if quiet is not None and (quiet or not sys.stderr.isatty()):  # bars are litter in a log file
        switch_bars_off()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that are not used here
    try:
        status = work() or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        _print_error(sanitise(str(error)))  # it may quote a stranger's file
        return 2
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        if error.filename is None:
            raise
        _print_error(f"{error.filename}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        if is_first_process():
            print(f"\n{interrupted}", file=sys.stderr)
        return 130  # as shells do
    except Terminated as stop:
        if is_first_process():
            print(f"\n{stop}", file=sys.stderr)
        return 128 + signal.SIGTERM
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _print_error(message: str) -> None:
    """Print an error that ends this process. If the first process ends with the same error, only that process prints it, and
    one on every other node, whose terminals and logs are its own."""
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if rank == 0:
        print(f"error: {message}", file=sys.stderr, flush=True)
    if size == 1:
        return
    is_known = _is_error_of_first(message, rank)
    if rank > 0 and (not is_known or os.environ.get("LOCAL_RANK") == "0"):
        host = f", on {platform.node()}" if Engine.here().nodes > 1 else ""
        print(f"error (process {rank} of {size}, counted from 0{host}): {message}", file=sys.stderr)


def _is_error_of_first(message: str, rank: int) -> bool:
    """Return whether the first process ends with the same message, which it writes to the launcher's store.

    If the first process does not end, it writes nothing, and the answer takes `ERROR_WAIT` seconds.
    """
    from torch.distributed import TCPStore

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=ERROR_WAIT))
        if rank == 0:
            store.set("empathy_trl/error", message)
        return store.get("empathy_trl/error").decode() == message
    except (KeyError, RuntimeError):  # another launcher, or the first process has ended or continues
        return False


def switch_bars_off() -> None:
    """Switch off the progress bars of this process and of those it starts, of transformers, datasets and the Hub, too."""
    os.environ |= dict.fromkeys((NO_BARS, "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"), "1")
    huggingface_hub.utils.disable_progress_bars()  # huggingface_hub has read its variable already; transformers asks it


class Progress:
    """One line about a loop: a progress bar of tqdm or, where bars are off, a line of text now and then; both on stderr.

    Bars are off with --quiet, where a command's stderr is not a terminal, and with `TQDM_DISABLE=1` in the environment. Instead, a
    line is printed after each tenth of the work, at least `LINE_EVERY` seconds after the line before. A bar below another one
    vanishes at the end of its loop.

    Args:
        title: what is done, at the start of the line.
        total: how many units there are.
        unit: name of one.
        done: how many were done earlier; they do not count for the time left.
        delay: seconds after which a bar appears.
        plain: text instead of a bar, whatever the environment says.
        every_tenth: with False, only `show` prints lines of text.
        disable: show nothing at all; a process other than the first never shows anything.
    """

    def __init__(
        self, title: str, total: int, unit: str, *, done=0, delay=0.0, plain=False, every_tenth=True, disable=False
    ):
        self.title, self.total, self.unit, self.done, self.start = title, total, unit, done, done
        self.every_tenth = every_tenth
        self.disable = disable or not is_first_process()
        self.plain = plain or bool(os.environ.get(NO_BARS))
        self.began = self.said = time.monotonic()
        how = {"leave": None, "dynamic_ncols": True, "delay": delay, "disable": self.disable or self.plain}
        self.bar = tqdm(desc=title, total=total, unit=unit, initial=done, **how)

    def update(self, n: int = 1) -> None:
        """Count n more units."""
        before, self.done = self.done, self.done + n
        self.bar.update(n)
        is_tenth = self.done * 10 // self.total > before * 10 // self.total
        if is_tenth and self.every_tenth and time.monotonic() - self.said >= LINE_EVERY:
            self._say({})

    def show(self, figures: dict[str, str]) -> None:
        """Show figures, title -> value, behind the bar, or in a line of their own."""
        self.bar.set_postfix(figures)
        self._say(figures)

    def _say(self, figures: dict[str, str]) -> None:
        if not self.plain or self.disable:
            return
        self.said, new = time.monotonic(), self.done - self.start
        left = f"{in_words((self.said - self.began) * (self.total - self.done) / new)} left" if new else ""
        about = [f"{self.unit} {self.done} of {self.total}", *map(" ".join, figures.items()), left]
        print(f"[{self.title}] " + ", ".join(filter(None, about)), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def in_words(seconds: float) -> str:
    """Return a duration such as 40 s, 3 min or 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def existing_parent(folder: Path) -> Path:
    """Return a folder if it exists, else the nearest one above it that does."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def check_writable(folder: Path) -> None:
    """Raise UserError if a folder, made or not, cannot be written to: to be known now, and not after an hour of work."""
    try:
        with tempfile.TemporaryFile(dir=existing_parent(folder)):
            pass
    except OSError as error:
        raise UserError(f"--output_dir: cannot write to {folder}: {error.strerror}") from error


def positive(text: str) -> int:
    """Read a whole number above 0; as `type` of a flag."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number above 0")
    return int(text)


def path_flag(text: str) -> Path:
    """Read a path, see `io.user_path`; as `type` of a flag."""
    return _read_flag(user_path, text)


def name_flag(text: str) -> str:
    """Read a name that may be a path or a Hub id, see `io.user_name`; as `type` of a flag."""
    return _read_flag(user_name, text)


def _read_flag(read: Callable, text: str):
    try:
        return read(text)
    except UserError as error:  # a ValueError, whose message argparse would not show
        raise argparse.ArgumentTypeError(str(error)) from error


def json_object(text: str) -> dict:
    """Read a JSON object; as `type` of a flag."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a JSON object")
    return value
