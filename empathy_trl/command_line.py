"""What the command lines have in common."""

import argparse
import tempfile
from pathlib import Path

from empathy_trl.errors import UserError


def documented_parser(documentation: str, **settings) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's docstring: its first paragraph above the flags, the rest below them."""
    summary, _, examples = documentation.partition("\n\n")
    return argparse.ArgumentParser(
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **settings,
    )


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
