"""Many results, one leaderboard: a table in Markdown, a CSV, a page for the browser and a plot.

    python recipes/leaderboard.py outputs/
    python recipes/leaderboard.py outputs/ed4_tiny other_runs/eval_test.json --split test --output_dir board
    python recipes/leaderboard.py --hub empathy-trl
    python recipes/leaderboard.py outputs/ --push USER/leaderboard

What may be compared stands in one table, with places that chance does not give; whatever differs stands apart, with the reason.
"""

import argparse
import logging
import sys
from pathlib import Path

from empathy_trl.cli import check_writable, documented_parser
from empathy_trl.errors import UserError

OUTPUTS = Path("outputs")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for what the user can fix, or 130 after Ctrl-C."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that nothing here uses
    options = command_line().parse_args(arguments)
    try:
        leaderboard(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = documented_parser(__doc__)
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", type=Path, help="eval_<split>.json, or a folder of any depth"
    )
    parser.add_argument(
        "--hub", metavar="AUTHOR_OR_TAG", help="read the model cards of an author, or with a tag, instead"
    )
    parser.add_argument("--split", choices=("train", "valid", "test"), help="only this one (default: all, each apart)")
    parser.add_argument("--output_dir", type=Path, default=OUTPUTS / "leaderboard", help="default: %(default)s")
    parser.add_argument("--push", metavar="USER/REPO", help="publish the files as a data set on the Hub")
    parser.add_argument("--private", action="store_true", help="of --push: only you can see it, if it is made now")
    return parser


def leaderboard(options: argparse.Namespace) -> None:
    """Read the results, write and show the leaderboard, and publish it if asked."""
    if bool(options.paths) == bool(options.hub):
        got = "both" if options.hub else "neither"
        raise UserError(f"expected files or folders, or --hub AUTHOR_OR_TAG; got {got}")
    if options.private and not options.push:
        raise UserError("--private: is for --push USER/REPO")
    check_writable(options.output_dir)

    from empathy_trl.hub.leaderboard.render import markdown_text, write_board
    from empathy_trl.hub.leaderboard.table import build_board

    board = build_board(read(options))
    paths = write_board(board, options.output_dir)
    print(markdown_text(board))
    for problem in board.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print("\n".join(f"{what + ':':<7}{path}" for what, path in paths.items()))
    if options.push:
        print(f"pushed to {push(board, options)}")


def read(options: argparse.Namespace):
    """Return what was found, on the disk or on the Hub."""
    if options.hub:
        from empathy_trl.hub.leaderboard.entries import read_hub

        return read_hub(options.hub, options.split)
    from empathy_trl.hub.leaderboard.entries import read_paths

    return read_paths(options.paths, options.split)


def push(board, options: argparse.Namespace) -> str:
    """Publish the files as a data set; returns its address."""
    from empathy_trl.hub.leaderboard.render import write_card
    from empathy_trl.hub.push import push_dataset

    files = write_card(board, options.output_dir)
    settings = {"private": options.private, "message": "Leaderboard", "again": again(options)}
    return push_dataset(options.output_dir, options.push, files, **settings)


def again(options: argparse.Namespace) -> str:
    """Return the command that makes and publishes the same leaderboard."""
    import shlex

    words = ["python", "recipes/leaderboard.py", *map(str, options.paths)]
    for flag in ("hub", "split", "output_dir", "push"):
        if getattr(options, flag) is not None:
            words += [f"--{flag}", str(getattr(options, flag))]
    return shlex.join(words + ["--private"] * options.private)


if __name__ == "__main__":
    sys.exit(main())
