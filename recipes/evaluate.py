"""Evaluate a model on the data of a recipe's stage: a table on the screen, and files in a folder.

    python recipes/evaluate.py --recipe ed4_tiny.yaml --model outputs/ed4_tiny/grpo --split test
    python recipes/evaluate.py --recipe ed4_gemma.yaml --model google/gemma-2-2b-it --limit 200
    python recipes/evaluate.py --recipe ed4_tiny.yaml --model openai:NAME --base_url http://localhost:8000/v1
    accelerate launch --num_processes 2 recipes/evaluate.py --recipe ed4_gemma.yaml --model USER/ed4-gemma-2b

Any key of the recipe can be overridden, as in `recipes/run.py`: `--data.path ../shared/data/ed_easy_4`.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from empathy_trl.command_line import check_writable, documented_parser, positive
from empathy_trl.errors import UserError

OUTPUTS = Path("outputs")


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Return the parsed arguments and the rest, which are overrides of recipe keys."""
    parser = documented_parser(__doc__)
    parser.add_argument(
        "--recipe", required=True, help="YAML file, the name of one in recipes/, or hub:USER/REPO[@revision]"
    )
    parser.add_argument(
        "--trust_recipe",
        action="store_true",
        help="let --recipe hub:USER/REPO do what a file of yours may, such as run code",
    )
    parser.add_argument(
        "--model", required=True, help="folder of a saved model, a Hub id[@revision], or openai:NAME on a server"
    )
    parser.add_argument(
        "--base_url",
        help="of the server of openai:NAME (default: $OPENAI_BASE_URL, or OpenAI's); its key: $OPENAI_API_KEY",
    )
    parser.add_argument("--stage", help="stage whose data and settings are used (default: the last)")
    parser.add_argument("--split", choices=("train", "valid", "test"), help="default: the one of the recipe")
    parser.add_argument("--batch_size", type=positive, help="prompts generated together (default: the recipe's)")
    parser.add_argument("--limit", type=positive, help="evaluate this many rows, drawn once (default: the recipe's)")
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="default: outputs/<recipe>/evaluations/<model name>",
    )
    return parser.parse_known_args(arguments)


def evaluate(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Load the model in place of the stage's own and evaluate it on the data of the stage."""
    from empathy_trl.recipe import load_recipe
    from empathy_trl.tasks import CONFIG_CLASSES

    recipe = load_recipe(arguments.recipe, overrides, CONFIG_CLASSES, arguments.trust_recipe)
    stage = recipe.choose_stage(arguments.stage)
    output_dir = arguments.output_dir or default_output_dir(arguments.model, recipe)

    from empathy_trl.evaluation.evaluate import check_settings, evaluate_model
    from empathy_trl.processes import join_processes, part_processes
    from empathy_trl.stage_models import judging_rewards, resolve_classifiers
    from empathy_trl.tasks import load_trained

    check_settings(stage)
    check_writable(output_dir)
    served = served_model(arguments.model, arguments.base_url, stage)
    process = join_processes()
    model, tokenizer = (served, None) if served else load_trained(stage, evaluated_model(stage.model, arguments.model))
    folders = stage_folders(arguments.model, recipe)
    evaluate_model(
        model=model,
        tokenizer=tokenizer,
        stage=resolve_classifiers(stage, folders),
        recipe_name=recipe.name,
        split=arguments.split or stage.evaluation.split,
        output_dir=output_dir,
        model_name=arguments.model,
        limit=arguments.limit,
        batch_size=arguments.batch_size,
        rewards=judging_rewards(recipe, stage, folders),
    )
    process.print(f"written to {output_dir}")
    part_processes()


def served_model(name: str, base_url: str | None, stage):
    """Return the model that openai:NAME stands for, None for a folder or a Hub id.

    Raises:
        UserError: a task that needs a head of its own, a flag without a use, or what `ApiModel` raises.
    """
    from empathy_trl.evaluation.api_model import PREFIX, ApiModel
    from empathy_trl.recipe.layers import LABEL_TASKS

    if not name.startswith(PREFIX):
        if base_url:
            raise UserError(f"--base_url: is for --model {PREFIX}NAME, got --model {name}")
        return None
    if stage.task in LABEL_TASKS:
        raise UserError(
            f"--model {name}: stage {stage.name} has task {stage.task}, whose answers come from a head of the model; a server "
            "gives texts only. Expected a folder or a Hub id"
        )
    return ApiModel(name.removeprefix(PREFIX), base_url)


def evaluated_model(config, name: str):
    """Return the model section of a stage with another model in place of its own."""
    from empathy_trl.hub_ids import split_revision

    plain, revision = split_revision(name)
    if plain == config.name_or_path:
        revision = revision or config.revision
    changes = {"name_or_path": plain, "revision": revision, "from_scratch": None, "lora": None}
    return config.model_copy(update=changes)


def stage_folders(model: str, recipe) -> dict[str, Path]:
    """Return stage -> its folder: beside the model, where that comes from a run in another place; else outputs/<recipe>."""
    run = Path(model).expanduser().absolute().parent
    folders = {name: (run / name, OUTPUTS / recipe.name / name) for name in recipe.stages}
    return {name: beside if is_stage_of(recipe, beside) else usual for name, (beside, usual) in folders.items()}


def is_stage_of(recipe, folder: Path) -> bool:
    """Say whether a run of this recipe made the folder."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or one that a crash cut short
        return False
    return isinstance(record, dict) and record.get("recipe") == recipe.name


def default_output_dir(model: str, recipe) -> Path:
    """Return outputs/<recipe>/evaluations/<end of the model's name>, never a stage's own folder."""
    name = Path(model.removeprefix("openai:")).expanduser().absolute().name
    return OUTPUTS / recipe.name / "evaluations" / name


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for what the user can fix, or 130 after Ctrl-C."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that no recipe here uses
    try:
        evaluate(*parse(arguments))
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # once, not once per process
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("\ninterrupted; figures are only of all rows, so none were written", file=sys.stderr)
        return 130  # as shells say it
    return 0


if __name__ == "__main__":
    sys.exit(main())
