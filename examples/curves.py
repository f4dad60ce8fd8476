"""Draws the pictures of docs/curves.md: a healthy run, and a small run for each cause of advice with the step of the advice.

    python examples/curves.py                 # all of them
    python examples/curves.py longer clipped  # some of them

Each run trains the tiny model of `ed4_tiny` on the embedded corpus, without a GPU or a download, with settings that break it
on purpose. The runs are in outputs/curves, the pictures in docs/images.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

from empathy_trl import run_recipe
from empathy_trl.evaluation.plots import BLUE, RED, pyplot, save

RUNS = Path("outputs/curves")
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


# ---- rewards that can be hacked ----


def words(prompts, completions, **columns) -> list[float]:
    """Pay for every word: what a judge that likes long answers does."""
    return [len(text[0]["content"].split()) / 20 for text in completions]


def brevity(prompts, completions, **columns) -> list[float]:
    """Pay for short completions."""
    return [1 / (1 + len(text[0]["content"].split())) for text in completions]


def cheer(prompts, completions, **columns) -> list[float]:
    """Pay for the answer `joyful`, whatever was said: what a judge that likes cheerful answers does."""
    return [float("<answer>joyful</answer>" in text[0]["content"]) for text in completions]


# ---- the runs ----


@dataclass
class Run:
    """One picture: the settings of its run and what is drawn of it.

    Attributes:
        title: of the picture.
        figures: key of `metrics.jsonl` -> title of the panel.
        trainer: keys of `trainer` that the run changes.
        rewards: the run's rewards instead of the recipe's.
        warm_start: number of sft steps before.
        task: grpo or ppo.
        evaluation: of the recipe, `{"every": …}` for held-out figures.
    """

    title: str
    figures: dict[str, str]
    trainer: dict = field(default_factory=dict)
    rewards: dict | None = None
    warm_start: int = 150
    task: str = "grpo"
    evaluation: dict = field(default_factory=dict)


LENGTH, CLIPPED = "completions/mean_length", "completions/clipped_ratio"
ACCURACY = {"emotion_accuracy": {"weight": 1.0}, "format": {"weight": 0.3, "tags": ["reasoning", "answer"]}}
BREVITY = {"rewards": {"emotion_accuracy": {"weight": 0.2}, "brevity": {"import": "curves:brevity", "weight": 3.0}}}
FORM_ALONE = {
    "trainer": {"learning_rate": 3e-3, "temperature": 1.0},
    "rewards": {"format": {"weight": 1.0, "tags": ["reasoning", "answer"]}},
}
CURVES = {
    "healthy": Run(
        "A healthy run",
        {"reward": "reward", "entropy": "entropy", "zero_spread_share": "groups that agree", LENGTH: "tokens"},
        trainer={"max_steps": 280, "logging_steps": 10, "per_device_train_batch_size": 64},  # those of the recipe
    ),
    "clipped": Run(
        "Completions are cut off",
        {"reward": "reward", CLIPPED: "cut off", LENGTH: "tokens"},
        trainer={"max_completion_length": 9},
    ),
    "nothing_earned": Run(
        "Nothing is earned: no warm start",
        {"rewards/format/mean": "reward format", "rewards/emotion_accuracy/mean": "reward accuracy", "grad_norm": "gradient"},
        warm_start=1,
    ),
    "zero_spread": Run(
        "Groups agree",
        {"reward": "reward", "zero_spread_share": "groups that agree", "grad_norm": "gradient"},
        trainer={"temperature": 0.2},
    ),
    "longer": Run(
        "A reward that pays for length is hacked",
        {"reward": "reward", LENGTH: "tokens", "rewards/words/length_correlation": "words ~ length"},
        trainer={"max_completion_length": 48},
        rewards={**ACCURACY, "words": {"import": "curves:words", "weight": 1.0}},
    ),
    "shorter": Run(
        "A reward that pays for brevity is hacked",
        {"reward": "reward", LENGTH: "tokens", "rewards/emotion_accuracy/mean": "reward accuracy"},
        **BREVITY,
    ),
    "less_varied": Run(
        "A reward that pays for the form is hacked",
        {"reward": "reward", "distinct_2": "distinct-2", "entropy": "entropy"},
        **FORM_ALONE,
    ),
    "held_out_falls": Run(
        "The held-out figure falls",
        {"reward": "reward", "eval_accuracy": "accuracy on valid", "rewards/cheer/mean": "reward cheer"},
        trainer={"learning_rate": 1e-4},
        rewards={"format": {"weight": 0.3, "tags": ["reasoning", "answer"]}, "cheer": {"import": "curves:cheer"}},
        evaluation={"every": 8, "rows": 64},
    ),
    "kl_runs_away": Run(
        "The KL runs away",
        {"reward": "reward", "kl": "KL", "entropy": "entropy"},
        **BREVITY,
    ),
    "entropy_collapses": Run(
        "The entropy collapses",
        {"reward": "reward", "entropy": "entropy", "zero_spread_share": "groups that agree"},
        **FORM_ALONE,
    ),
    "critic_explains_nothing": Run(
        "The critic explains nothing",
        {"reward": "reward", "explained_variance": "explained variance", "value_loss": "value loss"},
        trainer={"critic_learning_rate": 0.3},
        task="ppo",
    ),
}  # fmt: skip
STEPS = 80
COMMON = {"max_steps": STEPS, "logging_steps": 2, "per_device_train_batch_size": 32, "save_strategy": "no"}


def flags(prefix: str, settings: dict) -> list[str]:
    """Return settings as overrides of a recipe."""
    return [text for key, value in settings.items() for text in (f"--{prefix}.{key}", json.dumps(value))]


def train(name: str) -> tuple[list[dict], list[dict]]:
    """Train, unless it was done before; return the logged rows and the advice."""
    run = CURVES[name]
    limit = ["--evaluation.limit", "8"]
    warm = RUNS / f"warm_start_{run.warm_start}"
    steps = ["--stages.sft.trainer.max_steps", str(run.warm_start)]
    run_recipe("ed4_tiny", ["--stages.grpo", "null", *steps, *limit], output_dir=warm)
    overrides = ["--stages.sft", "null", "--stages.grpo.model.name_or_path", str(warm / "sft"), *limit]
    if run.task == "ppo":
        overrides += ["--stages.grpo.task", "ppo", "--stages.grpo.trainer.beta", "0.05"]  # as kl_coef
    if run.rewards is not None:
        old = dict.fromkeys(("emotion_accuracy", "format", "reasoning_length"))
        overrides += flags("stages.grpo.rewards", old | run.rewards)
    overrides += flags("stages.grpo.trainer", COMMON | run.trainer) + flags("evaluation", run.evaluation)
    folder = run_recipe("ed4_tiny", overrides, output_dir=RUNS / name) / "grpo"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "run.json").read_text())["advice"]


def draw(name: str, rows: list[dict], advice: list[dict]) -> Path:
    """Draw one panel per figure, side by side, with a line at each step of advice."""
    run = CURVES[name]
    figure, panels = pyplot().subplots(1, len(run.figures), figsize=(3 * len(run.figures), 2.4), layout="constrained")
    for axes, (key, title) in zip(panels, run.figures.items(), strict=True):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        axes.plot(*zip(*points, strict=True), color=BLUE)
        if bounds := [(row["step"], row[f"{key}_low"], row[f"{key}_high"]) for row in rows if f"{key}_low" in row]:
            axes.fill_between(*zip(*bounds, strict=True), color=BLUE, alpha=0.15)
        for each in advice:
            axes.axvline(each["step"], color=RED, linestyle="-" if each["cause"] == name else ":", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.set_xlabel("optimizer step", fontsize=9)
        axes.tick_params(labelsize=8)
    moment = next((f"; advice at step {each['step']}" for each in advice if each["cause"] == name), "")
    figure.suptitle(f"{run.title}{moment}", fontsize=11)
    IMAGES.mkdir(exist_ok=True)
    return save(figure, IMAGES / f"curves_{name}.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/curves.md: those that are named, or all.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CURVES))
    names = parser.parse_args().names or CURVES
    if unknown := [name for name in names if name not in CURVES]:
        parser.error(f"unknown picture {', '.join(unknown)} (choices: {', '.join(CURVES)})")
    for name in names:
        rows, advice = train(name)
        path = draw(name, rows, advice)
        print(f"{name}: {path}")
        for each in advice:
            print(f"    step {each['step']} of {rows[-1]['step']}, {each['cause']}: {each['message']}")


if __name__ == "__main__":
    main()
