"""Dynamic sampling and the best checkpoint on ed4_tiny, at equal numbers of completions, over several seeds.

python benchmarks/dynamic_sampling.py --data shared/data/ed_easy_4       # without --data: the embedded corpus
python benchmarks/dynamic_sampling.py --seeds 1,2 --stages.grpo.trainer.num_train_epochs 2

Each seed has one warm start, from which GRPO is trained with and without `dynamic_sampling`. Both trainings draw the same number
of completions, those of replaced groups included, so dynamic sampling takes fewer steps. The learning rate falls with the number
of completions in both. The weights of the last step and those of the best step on `valid` are evaluated on `test`, which makes
four arms. Choosing the best step does not change the course of a training, so the last weights are those of a run without it.

--jobs trainings run at a time, each with its share of the cores. All results stay in --output_dir. If the command is interrupted,
the same command continues. Other flags override keys of the recipe.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
from harness import print_table

from empathy_trl.cli import exit_status, parse_with_overrides
from empathy_trl.errors import UserError
from empathy_trl.evaluation.base import read_eval, read_predictions
from empathy_trl.evaluation.compare import row_change
from empathy_trl.evaluation.metrics.bootstrap import paired_statistics, with_interval
from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.layers import TOP_KEYS

RECIPE, CORES = "ed4_tiny", os.cpu_count() or 1
# training -> its own overrides
TRAININGS = {"plain": [], "dynamic": ["--stages.grpo.trainer.dynamic_sampling", "true"]}
# arm -> (training, folder in it with the evaluation, key of its accuracy on valid in run.json)
ARMS = {
    "plain": ("plain", "last", "last_value"),
    "best checkpoint": ("plain", "grpo", "value"),
    "dynamic sampling": ("dynamic", "last", "last_value"),
    "dynamic sampling + best checkpoint": ("dynamic", "grpo", "value"),
}
COMPARED = [
    ("plain", "best checkpoint"),
    ("plain", "dynamic sampling"),
    ("plain", "dynamic sampling + best checkpoint"),
    ("best checkpoint", "dynamic sampling + best checkpoint"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of ED_easy_4 (default: the embedded corpus)")
    parser.add_argument("--seeds", type=seeds, default="1,2,3", help="numbers with commas (default 1,2,3)")
    parser.add_argument("--output_dir", type=Path, default="outputs/dynamic_sampling", help="default %(default)s")
    parser.add_argument(
        "--every", type=int, default=50, help="steps between evaluations on valid (default %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=CORES, help="trainings at a time (default: one per core)")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    options, overrides = parse_with_overrides(parser, None, TOP_KEYS)
    for flag in ("every", "jobs"):
        if getattr(options, flag) < 1:
            parser.error(f"--{flag}: {getattr(options, flag)} should be at least 1")
    work = (lambda: train(**options.run)) if options.run else (lambda: measure(options, overrides))
    if status := exit_status(work, interrupted="interrupted; the same command continues"):
        raise SystemExit(status)


def measure(options, overrides: list[str]):
    """Run everything that is not complete, and print the tables."""
    data = "sample" if options.data is None else str(options.data.resolve())
    overrides = ["--data.path", data, *overrides]
    load_recipe(RECIPE, overrides)  # refuses what is wrong before anything starts
    check_settings(options.output_dir / "settings.json", {"overrides": overrides, "every": options.every})
    run_all(options, overrides)
    rows = [figures_of(options.output_dir / f"seed_{seed}", seed, arm) for seed in options.seeds for arm in ARMS]
    right = {arm: np.array([row.pop("right") for row in rows if row["arm"] == arm]) for arm in ARMS}
    print_table([rows[0], *(row.values() for row in rows)])
    print()
    print_table([["arm", "mean over the seeds", "standard deviation"], *([arm, *spread(right[arm])] for arm in ARMS)])
    print()
    print_table([["from", "to", "change", "p"], *([a, b, *change(right[a], right[b])] for a, b in COMPARED)])


def check_settings(path: Path, settings: dict):
    """Note the settings in the output folder, or raise UserError if it has results of other ones."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings), encoding="utf-8")
    elif (before := json.loads(path.read_text(encoding="utf-8"))) != settings:
        raise UserError(f"--output_dir: {path.parent} has results of other settings, {before}; name another folder")


def seeds(text: str) -> list[int]:
    """Return the seeds in a text such as "1,2,3"."""
    return [int(part) for part in text.split(",")]


