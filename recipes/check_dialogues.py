"""Check dialogues that react, respond and reflect: count every kind of fault, show the first ones, repair spelling.

    python recipes/check_dialogues.py --input dialogues.jsonl
    python recipes/check_dialogues.py --input my_folder --fix --output my_folder_fixed

The input is a file of JSON Lines as the builder `empath` reads it, or a folder of them. --fix changes the case of tags, and
white space in and around them, nothing else, and says what it changed. Exit status 1 means that there are faults; with --fix,
that some are left.
"""

import argparse
import sys
from pathlib import Path

from empathy_trl.cli import documented_parser
from empathy_trl.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 where there are faults, or 2 for what the user can fix."""
    options = command_line().parse_args(arguments)
    try:
        text, faults = check(options.input, options.fix, options.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return int(faults)


def command_line() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = documented_parser(__doc__)
    parser.add_argument("--input", required=True, type=Path, help="file of JSON Lines, or a folder of them")
    parser.add_argument("--fix", action="store_true", help="repair case and white space of tags; needs --output")
    parser.add_argument("--output", type=Path, help="new file, of a folder new folder, for the repaired dialogues")
    return parser


def check(source: Path, fix: bool, output: Path | None) -> tuple[str, bool]:
    """Check, and repair if told to; returns the report for the screen, and whether there are faults in the end."""
    from empathy_trl.data.dialogue_check import check_file, dialogue_files, report

    if fix != (output is not None):
        raise UserError("--fix writes what it repairs to --output; give both, or neither")
    files = dialogue_files(source)
    targets = [output / file.name for file in files] if fix and source.is_dir() else [output] * fix
    for target in targets:
        if target.exists() or target.is_symlink():
            raise UserError(f"--output: {target} is there already, and nothing is overwritten; name another place")
    checked = [check_file(file, fix) for file in files]
    text = report(checked)
    if fix:
        changes = [change for each in checked for change in each.changes]
        write(dict(zip(targets, (each.text for each in checked), strict=True)))
        text = "\n".join([f"repaired turns: {len(changes)}", *changes, "", f"what is in {output}:", text])
    return text, any(each.faults for each in checked)


def write(texts: dict[Path, str]) -> None:
    """Write the repaired files."""
    from empathy_trl.data.dialogue_check import write_dialogues

    for path, text in texts.items():
        try:
            write_dialogues(path, text)
        except OSError as error:
            raise UserError(f"--output: cannot write to {path}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
