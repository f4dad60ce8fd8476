"""What a training run shows and leaves behind for people: a progress bar, metrics.jsonl, curves, samples.md.

The callbacks write only on the main process and survive a resume: rows of steps that are trained again are replaced.
"""

import json
import math
from pathlib import Path

from transformers import ProgressCallback, TrainerCallback

from empathy_trl.files import read_rows, write_rows, write_text
from empathy_trl.pictures import pyplot, save, smooth

METRICS_FILE = "metrics.jsonl"
CURVE_FILE = "reward_curve.png"
CRITIC_FILE = "critic_curves.png"
# what says whether PPO is well, one picture each
CRITIC_CURVES = {
    "explained_variance": "explained variance of the returns",
    "value_loss": "value loss",
    "kl": "KL to the reference, nats per token",
    "clip_ratio/region_mean": "share of clipped ratios",
    "completions/mean_length": "tokens per completion",
    "distinct_2": "distinct-2 of the rollout",
}
SAMPLES_FILE = "samples.jsonl"
SAMPLES_PAGE = "samples.md"


def logged_rows(path: Path) -> list[dict]:
    """Return what an earlier part of the run has logged, without a last line that a crash cut short."""
    return read_rows(path, last_may_be_cut=True) if path.is_file() else []


class MetricsLog(TrainerCallback):
    """Writes every logged row to `metrics.jsonl` and draws the learning curve at the end.

    Args:
        folder: the stage's output folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            rows = [row for row in logged_rows(self.folder / METRICS_FILE) if row["step"] <= state.global_step]
            write_rows(self.folder / METRICS_FILE, rows)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            row = {"step": state.global_step} | {name: _or_null(value) for name, value in logs.items()}
            with open(self.folder / METRICS_FILE, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            rows = logged_rows(self.folder / METRICS_FILE)
            draw_curve(rows, self.folder / CURVE_FILE, self.folder.name)
            if any("value_loss" in row for row in rows):
                draw_critic(rows, self.folder / CRITIC_FILE, self.folder.name)


def draw_curve(rows: list[dict], path: Path, title: str):
    """Draw reward (per function and total) or, where there is none, loss over the steps, and save it as `path`."""
    names = [name for name in sorted({key for row in rows for key in row}) if _is_reward(name)] or ["loss"]
    figure, axes = pyplot().subplots(figsize=(7, 4), layout="constrained")
    for name in names:
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        if points:
            label = "total (weighted)" if name == "reward" else name.removeprefix("rewards/").removesuffix("/mean")
            steps, values = zip(*points, strict=True)
            axes.plot(steps, smooth(values), label=label, linewidth=2.5 if name == "reward" else 1.5)
    axes.set(xlabel="optimizer step", ylabel="loss" if names == ["loss"] else "mean reward (smoothed)", title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    save(figure, path, dpi=120)


def draw_critic(rows: list[dict], path: Path, title: str):
    """Draw each of `CRITIC_CURVES` over the steps, and save them as one picture."""
    figure, grid = pyplot().subplots(2, 3, figsize=(11, 6), layout="constrained", sharex=True)
    for axes, (name, words) in zip(grid.flat, CRITIC_CURVES.items(), strict=True):
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        if points:
            axes.plot(*zip(*points, strict=True))
        axes.set_title(words, fontsize=10)
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("optimizer step")
    figure.suptitle(title)
    save(figure, path, dpi=120)


def _is_reward(name: str) -> bool:
    return name == "reward" or (name.startswith("rewards/") and name.endswith("/mean"))


class ConsumptionLog(TrainerCallback):
    """Notes in `run.json`, with every checkpoint, what the training has taken so far: a killed session is not lost.

    Args:
        folder: a `stages.StageFolder`.
        consumption: a `consumption.Consumption`.
    """

    def __init__(self, folder, consumption):
        self.folder, self.consumption = folder, consumption

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.folder.save(**self.consumption.so_far())


class ProgressBar(ProgressCallback):
    """transformers' progress bar with the latest figures behind it, instead of one long dictionary per logged row."""

    SHOWN = (
        ("loss", "loss"),
        ("reward", "reward"),
        ("kl", "KL"),
        ("explained_variance", "EV"),
        ("mean_token_accuracy", "token accuracy"),
    )

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None:
            figures = {
                self.SHOWN[name]: f"{float(logs[name]):.3g}" for name in self.SHOWN if logs.get(name) is not None
            }
            if figures:
                self.training_bar.set_postfix(figures)


def show_progress(trainer):
    """Give a trainer our progress bar, unless it has none (`disable_tqdm: true`)."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(ProgressBar)


class SamplePages(TrainerCallback):
    """Keeps a few prompts with completions and rewards from the start, the middle and the end of training.

    Args:
        folder: the stage's output folder.
        trainer: the GRPO trainer whose latest rollout is sampled.
        per_page: how many completions are kept each time.
    """

    def __init__(self, folder: str | Path, trainer, per_page: int = 4):
        self.folder = Path(folder)
        self.trainer = trainer
        self.per_page = per_page

    def on_step_end(self, args, state, control, **kwargs):
        moments = {state.max_steps // 2: "middle", 1: "start", state.max_steps: "end"}
        if state.is_world_process_zero and state.global_step in moments:
            rows = [row for row in logged_rows(self.folder / SAMPLES_FILE) if row["step"] < state.global_step]
            rows += self._latest(state.global_step, moments[state.global_step])
            write_rows(self.folder / SAMPLES_FILE, rows)
            write_text(self.folder / SAMPLES_PAGE, samples_page(rows))

    def _latest(self, step: int, moment: str) -> list[dict]:
        logs = self.trainer._logs
        total = len(logs["completion"])
        # evenly spaced, so that the page shows different prompts and not one group
        picks = sorted({i * total // self.per_page for i in range(min(self.per_page, total))})
        return [
            {
                "step": step,
                "moment": moment,
                "prompt": _text(logs["prompt"][i]),
                "completion": _text(logs["completion"][i]),
                "rewards": {name: _or_null(values[i]) for name, values in logs["rewards"].items()},
            }
            for i in picks
        ]


def _text(messages) -> str:
    return messages if isinstance(messages, str) else "\n".join(message["content"] for message in messages)


def samples_page(rows: list[dict]) -> str:
    """Return the Markdown page for sample rows (`step`, `moment`, `prompt`, `completion`, `rewards`)."""
    page = ["# Samples", "", "Completions of the policy while it was trained, with the reward each one earned."]
    for step in sorted({row["step"] for row in rows}):
        of_step = [row for row in rows if row["step"] == step]
        page += ["", f"## {of_step[0]['moment'].capitalize()} (step {step})"]
        for row in of_step:
            rewards = ", ".join(f"{name} {_number(value)}" for name, value in row["rewards"].items())
            page += [
                "",
                _quoted(row["prompt"]),
                "",
                "```",
                row["completion"].replace("```", "'''"),
                "```",
                "",
                f"Rewards: {rewards}",
            ]
    return "\n".join(page) + "\n"


def _or_null(value):
    """Return null for what is no number in JSON: TRL marks a reward that does not apply with nan."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    return "not applicable" if value is None else f"{value:.3f}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())
