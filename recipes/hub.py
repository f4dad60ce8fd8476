"""Publish a trained model on the Hub, fetch one, or look at its card.

    python recipes/hub.py push outputs/ed4_tiny/grpo --repo_id USER/ed4-tiny --private
    python recipes/hub.py pull USER/ed4-tiny
    python recipes/hub.py pull USER/ed4-tiny@v1.0 --output_dir models/ed4
    python recipes/hub.py card outputs/ed4_tiny/grpo

Log in first with `hf auth login`, or set HF_TOKEN.
"""

import argparse
import sys
from pathlib import Path

from empathy_trl.cli import documented_parser
from empathy_trl.errors import UserError


def command_line() -> argparse.ArgumentParser:
    """Return the parser: one command, and what it takes."""
    parser = documented_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{push,pull,card}")
    push = commands.add_parser("push", allow_abbrev=False, help="publish the model in a stage's folder")
    push.add_argument("folder", type=Path, help="of a trained stage, such as outputs/ed4_tiny/grpo")
    push.add_argument("--repo_id", required=True, help="USER/REPO; it is made if it is not there")
    push.add_argument("--private", action="store_true", help="only you can see it; refused if it is there and public")
    push.add_argument("--merge_adapter", action="store_true", help="an adapter and its base go up as one model")
    pull = commands.add_parser("pull", allow_abbrev=False, help="fetch model, recipe and results of a repository")
    pull.add_argument("name", help="USER/REPO, or USER/REPO@REVISION: a branch, a tag or a commit")
    pull.add_argument("--output_dir", type=Path, help="default: outputs/hub/USER/REPO")
    card = commands.add_parser("card", allow_abbrev=False, help="print the card of the model in a stage's folder")
    card.add_argument("folder", type=Path, help="of a trained stage")
    card.add_argument("--repo_id", default="USER/REPO", help="what the card says it is called")
    return parser


def push(options: argparse.Namespace):
    """Publish, and say where it is."""
    from empathy_trl.hub.push import push as publish

    name, settings = repo_id(options.repo_id), {"private": options.private, "merge_adapter": options.merge_adapter}
    print(f"pushed to {publish(options.folder, name, **settings)}")


def pull(options: argparse.Namespace):
    """Fetch, and say where it is."""
    from empathy_trl.hub.pull import pull as fetch

    print(f"fetched into {fetch(options.name, options.output_dir)}")


def card(options: argparse.Namespace):
    """Print the card."""
    from empathy_trl.hub.card import model_card
    from empathy_trl.hub.push import model_files

    model_files(options.folder)  # says what is wrong with the folder
    print(model_card(options.folder, repo_id(options.repo_id)))


def repo_id(text: str) -> str:
    """Return a Hub id; UserError for what is none."""
    from empathy_trl.recipe.schema import HUB_MODEL

    if not HUB_MODEL.fullmatch(text):
        raise UserError(f"--repo_id: {text!r} is not a Hub id; expected USER/REPO")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for what the user can fix, or 130 after Ctrl-C."""
    options = command_line().parse_args(arguments)
    try:
        {"push": push, "pull": pull, "card": card}[options.command](options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on: what has arrived is not sent again", file=sys.stderr)
        return 130  # as shells say it
    return 0


if __name__ == "__main__":
    sys.exit(main())
