"""`ed4_tiny.yaml` with and without shared prompts: is it the same training, and how much sooner is it over?

python benchmarks/reward_curve.py                  # 40 steps, sampled as the recipe says; about 2 minutes on two cores
python benchmarks/reward_curve.py --greedy --steps 5

Trains the recipe's warm start once and then its GRPO stage twice. Leaves reward_curve.png in outputs/benchmarks/.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from harness import print_ratio, print_table
from transformers import TrainerCallback

from empathy_trl.io import pyplot, save
from empathy_trl.recipe import load_recipe
from empathy_trl.tasks import CONFIG_CLASSES, TASKS

PICTURE = Path("outputs/benchmarks/reward_curve.png")


class Record(TrainerCallback):
    """Keeps the reward and the completions of every step, and when each step began and ended.

    Args:
        trainer: a GRPO trainer that logs every step.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.rewards, self.completions, self.seconds = [], [], []

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.started)
        self.completions.append(list(self.trainer._logs["completion"]))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "reward" in logs:
            self.rewards.append(logs["reward"])


def train(name: str, folder: Path, changes: list[str]) -> Record | None:
    """Train one stage of ed4_tiny.yaml, with changes as on the command line."""
    stage = load_recipe("ed4_tiny.yaml", changes, CONFIG_CLASSES).stages[name]
    trainer = TASKS[stage.task].build(stage, folder / name, {"sft": folder / "sft"})
    record = None
    if name == "grpo":
        record = Record(trainer)
        trainer.add_callback(record)
    trainer.train()
    trainer.save_model(str(folder / name))
    return record


def same_until(left: list, right: list) -> int:
    """Return how many steps pass before the first difference."""
    return next((step for step, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1]), len(left))


def draw(records: dict[str, Record]):
    """Draw the reward of every step, one curve over the other."""
    figure, axes = pyplot().subplots(figsize=(7, 4), layout="constrained")
    for (name, record), style in zip(records.items(), ("-", "--"), strict=True):
        axes.plot(range(1, len(record.rewards) + 1), record.rewards, style, label=name)
    axes.set(xlabel="optimizer step", ylabel="mean reward", title="ed4_tiny.yaml, the same seed")
    axes.legend()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    save(figure, PICTURE, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps (default 40)")
    parser.add_argument("--greedy", action="store_true", help="decode greedily instead of sampling")
    args = parser.parse_args()
    changes = [f"--stages.grpo.trainer.max_steps={args.steps}", "--stages.grpo.trainer.logging_steps=1"]
    if args.greedy:
        changes.append("--stages.grpo.trainer.generation_kwargs={do_sample: false}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train("sft", folder, [])
        without, shared = (
            train("grpo", folder, [*changes, f"--stages.grpo.trainer.shared_prefix={value}"])
            for value in ("false", "true")
        )
    draw({"without": without, "shared prompts": shared})
    difference = max(abs(left - right) for left, right in zip(without.rewards, shared.rewards, strict=True))
    seconds = [statistics.median(record.seconds) for record in (without, shared)]
    rows = [["", "without", "shared prompts"], ["seconds per step (median)", *seconds]]
    rows += [[f"reward, step {step}", without.rewards[step - 1], shared.rewards[step - 1]] for step in (1, args.steps)]
    print_table(rows)
    print(f"largest difference of a step's mean reward: {difference:.2g}")
    same = same_until(without.completions, shared.completions)
    print(f"steps with the same {len(shared.completions[0])} completions: {same}")
    print(f"picture: {PICTURE}")
    print_ratio([seconds[0] / seconds[1]])


if __name__ == "__main__":
    main()
