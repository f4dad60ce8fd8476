"""Show what every reward of a recipe gives to the completions in a file.

    python recipes/explain.py --recipe ed4_tiny.yaml --completions replies.jsonl
    python recipes/explain.py --recipe ed4_tiny.yaml --completions replies.jsonl --progress 0.5 --csv table.csv

The file has one JSON object per line, with `prompt` and `completion`, each a text or chat messages, and the columns
that the rewards need, such as `label` or `reference`. Any key of the recipe can be overridden, as in `recipes/run.py`:
`--stages.grpo.rewards.format.weight 0.5`, and `--stages.grpo.rewards.format null` leaves one out.
"""

import argparse
import logging
import sys
from pathlib import Path

from empathy_trl.cli import documented_parser
from empathy_trl.errors import UserError
from empathy_trl.rewards.explain import Breakdown, breakdown, read_completions, rewards_of, write_csv


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 for what the user can fix."""
    options, overrides = command_line().parse_known_args(arguments)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that no reward uses
    try:
        table = of_recipe(options.recipe, overrides, options.stage, options.completions, options.progress)
        print(table)
        if options.csv:
            write_csv(options.csv, table)
            print(f"written to {options.csv}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser; flags it does not know are overrides of recipe keys."""
    parser = documented_parser(__doc__)
    parser.add_argument("--recipe", required=True, help="YAML file, or the name of one in recipes/")
    parser.add_argument("--completions", required=True, type=Path, help="file with one JSON object per line")
    parser.add_argument("--stage", help="stage whose rewards are shown (default: the last)")
    parser.add_argument("--progress", type=float, default=0.0, help="share of the training done, for scheduled weights")
    parser.add_argument("--csv", type=Path, help="also write all rows to this file")
    return parser


def of_recipe(recipe: str, overrides: list[str], stage: str | None, file: Path, progress: float) -> Breakdown:
    """Return the breakdown of a file's completions by the rewards of a recipe's stage."""
    from empathy_trl.recipe import load_recipe

    rows = read_completions(file)
    loaded = load_recipe(recipe, overrides)
    rewards = rewards_of(loaded, loaded.choose_stage(stage))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    prompts, completions = columns.pop("prompt"), columns.pop("completion")
    return breakdown(rewards, prompts, completions, progress, **columns)


if __name__ == "__main__":
    sys.exit(main())
