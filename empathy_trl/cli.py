"""Shared parts of the command lines: parsers, exit statuses, and process groups.

On a CPU, `accelerate launch --num_processes 2` starts one process (accelerate 1.15), and accelerate joins the processes
that `torchrun` starts only if it is told to use the CPU; `join_processes` does that.
"""

import argparse
import difflib
import inspect
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from empathy_trl.errors import Terminated, UserError
from empathy_trl.io import hold_folder, user_name, user_path
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
    """Print an error that ends this process. If the first process ends with the same error, only that process prints it."""
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if rank == 0:
        print(f"error: {message}", file=sys.stderr, flush=True)
    if size > 1 and not _is_error_of_first(message, rank) and rank > 0:
        print(f"error (process {rank} of {size}, counted from 0): {message}", file=sys.stderr)


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


def is_first_process() -> bool:
    """Say whether this is the process that prints, before the processes are joined."""
    return os.environ.get("RANK", "0") == "0"


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


def join_processes():
    """Return accelerate's `PartialState`, which knows all processes; call this before anything else makes one."""
    from accelerate import PartialState

    if several_on_cpu():
        # accelerate's own name is "cpu:0", with which `torch.load` cannot read the optimizer in a resume
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    return PartialState(cpu=several_on_cpu())


def part_processes():
    """Wait for all processes and end their connection, without which one that is done first may crash on its way out."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


@contextmanager
def hold_together(folder: Path, inner: Iterable[Path] = ()) -> Iterator[None]:
    """`io.hold_folder` for all processes: the main process holds the folder; if this fails, all processes raise."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    with ExitStack() as held:
        refusal = None
        if PartialState().is_main_process:
            try:
                held.enter_context(hold_folder(folder, inner))
            except UserError as error:
                refusal = str(error)
        if refusal := broadcast_object_list([refusal])[0]:
            raise UserError(refusal)
        yield


def several_on_cpu() -> bool:
    """Say whether this is one of several processes that share the CPU."""
    import torch

    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def use_all_cores():
    """Where the CPU trains, undo the one thread per process that launchers set: they leave most cores idle."""
    import torch

    launched = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & set(os.environ)
    if launched and os.environ.get("OMP_NUM_THREADS") == "1" and not torch.cuda.is_available():
        torch.set_num_threads(max(1, os.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def shared(items: list, work: Callable[[list], list]) -> list:
    """Return what `work` makes of the items, in their order; each process does its share, and all get everything.

    Args:
        items: the same in all processes.
        work: items -> one result each.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    own = range(state.process_index, len(items), state.num_processes)
    results = work([items[row] for row in own])
    return [result for _, result in sorted(gather_object(list(zip(own, results, strict=True))))]
