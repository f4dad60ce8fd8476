"""Evaluate models on the data of a recipe's stage: a table on the screen, and files in a folder for each.

    python recipes/evaluate.py --recipe ed4_tiny.yaml --model outputs/ed4_tiny/grpo --split test
    python recipes/evaluate.py --recipe ed4_gemma.yaml --model google/gemma-2-2b-it outputs/ed4_gemma/grpo --limit 200
    python recipes/evaluate.py --recipe ed4_tiny.yaml --model openai:NAME --base_url http://localhost:8000/v1
    accelerate launch --num_processes 2 recipes/evaluate.py --recipe ed4_gemma.yaml --model USER/ed4-gemma-2b

Any key of the recipe can be overridden, as in `recipes/run.py`: `--data.path ../shared/data/ed_easy_4`.
The same command goes on with an evaluation that was interrupted; no row is generated twice.
"""

import argparse
import errno
import logging
import os
import re
import sys
from pathlib import Path

from empathy_trl.cli import check_writable, documented_parser, positive
from empathy_trl.errors import UserError
from empathy_trl.io import json_or_none

OUTPUTS = Path("outputs")


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Return the parsed arguments and the rest, which are overrides of recipe keys."""
    parser = documented_parser(__doc__)
    parser.add_argument(
        "--recipe", required=True, help="YAML file, the name of one in recipes/, or hub:USER/REPO[@revision]"
    )
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let a recipe from the Hub import Python code; read it first"
    )
    parser.add_argument(
        "--model",
        required=True,
        nargs="+",
        help="one or more, evaluated one after another: folder of a saved model, a Hub id[@revision], or openai:NAME on a server",
    )
    parser.add_argument(
        "--base_url",
        help="of the server of openai:NAME (default: $OPENAI_BASE_URL, or OpenAI's); its key: $OPENAI_API_KEY",
    )
    parser.add_argument("--stage", help="stage whose data and settings are used (default: the last)")
    parser.add_argument("--split", choices=("train", "valid", "test"), help="default: the one of the recipe")
    parser.add_argument("--batch_size", type=positive, help="prompts generated together (default: the recipe's)")
    parser.add_argument(
        "--backend",
        choices=("auto", "transformers", "vllm"),  # `models.generate.CHOICES`, which would import torch
        default="auto",
        help="what generates: padded batches or vLLM; auto: vLLM on a GPU where it is installed, else padded batches",
    )
    parser.add_argument("--limit", type=positive, help="evaluate this many rows, drawn once (default: the recipe's)")
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="default: outputs/<recipe>/evaluations/<model name>; with several models, each has a folder in it",
    )
    return parser.parse_known_args(arguments)


def evaluate(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Evaluate the models, each in place of the stage's own, on the data of the stage.

    All of them are checked before the first one is loaded. One that fails does not keep the others from being evaluated,
    unless several processes work together: they could not agree on where to go on.

    Raises:
        UserError: what is wrong with the arguments, or at the end which models failed and why.
    """
    from empathy_trl.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, overrides, trust_remote_code=arguments.trust_remote_code)
    stage = recipe.choose_stage(arguments.stage)
    folders = output_folders(arguments.model, recipe, arguments.output_dir)

    from empathy_trl.cli import join_processes, part_processes

    served = check_models(arguments, stage, folders)
    process = join_processes()
    results, failed = {}, {}
    for number, (model, folder) in enumerate(folders.items(), start=1):
        if len(folders) > 1:
            process.print(f"model {number} of {len(folders)}: {model}", flush=True)
        try:
            results[model] = evaluate_one(arguments, recipe, stage, model, served[model], folder)
        except UserError as error:
            if len(folders) == 1 or process.num_processes > 1:  # others may wait for what this process did not reach
                raise
            failed[model] = str(error)
            process.print(f"failed: {model}: {error}", flush=True)
        else:
            process.print(f"written to {folder}")
    if len(folders) > 1:
        process.print(table_of_all(results, failed))
    part_processes()
    if failed:
        raise UserError("\n".join(f"{model}: not evaluated: {why}" for model, why in failed.items()))


def check_models(arguments: argparse.Namespace, stage, folders: dict[str, Path]) -> dict[str, object]:
    """Return model -> what `served_model` makes of it; UserError for what can be told before any model is loaded."""
    from empathy_trl.evaluation.evaluate import check_settings
    from empathy_trl.models.generate import check_installed
    from empathy_trl.models.hub_files import check_exists, expand

    check_settings(stage)
    check_installed(arguments.backend)
    served = {model: served_model(model, arguments, stage) for model in arguments.model}
    for model, folder in folders.items():
        check_writable(folder)
        if not served[model]:
            check_exists(expand(model))
    return served


