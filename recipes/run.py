"""Train what a recipe says: every stage, its evaluation, and one report.

    accelerate launch recipes/run.py --recipe ed4_tiny.yaml
    python recipes/run.py --recipe ed4_gemma.yaml --check
    python recipes/run.py --recipe hub:USER/REPO --yes
    python recipes/run.py --list

A stage that is complete for the same settings is skipped, an interrupted one resumes from its last checkpoint. Heavy
libraries are imported only after the command line and the recipe have been read.
"""

import argparse
import gc
import logging
import os
import sys
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.recipe import fetch_recipe, is_from_hub, is_on_hub, list_recipes, load_recipe

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
            from empathy_trl.tasks import CONFIG_CLASSES

            for flag, is_for in (("yes", is_on_hub), ("trust_recipe", is_from_hub)):
                if getattr(options, flag) and not is_for(options.recipe):
                    raise UserError(f"--{flag}: is for --recipe hub:USER/REPO, got --recipe {options.recipe}")
            name = show_hub_recipe(options.recipe)
            recipe = load_recipe(name, overrides, CONFIG_CLASSES, options.trust_recipe)
            from_hub, folder = is_on_hub(name), output_folder(recipe, options.output_dir)
            if (options.check or from_hub) and os.environ.get("RANK", "0") == "0":
                from empathy_trl.check import describe

                print(describe(recipe, folder))
            if from_hub and not (options.check or options.yes):
                print(f"\nNothing was trained. To do so, repeat the command with --recipe {name} --yes")
            elif not options.check:
                run(recipe, folder, options.fresh)
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
    parser.add_argument("--yes", action="store_true", help="train a recipe from the Hub, which is otherwise only shown")
    parser.add_argument(
        "--trust_recipe",
        action="store_true",
        help="let a recipe from the Hub do what a file of yours may, such as run code",
    )
    parser.add_argument("--output_dir", help="where the stages' folders go (default: outputs/<recipe name>)")
    return parser


def print_list():
    """Print all shipped recipes, one line each."""
    for name, line in list_recipes(RECIPES):
        print(f"{name:24} {line}")


def show_hub_recipe(name: str) -> str:
    """Print a recipe from the Hub; returns its name with the commit that was shown. Others are left alone."""
    if not is_on_hub(name):
        return name
    from empathy_trl.text import printable

    found = fetch_recipe(name)
    if os.environ.get("RANK", "0") == "0":
        print(f"{found.name}:\n\n{printable(found.text)}")
        for key in found.dropped:
            print(
                f"left out: {key}, which is where its author's model went; to push yours, give --hub.repo_id YOU/NAME"
            )
    return found.name


def output_folder(recipe, output_dir: str | None) -> Path:
    """Return the folder of a recipe's run."""
    return Path(output_dir) if output_dir else Path("outputs") / recipe.name


def run(recipe, folder: Path, fresh: bool):
    """Train and evaluate all stages of a recipe, write the report, and push what the recipe wants pushed."""
    from empathy_trl.cli import join_processes, part_processes, use_all_cores
    from empathy_trl.recipe.stage_inputs import judging_stages
    from empathy_trl.recipe.stages import fingerprint, make_way

    use_all_cores()
    process = join_processes()
    rows = preflight(recipe, folder)
    fingerprints, folders = {}, {}
    for name, content in recipe.resolved()["stages"].items():
        fingerprints[name] = fingerprint(content, fingerprints, rows[name]["train"])
        folders[name] = folder / name
    with process.main_process_first():
        if process.is_main_process:
            for name, path in folders.items():
                if cleared := make_way(path, fingerprints[name], fresh):
                    print(cleared)
            for report in ("report.md", "report.png"):  # of an earlier run
                (folder / report).unlink(missing_ok=True)
    trained, waiting = set(), []
    for name, stage in recipe.stages.items():
        train_stage(recipe, stage, fingerprints[name], folders)
        trained.add(name)
        waiting.append(stage)
        ready = [each for each in waiting if judging_stages(recipe, each) <= trained]
        for each in ready:  # a warm start waits here for a reward model that is trained after it
            evaluate_stage(recipe, each, fingerprints, folders, rows[each.name]["all"])
            waiting.remove(each)
    finish(recipe, folder)
    part_processes()
    if process.is_main_process:  # alone: the others would not wait for a long upload
        push(recipe, folders)


def push(recipe, folders: dict[str, Path]):
    """Push the stages that have `hub:`. What goes wrong stops no other push; a rerun tries again, without training."""
    from empathy_trl.hub.push import push_stage

    failed = []
    for name, stage in recipe.stages.items():
        if stage.hub is not None:
            try:
                print(f"[{name}] pushed to {push_stage(folders[name], stage.hub)}")
            except UserError as error:
                failed.append(str(error))
    if failed:
        raise UserError("\n".join(failed))


