"""Show what every reward of a recipe gives to the completions in a file.

    python -m empathy_trl.rewards --recipe ed4_tiny.yaml --completions replies.jsonl
    python -m empathy_trl.rewards --recipe ed4_tiny.yaml --completions replies.jsonl --progress 0.5 --csv table.csv

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
from empathy_trl.io import parse_json, write_atomically
from empathy_trl.rewards.explain import Breakdown, breakdown

# what `breakdown` and rewards are given under these names is something else
RESERVED = ("rewards", "prompts", "completions", "progress", "log_metric", "log_extra")


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
    parser = documented_parser(__doc__, prog="python -m empathy_trl.rewards")
    parser.add_argument("--recipe", required=True, help="YAML file, or the name of one in recipes/")
    parser.add_argument("--completions", required=True, type=Path, help="file with one JSON object per line")
    parser.add_argument("--stage", help="stage whose rewards are shown (default: the last)")
    parser.add_argument("--progress", type=float, default=0.0, help="share of the training done, for scheduled weights")
    parser.add_argument("--csv", type=Path, help="also write all rows to this file")
    return parser


def of_recipe(recipe: str, overrides: list[str], stage: str | None, file: Path, progress: float) -> Breakdown:
    """Return the breakdown of a file's completions by the rewards of a recipe's stage."""
    from empathy_trl.recipe import load_recipe
    from empathy_trl.tasks import CONFIG_CLASSES

    rows = read_completions(file)
    loaded = load_recipe(recipe, overrides, CONFIG_CLASSES)
    rewards = rewards_of(loaded, loaded.choose_stage(stage))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    prompts, completions = columns.pop("prompt"), columns.pop("completion")
    return breakdown(rewards, prompts, completions, progress, **columns)


def rewards_of(recipe, stage) -> dict:
    """Return name -> `recipe.Reward` of a stage, ready to be built; models of stages are where `run.py` leaves them."""
    from empathy_trl.recipe.stage_inputs import resolve_rewards, stages_in

    if not stage.rewards:
        having = [name for name, other in recipe.stages.items() if other.rewards]
        raise UserError(f"--stage {stage.name}: has no rewards (stages that have: {', '.join(having) or 'none'})")
    folders = {name: Path("outputs") / recipe.name / name for name in recipe.stages}
    for name, reward in stage.rewards.items():
        for judge in stages_in({name: reward}):
            if not folders[judge].is_dir():
                flag = f"--stages.{stage.name}.rewards.{name}.model"
                raise UserError(
                    f"rewards.{name}.model: stage {judge} has no model in {folders[judge]}; train it with recipes/run.py, "
                    f"name its folder with {flag} FOLDER, or leave the reward out with {flag.removesuffix('.model')} null"
                )
    return resolve_rewards(stage.rewards, folders)


def read_completions(path: Path) -> list[dict]:
    """Return the rows of a file, at least one, all with the same keys.

    Raises:
        UserError: the file cannot be read; or names the line that is not a JSON object with `prompt`, `completion` and
            the keys of the first row.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"--completions: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--completions: {path} is not UTF-8 (byte {error.start})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = parse_json(path, number, line)
            _check_row(f"{path}, line {number}", row, rows[0] if rows else row)
            rows.append(row)
    if not rows:
        raise UserError(f"--completions: {path} has no rows")
    return rows


def _check_row(where: str, row, first: dict) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with `prompt` and `completion`")
    for key in ("prompt", "completion"):
        if key not in row:
            raise UserError(f"{where}: has no `{key}` (keys: {', '.join(row) or 'none'})")
        if not isinstance(row[key], str) and not _are_messages(row[key]):
            raise UserError(f"{where}: `{key}` is neither a text nor a list of messages with role and content")
    for key in row:
        if key in RESERVED:
            raise UserError(f"{where}: a column cannot be called `{key}`")
    if differing := sorted(row.keys() ^ first.keys()):
        which = "has no" if differing[0] in first else "has a"
        raise UserError(f"{where}: {which} `{differing[0]}`, unlike the first row; null says that there is no value")


def _are_messages(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and {"role", "content"} <= each.keys() for each in value
    )


def write_csv(path: Path, table: Breakdown) -> None:
    """Write all rows of a table; nothing stands where a reward does not apply."""
    frame = table.to_pandas()
    try:
        write_atomically(path, lambda temporary: frame.to_csv(temporary, index=False, errors="replace"))
    except OSError as error:
        raise UserError(f"--csv: cannot write {path}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
