"""Train what a recipe says: every stage, its evaluation, and one report.

    accelerate launch recipes/run.py --recipe ed4_tiny.yaml
    python recipes/run.py --recipe ed4_gemma.yaml --check
    python recipes/run.py --recipe hub:USER/REPO --check
    python recipes/run.py --list

A stage that is complete for the same settings is skipped, an interrupted one resumes from its last checkpoint. Heavy
libraries are imported only after the command line and the recipe have been read.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.recipe import find_recipe, is_on_hub, list_recipes, load_recipe, pin_recipe

RECIPES = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for what the user can fix, or 130 after Ctrl-C."""
    options, overrides = command_line().parse_known_args(arguments)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that no recipe here uses
    try:
        if options.list and overrides:
            raise UserError(f"--list: takes no other arguments, got {' '.join(overrides)}")
        if options.list:
            print_list()
        elif options.recipe is None:
            raise UserError("--recipe: missing; a path or one of the names that --list prints")
        else:
            name = show_hub_recipe(options.recipe)
            recipe = load_recipe(name, overrides, trust_remote_code=options.trust_remote_code)
            folder = output_folder(recipe, options.output_dir)
            if options.check:
                from empathy_trl.check import describe

                if os.environ.get("RANK", "0") == "0":
                    print(describe(recipe, folder))
            else:
                from empathy_trl.tasks import run_recipe

                run_recipe(recipe, output_dir=folder, fresh=options.fresh)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # once, not once per process
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130  # as shells say it
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser; flags it does not know are overrides of recipe keys."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="any key of the recipe can be overridden: --trainer.learning_rate 1e-6 --stages.grpo.trainer.max_steps 20 "
        "--data.path my_folder --seed 1",
    )
    parser.add_argument(
        "--recipe", help="path of a YAML file, the name of one in recipes/, or hub:USER/REPO[@revision]"
    )
    parser.add_argument("--check", action="store_true", help="validate the recipe and print the plan; trains nothing")
    parser.add_argument("--list", action="store_true", help="list the recipes in recipes/")
    parser.add_argument(
        "--fresh", action="store_true", help="delete what an earlier run of this recipe left and start over"
    )
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let a recipe from the Hub import Python code; read it first"
    )
    parser.add_argument("--output_dir", help="where the stages' folders go (default: outputs/<recipe name>)")
    return parser


def print_list():
    """Print all shipped recipes, one line each."""
    for name, line in list_recipes(RECIPES):
        print(f"{name:24} {line}")


def show_hub_recipe(name: str) -> str:
    """Print a recipe from the Hub; returns its name with the commit that was printed. Others are left alone."""
    if not is_on_hub(name):
        return name
    from empathy_trl.text import printable

    pinned = pin_recipe(name)
    path = find_recipe(pinned)
    if os.environ.get("RANK", "0") == "0":
        print(f"{pinned} ({path}):\n\n{printable(path.read_text(encoding='utf-8', errors='replace'))}")
    return pinned


def output_folder(recipe, output_dir: str | None) -> Path:
    """Return the folder of a recipe's run."""
    return Path(output_dir) if output_dir else Path("outputs") / recipe.name


if __name__ == "__main__":
    sys.exit(main())