def evaluate_one(arguments: argparse.Namespace, recipe, stage, name: str, served, output_dir: Path) -> dict:
    """Load a model, unless it is served, and evaluate it; its memory is free when this returns."""
    from empathy_trl.evaluation.evaluate import evaluate_model
    from empathy_trl.recipe.stage_inputs import judging_rewards, resolve_classifiers
    from empathy_trl.tasks import load_trained

    model, tokenizer = (served, None) if served else load_trained(stage, evaluated_model(stage.model, name))
    folders = stage_folders(name, recipe)
    try:
        return evaluate_model(
            model=model,
            tokenizer=tokenizer,
            stage=resolve_classifiers(stage, folders),
            recipe_name=recipe.name,
            split=arguments.split or stage.evaluation.split,
            output_dir=output_dir,
            model_name=name,
            limit=arguments.limit,
            batch_size=arguments.batch_size,
            rewards=judging_rewards(recipe, stage, folders),
            backend=arguments.backend,
        )
    finally:
        del model
        free_memory()


def free_memory() -> None:
    """Give back what a model took that nobody refers to any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def table_of_all(results: dict[str, dict], failed: dict[str, str]) -> str:
    """Return a plain-text table: the main figure of every model, in the order of the command line."""
    from empathy_trl.evaluation import evaluator
    from empathy_trl.evaluation.metrics.bootstrap import with_interval

    width = max(map(len, [*results, *failed])) + 2
    lines = []
    for model, result in results.items():
        shown_by = evaluator(result["kind"])
        if not lines:
            lines.append(f"{'model':<{width}}{shown_by.main_metric_title} [95 %], n = {result['data']['n']}")
        lines.append(f"{model:<{width}}{with_interval(result['metrics'][shown_by.main_metric])}")
    return "\n".join([*lines, *(f"{model:<{width}}failed" for model in failed)])


def served_model(name: str, arguments: argparse.Namespace, stage):
    """Return the model that openai:NAME stands for, None for a folder or a Hub id.

    Raises:
        UserError: a task that needs a head of its own, a flag without a use, or what `ApiModel` raises.
    """
    from empathy_trl.models.api import PREFIX, ApiModel
    from empathy_trl.recipe.layers import LABEL_TASKS

    if arguments.base_url and not any(model.startswith(PREFIX) for model in arguments.model):
        raise UserError(f"--base_url: is for --model {PREFIX}NAME, got --model {' '.join(arguments.model)}")
    if not name.startswith(PREFIX):
        return None
    if arguments.backend != "auto":
        raise UserError(
            f"--backend {arguments.backend}: --model {name} generates on its server; leave --backend out, or the model"
        )
    if stage.task in LABEL_TASKS:
        raise UserError(
            f"--model {name}: stage {stage.name} has task {stage.task}, whose answers come from a head of the model; a server "
            "gives texts only. Expected a folder or a Hub id"
        )
    return ApiModel(name.removeprefix(PREFIX), arguments.base_url)


def evaluated_model(config, name: str):
    """Return the model section of a stage with another model in place of its own."""
    from empathy_trl.models.hub_files import split_revision

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
    record = json_or_none(folder / "run.json")
    return record is not None and record.get("recipe") == recipe.name


def output_folders(models: list[str], recipe, output_dir: Path | None) -> dict[str, Path]:
    """Return model -> the folder of its evaluation; no two are the same.

    Of a single model it is `output_dir` itself. Models whose names end alike get longer names: as many parts of the path
    as it takes.

    Raises:
        UserError: a model is named twice.
    """
    if twice := [model for model in models if models.count(model) > 1]:
        raise UserError(f"--model {twice[0]}: named twice; expected every model once")
    if output_dir and len(models) == 1:
        return {models[0]: output_dir}
    base = output_dir or OUTPUTS / recipe.name / "evaluations"
    parts = {model: folder_parts(model) for model in models}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {model: "_".join(each[-count:]) for model, each in parts.items()}
        if len(set(names.values())) == len(models):
            return {model: base / name for model, name in names.items()}
    raise UserError(f"--model {' '.join(models)}: some of these are the same; expected every model once")


def folder_parts(model: str) -> list[str]:
    """Return the parts of a model's name that can name a folder, without what does not belong into one."""
    served = model.startswith("openai:")
    path = model.removeprefix("openai:") if served else os.path.abspath(os.path.expanduser(model))
    return [re.sub(r"[^\w.-]|^\.+", "_", part) for part in Path(path).parts if part != os.sep] or ["_"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for what the user can fix, or 130 after Ctrl-C."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that no recipe here uses
    try:
        evaluate(*parse(arguments))
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # once, not once per process
            print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if os.environ.get("RANK", "0") == "0":
            where = f"{error.filename}: " if error.filename else ""
            print(
                f"error: {where}{error.strerror}; the rows on disk are kept, and the same command goes on",
                file=sys.stderr,
            )
        return 2
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("\ninterrupted; the same command goes on with the rows that are left", file=sys.stderr)
        return 130  # as shells say it
    return 0


if __name__ == "__main__":
    sys.exit(main())