def run_all(options, overrides: list[str]):
    """Run the warm starts of all seeds, and then both trainings of all seeds, `options.jobs` at a time."""
    warm_starts, trainings = [], []
    for seed in options.seeds:
        folder, common = options.output_dir.resolve() / f"seed_{seed}", [*overrides, "--seed", str(seed)]
        warm_starts.append((folder / "warm_start", "sft", common))
        common = [*common, "--stages.grpo.model.name_or_path", str(folder / "warm_start" / "sft")]
        common += ["--stages.grpo.evaluation.every", str(options.every), "--stages.grpo.evaluation.best", "accuracy"]
        trainings += [(folder / name, "grpo", [*common, *own]) for name, own in TRAININGS.items()]
    with ThreadPoolExecutor(options.jobs) as pool:
        for tasks in (warm_starts, trainings):
            list(pool.map(lambda task: start(*task, threads=max(1, CORES // options.jobs)), tasks))


def start(folder: Path, stage: str, overrides: list[str], threads: int):
    """Run `train` in a process of its own, whose output goes to a file beside the folder."""
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{folder.parent.name}/{folder.name} starts; its log is {log}", file=sys.stderr, flush=True)
    arguments = {"folder": str(folder), "stage": stage, "overrides": overrides}
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            [sys.executable, __file__, "--run", json.dumps(arguments)],
            stdout=output,
            stderr=output,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            check=False,
        )
    if done.returncode:
        raise UserError(f"{folder} failed; the end of {log}:\n{log.read_text(encoding='utf-8')[-2000:]}")


def train(folder: str, stage: str, overrides: list[str]):
    """Run one stage with a budget of completions, unless it is complete, and evaluate the weights of its last step, too."""
    from empathy_trl import evaluate_model, load_model, run_recipe, tasks

    recipe, grpo = load_recipe(RECIPE, overrides), tasks.TASKS["grpo"]
    recipe = recipe.model_copy(update={"stages": {stage: recipe.stages[stage]}})

    def build(run):
        trainer = grpo.build(run)
        trainer.add_callback(budget(trainer))
        return trainer

    with patch.dict(tasks.TASKS, grpo=dataclasses.replace(grpo, build=build)):
        run_recipe(recipe, output_dir=folder)
    checkpoints = {int(path.name.split("-")[1]): path for path in Path(folder).glob("grpo/checkpoint-*")}
    last = Path(folder, "last")
    if checkpoints and not (last / "eval_test.json").exists():
        model, tokenizer = load_model(checkpoints[max(checkpoints)])
        evaluate_model(
            model=model, tokenizer=tokenizer, stage=recipe.stages[stage], output_dir=last, recipe_name=RECIPE
        )


def budget(trainer):
    """Return a callback that ends a training when as many groups are drawn as its steps would draw without replacing any.

    The learning rate also follows the groups that are drawn.
    """
    from transformers import TrainerCallback

    class Budget(TrainerCallback):
        def on_train_begin(self, args, state, control, lr_scheduler, **kwargs):
            self.batch = args.generation_batch_size // args.num_generations
            self.drawn = lr_scheduler.last_epoch * self.batch  # 0, or in a resumed training what is drawn, up to a step

        def on_step_end(self, args, state, control, lr_scheduler, **kwargs):
            self.drawn += trainer._metrics["train"].get("groups_drawn", [self.batch])[-1]
            while lr_scheduler.last_epoch < min(self.drawn // self.batch, state.max_steps):
                lr_scheduler.step()
            if self.drawn >= state.max_steps * self.batch:
                control.should_training_stop = control.should_save = True

    return Budget()


def figures_of(folder: Path, seed: int, arm: str) -> dict:
    """Return the row of the table for one seed and arm; `right` says for each test row whether the answer is."""
    training, evaluation, on_valid = ARMS[arm]
    folder = folder / training
    stage = folder / "grpo"
    record = json.loads((stage / "run.json").read_text(encoding="utf-8"))
    step = record["best"]["last_step" if evaluation == "last" else "step"]
    return {
        "seed": seed,
        "arm": arm,
        "completions": completions(stage),
        "steps": record["best"]["last_step"],
        "step of the weights": step,
        "minutes": record["train_seconds"] / 60,
        "valid": f"{record['best'][on_valid]:.3f}",
        "test": with_interval(read_eval(folder / evaluation, "test")["metrics"]["accuracy"]),
        "right": [row["correct"] for row in read_predictions(folder / evaluation, "test")],
    }


def completions(stage: Path) -> int:
    """Return how many completions a training has drawn; its log has means over the steps since the row before."""
    trainer = load_recipe(str(stage / "recipe.yaml")).stages["grpo"].trainer
    size, groups, before = trainer["num_generations"], 0, 0
    for row in map(json.loads, (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        if "reward" in row:
            usual = trainer["per_device_train_batch_size"] / size
            groups += (row["step"] - before) * row.get("groups_drawn", usual)
            before = row["step"]
    return round(groups * size)


def spread(right: np.ndarray) -> list[str]:
    """Return the mean over the seeds of an arm's accuracy, and the standard deviation of one seed."""
    values = right.mean(axis=1)
    return [f"{values.mean():.3f}", f"{values.std(ddof=1):.3f}" if len(values) > 1 else "-"]


def change(a: np.ndarray, b: np.ndarray) -> list[str]:
    """Return the change of accuracy from one arm to another with its 95 % interval, and p; seeds and rows are drawn again.

    Args:
        a, b: shape (seeds, test rows), whether the answer is right.
    """
    figure = paired_statistics(row_change(a.astype(float), b.astype(float), same_seeds=True), a.shape[1])[0]
    return [f"{figure['difference']:+.3f} [{figure['low']:+.3f}, {figure['high']:+.3f}]", f"{figure['p']:.3f}"]


if __name__ == "__main__":
    main()
