"""The command `empathy-trl run`: train the stages of a recipe."""

import argparse

from empathy_trl.cli import OUTPUTS, add_quiet, command_parser, exit_status, parse_with_overrides, path_flag
from empathy_trl.engine import fail_together, is_first_process, part_processes
from empathy_trl.errors import UserError
from empathy_trl.io import yaml_titles
from empathy_trl.recipe import PRESETS, SHIPPED, find_recipe, is_on_hub, load_recipe, load_seeds, pin_recipe
from empathy_trl.recipe.layers import TOP_KEYS
from empathy_trl.text import sanitise


def run(arguments: list[str] | None = None) -> int:
    """Train what a recipe says: every stage, its evaluation, and one report.

        empathy-trl run --recipe ed4_tiny
        empathy-trl run --recipe ed4_gemma.yaml --check
        empathy-trl run --recipe ed4_tiny --seeds 1,2,3
        empathy-trl run --recipe hub:USER/REPO --check
        accelerate launch --num_processes 2 -m empathy_trl.commands run --recipe ed4_gemma.yaml

    Any key of the recipe can be overridden: --trainer.learning_rate 1e-6 --stages.grpo.trainer.max_steps 20
    --data.path my_folder --seed 1 --model.preset qwen3_4b

    A stage that is complete for the same settings is skipped; an interrupted one resumes from its last checkpoint.
    """
    options, overrides = parse_with_overrides(_parser(), arguments, TOP_KEYS)
    return exit_status(
        lambda: _run(options, overrides),
        interrupted="interrupted; the same command continues from the last checkpoint",
        quiet=options.quiet,
    )


def _parser() -> argparse.ArgumentParser:
    """Return the parser; flags it does not know are overrides of recipe keys."""
    parser = command_parser("run", run.__doc__)
    add_quiet(parser)
    parser.add_argument(
        "--recipe", help="path of a YAML file, the name of a shipped recipe, or hub:USER/REPO[@revision]"
    )
    parser.add_argument("--check", action="store_true", help="validate the recipe and print the plan; trains nothing")
    parser.add_argument("--list", action="store_true", help="list the shipped recipes and model presets")
    parser.add_argument("--fresh", action="store_true", help="delete the results of earlier runs and start over")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let a recipe from the Hub import Python code; read it first"
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        help="seeds with commas, such as 1,2,3: run the recipe once for each, in folders of their own, and report mean and spread",
    )
    parser.add_argument(
        "--output_dir", type=path_flag, help="parent folder of the stages' folders (default: outputs/<recipe name>)"
    )
    return parser


def _run(options: argparse.Namespace, overrides: list[str]) -> None:
    if options.list and overrides:
        raise UserError(f"--list: takes no other arguments, got {' '.join(overrides)}")
    if options.list:
        for title, folder in (("recipes", SHIPPED), ("models, for --model.preset NAME", PRESETS)):
            print(f"{title}:")
            for name, line in yaml_titles(folder):
                print(f"  {name:24} {line}")
        return
    if options.recipe is None:
        raise UserError("--recipe: missing; a path or one of the names that --list prints")
    with fail_together(needs_devices=not options.check):  # one node may lack a file
        name = _show_hub_recipe(options.recipe)
        trust = {"trust_remote_code": options.trust_remote_code}
        recipes = load_seeds(name, overrides, options.seeds, **trust) if options.seeds else {}
        recipe = next(iter(recipes.values())) if recipes else load_recipe(name, overrides, **trust)
        folder = options.output_dir or OUTPUTS / recipe.name
        if options.check and is_first_process():
            from empathy_trl.check import describe  # imports torch

            print(describe(recipe, folder, recipes))
    if options.check:
        part_processes()
        return
    from empathy_trl.tasks import run_recipe, run_seeds  # imports torch

    if recipes:
        run_seeds(recipes, output_dir=folder, fresh=options.fresh)
    else:
        run_recipe(recipe, output_dir=folder, fresh=options.fresh)


def _seeds(text: str) -> list[int]:
    """Read seeds with commas; as `type` of a flag."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        message = f"got {text!r}, expected whole numbers with commas, such as 1,2,3"
        raise argparse.ArgumentTypeError(message) from None


def _show_hub_recipe(name: str) -> str:
    """Print a recipe from the Hub; returns its name with the commit that was printed. Others are left alone."""
    if not is_on_hub(name):
        return name
    pinned = pin_recipe(name)
    path = find_recipe(pinned)
    if is_first_process():
        print(f"{pinned} ({path}):\n\n{sanitise(path.read_text(encoding='utf-8', errors='replace'))}")
    return pinned