def preflight(recipe, folder: Path) -> dict[str, dict]:
    """Find now, before an earlier run is touched or an hour is spent, what would stop a later stage.

    Returns stage name -> `{"train", "all"}`: digests of its training rows (None for data on the Hub), and of those with
    the rows it is evaluated on.
    """
    from empathy_trl.cli import check_writable
    from empathy_trl.evaluation.evaluate import kind_of
    from empathy_trl.evaluation.metrics.reply_classifiers import check_configs
    from empathy_trl.hub.push import check_pushes
    from empathy_trl.io import digest
    from empathy_trl.recipe.layers import stage_of
    from empathy_trl.recipe.stage_inputs import classifiers_of, judging_rewards, local_rows
    from empathy_trl.tasks import check_devices, missing_extras, trainer_config

    if missing := [line for stage in recipe.stages.values() for line in missing_extras(stage)]:
        raise UserError(f"this recipe needs packages that are not installed: {', '.join(missing)}")
    check_writable(folder)
    digests = {}
    for name, stage in recipe.stages.items():
        trainer_config(stage, folder / name)
        if kind_of(stage) in ("replies", "staged") and not judging_rewards(
            recipe, stage, dict.fromkeys(recipe.stages, folder)
        ):
            raise UserError(
                f"stages.{name}: its replies would be judged by the rewards of a later stage, and none has any"
            )
        check_devices(stage)
        check_configs({kind: model for kind, model in classifiers_of(stage).items() if stage_of(model) is None})
        rows = local_rows(stage)
        digests[name] = {
            "train": digest(rows["train"][0]) if rows else None,
            "all": digest([rows for rows, _ in rows.values()]),
        }
    check_pushes(recipe, folder)
    return digests


def train_stage(recipe, stage, fingerprint: str, folders: dict[str, Path]):
    """Train one stage, unless it is complete; resume it, if it was interrupted."""
    from accelerate import PartialState

    from empathy_trl.recipe.stages import Consumption, inspect_stage, provenance
    from empathy_trl.tasks import TASKS
    from empathy_trl.trainers.callbacks import ConsumptionLog

    path, process = folders[stage.name], PartialState()
    folder = inspect_stage(path, fingerprint)
    process.wait_for_everyone()  # before the main process writes, every process has read the same state
    if folder.status == "complete":
        process.print(f"[{stage.name}] complete, skipped ({path})")
        return
    checkpoint = folder.checkpoint
    consumption = Consumption(folder.record)
    process.print(f"[{stage.name}] " + (f"resumes from {checkpoint}" if checkpoint else f"starts ({path})"))
    if process.is_main_process:
        folder.save(
            recipe=recipe.name,
            stage=stage.name,
            status="running",
            processes=process.num_processes,
            **provenance(stage.seed),
            **consumption.so_far(),
        )
        (path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    process.wait_for_everyone()
    try:
        trainer = TASKS[stage.task].build(stage, path, folders)
    except UserError:
        raise
    except (ValueError, ImportError) as error:  # what TRL and transformers say of settings that do not go together
        raise UserError(f"stages.{stage.name}: the trainer refuses these settings: {error}") from error
    trainer.add_callback(ConsumptionLog(folder, consumption))
    if stage.hub is not None and stage.hub.push == "every_save":
        from empathy_trl.hub.push import PushCheckpoints

        trainer.add_callback(PushCheckpoints(stage.hub))
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:  # also of a session that is stopped
        if process.is_main_process:
            folder.save(**consumption.so_far())
    trainer.save_model(str(path))  # with tokenizer
    if process.is_main_process:
        folder.save(status="complete")
    process.wait_for_everyone()
    del trainer
    gc.collect()


def evaluate_stage(recipe, stage, fingerprints: dict[str, str], folders: dict[str, Path], rows: str):
    """Evaluate a trained stage, unless the same evaluation on the same rows (by their digest) is there already."""
    from accelerate import PartialState

    from empathy_trl.evaluation.evaluate import evaluate_model
    from empathy_trl.io import digest
    from empathy_trl.recipe.stage_inputs import classifiers_of, judging_rewards, resolve_classifiers
    from empathy_trl.recipe.stages import inspect_stage, judges_in
    from empathy_trl.tasks import load_trained

    path, resolved = folders[stage.name], recipe.resolved()["stages"]
    folder = inspect_stage(path, fingerprints[stage.name])
    rewards = judging_rewards(recipe, stage, folders)
    judges = [judges_in(content["rewards"], fingerprints) for content in resolved.values()]
    classifiers = {kind: {"model": model} for kind, model in classifiers_of(stage).items()}
    judges.append(judges_in(classifiers, fingerprints))
    judged_by = digest([{name: reward.model_dump(mode="json") for name, reward in rewards.items()}, judges])
    settings = resolved[stage.name]["evaluation"] | {"rows": rows, "judged_by": judged_by}
    if folder.record.get("evaluated") == settings and (path / f"eval_{stage.evaluation.split}.json").is_file():
        return
    section = stage.model.model_copy(update={"name_or_path": str(path), "revision": None, "from_scratch": None})
    model, tokenizer = load_trained(stage, section)
    evaluate_model(
        model=model,
        tokenizer=tokenizer,
        stage=resolve_classifiers(stage, folders),
        recipe_name=recipe.name,
        split=stage.evaluation.split,
        output_dir=path,
        model_name=str(path),
        rewards=rewards,
    )
    if PartialState().is_main_process:
        folder.save(evaluated=settings)


def finish(recipe, folder: Path):
    """Write report.md and report.png and say where they are."""
    from accelerate import PartialState

    from empathy_trl.evaluation.report import write_report

    if PartialState().is_main_process:
        (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        report = write_report(folder, list(recipe.stages.values())[-1].evaluation.split)
        print(report.read_text(encoding="utf-8"))
        print(f"report: {report}\nplot:   {report.with_suffix('.png')}")


if __name__ == "__main__":
    sys.exit(main())
