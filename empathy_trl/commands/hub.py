"""The publishing commands: `hub` (push, pull, card) and `leaderboard`."""

import argparse
import shlex
import sys

import empathy_trl
from empathy_trl.cli import OUTPUTS, add_quiet, check_writable, command_parser, exit_status, path_flag
from empathy_trl.errors import UserError
from empathy_trl.hub.card import model_card
from empathy_trl.hub.leaderboard import entries, render, table
from empathy_trl.io import hold_folder, is_hub_id


def hub(arguments: list[str] | None = None) -> int:
    """Publish a trained model on the Hub, fetch one, or look at its card.

        empathy-trl hub push outputs/ed4_tiny/grpo --repo_id USER/ed4-tiny --private
        empathy-trl hub pull USER/ed4-tiny
        empathy-trl hub pull USER/ed4-tiny@v1.0 --output_dir models/ed4
        empathy-trl hub card outputs/ed4_tiny/grpo

    Log in first with `hf auth login`, or set HF_TOKEN.
    """
    options = _hub_parser().parse_args(arguments)
    return exit_status(
        lambda: {"push": _push, "pull": _pull, "card": _card}[options.command](options),
        interrupted="interrupted; the same command continues and does not send files again",
        quiet=options.quiet,
    )


def _hub_parser() -> argparse.ArgumentParser:
    """Return the parser: one command, and what it takes."""
    parser = command_parser("hub", hub.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{push,pull,card}")
    push = commands.add_parser("push", allow_abbrev=False, help="publish the model in a stage's folder")
    push.add_argument("folder", type=path_flag, help="folder of a trained stage, such as outputs/ed4_tiny/grpo")
    push.add_argument("--repo_id", required=True, help="USER/REPO; created if necessary")
    push.add_argument("--private", action="store_true", help="private repository; refused if it exists and is public")
    push.add_argument("--merge_adapter", action="store_true", help="publish an adapter and its base as one model")
    push.add_argument("--dry_run", action="store_true", help="list the files instead of publishing them")
    pull = commands.add_parser("pull", allow_abbrev=False, help="fetch model, recipe and results of a repository")
    pull.add_argument("name", help="USER/REPO, or USER/REPO@REVISION: a branch, a tag or a commit")
    pull.add_argument("--output_dir", type=path_flag, help="default: outputs/hub/USER/REPO")
    for command in (push, pull):
        add_quiet(command)
    card = commands.add_parser("card", allow_abbrev=False, help="print the card of the model in a stage's folder")
    card.set_defaults(quiet=None)
    card.add_argument("folder", type=path_flag, help="of a trained stage")
    card.add_argument("--repo_id", default="USER/REPO", help="model id shown in the card")
    return parser


def _push(options: argparse.Namespace) -> None:
    name, settings = _repo_id(options.repo_id), {"private": options.private, "merge_adapter": options.merge_adapter}
    if options.dry_run:
        from empathy_trl.hub.push import preview_push  # imports torch

        print(preview_push(options.folder, name, **settings))
        return
    print(f"pushed to {empathy_trl.push(options.folder, name, **settings)}")


def _pull(options: argparse.Namespace) -> None:
    print(f"fetched into {empathy_trl.pull(options.name, options.output_dir)}")


def _card(options: argparse.Namespace) -> None:
    from empathy_trl.hub.push import model_files  # imports torch

    model_files(options.folder)  # says what is wrong with the folder
    print(model_card(options.folder, _repo_id(options.repo_id)))


def _repo_id(text: str, flag: str = "--repo_id") -> str:
    """Return a Hub id; UserError for anything else."""
    if not is_hub_id(text):
        raise UserError(f"{flag}: {text!r} is not a Hub id; expected USER/REPO")
    return text


def leaderboard(arguments: list[str] | None = None) -> int:
    """Rank many results: a table in Markdown, a CSV, a page for the browser and a plot.

        empathy-trl leaderboard outputs/
        empathy-trl leaderboard outputs/ed4_tiny other_runs/eval_test.json --split test --output_dir board
        empathy-trl leaderboard --hub empathy-trl
        empathy-trl leaderboard outputs/ --push USER/leaderboard

    Comparable results share a table, with ranks that allow for chance; the others are listed with the reason.
    """
    parser = command_parser("leaderboard", leaderboard.__doc__)
    add_quiet(parser)
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", type=path_flag, help="eval_<split>.json, or a folder to search"
    )
    parser.add_argument(
        "--hub", metavar="AUTHOR_OR_TAG", help="read the results of models of an author, or with a tag, instead"
    )
    parser.add_argument(
        "--split", choices=("train", "valid", "test"), help="only this split (default: all, in separate tables)"
    )
    parser.add_argument("--output_dir", type=path_flag, default=OUTPUTS / "leaderboard", help="default: %(default)s")
    parser.add_argument("--push", metavar="USER/REPO", help="publish the files as a data set on the Hub")
    parser.add_argument("--private", action="store_true", help="with --push: make a newly created data set private")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _leaderboard(options), quiet=options.quiet)


def _leaderboard(options: argparse.Namespace) -> None:
    """Read the results, write and show the leaderboard, and publish it if asked."""
    if bool(options.paths) == bool(options.hub):
        got = "both" if options.hub else "neither"
        raise UserError(f"expected files or folders, or --hub AUTHOR_OR_TAG; got {got}")
    if options.private and not options.push:
        raise UserError("--private: is for --push USER/REPO")
    if options.push:
        _repo_id(options.push, "--push")
    check_writable(options.output_dir)

    found = (
        entries.read_hub(options.hub, options.split)
        if options.hub
        else entries.read_paths(options.paths, options.split)
    )
    board = table.build_board(found)
    with hold_folder(options.output_dir):
        paths = render.write_board(board, options.output_dir)
    print(render.markdown_text(board))
    for problem in board.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print("\n".join(f"{what + ':':<7}{path}" for what, path in paths.items()))
    if options.push:
        from empathy_trl.hub.push import push_dataset

        files = render.write_card(board, options.output_dir)
        settings = {"private": options.private, "message": "Leaderboard", "again": _retry_command(options)}
        print(f"pushed to {push_dataset(options.output_dir, options.push, files, **settings)}")


def _retry_command(options: argparse.Namespace) -> str:
    """Return the command that makes and publishes the same leaderboard."""
    words = ["empathy-trl", "leaderboard", *map(str, options.paths)]
    for flag in ("hub", "split", "output_dir", "push"):
        if getattr(options, flag) is not None:
            words += [f"--{flag}", str(getattr(options, flag))]
    return shlex.join(words + ["--private"] * options.private)
