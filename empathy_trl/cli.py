"""Shared parts of the command lines: parsers, values of flags, and exit statuses."""

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
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path

from empathy_trl.engine import Engine, is_first_process
from empathy_trl.errors import Terminated, UserError
from empathy_trl.io import user_name, user_path
from empathy_trl.text import sanitise

OUTPUTS = Path("outputs")
ERROR_WAIT = 10  # seconds for the first process to end with the same error
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


def exit_status(work: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Do the work of a command and return its exit status: its own, 2 after a UserError or for a
    path that cannot be used, 130 after Ctrl-C, or 143 after a SIGTERM that has ended a training.

    Args:
        interrupted: what to print after Ctrl-C.
    """
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


def check_writable(folder: Path) -> None:
    """Raise UserError if a folder, made or not, cannot be written to: to be known now, and not after an hour of work."""
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
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
