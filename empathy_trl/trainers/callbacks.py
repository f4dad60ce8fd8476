"""Callbacks of a training run: metrics.jsonl and curves, samples.md, progress, and SIGTERM.

Only the main process writes. After a resume, the rows of repeated steps replace the old ones.
"""

import json
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import has_length
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from empathy_trl.cli import Progress
from empathy_trl.errors import Terminated
from empathy_trl.io import read_rows, write_rows, write_text

METRICS_FILE = "metrics.jsonl"
# figures in the line about a stage's progress, and their short names; the held-out figure comes after them
PROGRESS_TITLES = {
    "reward": "reward",
    "loss": "loss",
    "kl": "KL",
    "explained_variance": "EV",
    "mean_token_accuracy": "token accuracy",
}
SAMPLES_FILE = "samples.jsonl"
SAMPLES_PAGE = "samples.md"


def logged_rows(path: Path) -> list[dict]:
    """Return what an earlier part of the run has logged, without a last line that a crash cut short."""
    return read_rows(path, last_may_be_cut=True) if path.is_file() else []


class MetricsLog(TrainerCallback):
    """Writes every logged row to `metrics.jsonl`, and draws its curves at the end.

    Args:
        folder: the stage's output folder.
        draw: called at the end with the logged rows and the folder; None draws nothing.
    """

    def __init__(self, folder: str | Path, draw: Callable[[list[dict], Path], object] | None = None):
        self.folder, self.draw = Path(folder), draw

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            rows = [row for row in logged_rows(self.folder / METRICS_FILE) if row["step"] <= state.global_step]
            rows = [row for row in rows if "train_loss" not in row]  # the last row, which is logged again
            write_rows(self.folder / METRICS_FILE, rows)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            row = {"step": state.global_step} | {name: _or_null(value) for name, value in logs.items()}
            with open(self.folder / METRICS_FILE, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self.draw is not None:
            self.draw(logged_rows(self.folder / METRICS_FILE), self.folder)


class ResourceLog(TrainerCallback):
    """Notes time and energy in `run.json` with every checkpoint, so that those of a killed session are not lost.

    Args:
        folder: a `recipe.stages.StageFolder`.
        usage: a `recipe.provenance.ResourceUsage`.
    """

    def __init__(self, folder, usage):
        self.folder, self.usage = folder, usage

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.folder.save(**self.usage.so_far())


class StopAtSigterm(TrainerCallback):
    """After SIGTERM, which a scheduler sends before it kills a job: all processes complete the step, save a checkpoint and stop.

    transformers' own `enable_jit_checkpoint` does not serve here: its processes may stop at different steps, and its training
    ends as if it were complete.

    Raises:
        Terminated: from `train()`.
    """

    def __init__(self):
        self.is_received = self.is_stopping = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM in the block; only the main thread of a program can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _receive(self, number, frame):
        if not self.is_received and PartialState().is_main_process:
            os.write(
                2, b"\nSIGTERM: the run saves a checkpoint after this step and stops\n"
            )  # print may be interrupted
        self.is_received = True

    def on_step_end(self, args, state, control, **kwargs):
        # a scheduler signals every process, but not all of them in the same step
        received = reduce(torch.tensor(float(self.is_received), device=args.device))
        self.is_stopping = bool(received > 0)
        control.should_save = control.should_save or self.is_stopping

    def on_save(self, args, state, control, **kwargs):
        if self.is_stopping:
            raise Terminated(
                f"terminated after step {state.global_step} of {state.max_steps}; the same command continues from there"
            )


class StageProgress(TrainerCallback):
    """One line about a stage: its name, the step, the latest figures and the time left.

    A figure stays until it is logged again, because the held-out one comes less often than the others. Where bars are off, or
    with `disable_tqdm: true`, every logged row is a line of text instead, and so is that of a held-out evaluation unless the
    training's own row of the step follows; see `cli.Progress`.

    Args:
        title: name of the stage.
        held_out: key of the held-out figure in the logged rows, and what a reader calls it.
    """

    def __init__(self, title: str, held_out: tuple[str, str]):
        self.title, self.titles = title, PROGRESS_TITLES | dict([held_out])
        self.figures, self.line, self.evaluation = {}, None, None
        self.logged_step = None  # the last one with a row of the training

    def on_train_begin(self, args, state, control, **kwargs):
        how = {"done": state.global_step, "plain": args.disable_tqdm, "every_tenth": False}
        self.line = Progress(self.title, state.max_steps, "step", **how)

    def on_step_end(self, args, state, control, **kwargs):
        self.line.update(state.global_step - self.line.done)

    def on_log(self, args, state, control, logs=None, **kwargs):
        new = {name: logs[name] for name in self.titles if logs.get(name) is not None}
        self.figures |= new
        if "loss" in logs:
            self.logged_step = state.global_step
        is_logged_next = args.logging_strategy == "steps" and state.global_step % state.logging_steps == 0
        if is_logged_next and self.logged_step != state.global_step:
            return
        if new and self.line is not None:
            self.on_step_end(args, state, control)  # what evaluates at the end of a step may come before this callback
            hidden = {"loss"} if "reward" in self.figures else set()  # that of a policy says nothing about its progress
            shown = [name for name in self.titles if name in self.figures.keys() - hidden]
            self.line.show({self.titles[name]: f"{float(self.figures[name]):.3g}" for name in shown})

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.evaluation is None and has_length(eval_dataloader):
            plain = {"plain": args.disable_tqdm}
            self.evaluation = Progress("evaluate", len(eval_dataloader), "batch", delay=2, **plain)
        if self.evaluation is not None:
            self.evaluation.update()

    def on_evaluate(self, args, state, control, **kwargs):
        if self.evaluation is not None:
            self.evaluation.close()
        self.evaluation = None

    on_predict = on_evaluate

    def on_train_end(self, args, state, control, **kwargs):
        self.line.close()


def show_progress(trainer, title: str, held_out: tuple[str, str]):
    """Give a trainer a `StageProgress` in place of what transformers shows."""
    for shown in (ProgressCallback, PrinterCallback, DEFAULT_PROGRESS_CALLBACK):  # the last: a notebook's
        trainer.remove_callback(shown)
    trainer.add_callback(StageProgress(title, held_out))


@contextmanager
def messages_above_progress() -> Iterator[None]:
    """Print log messages and warnings above the progress bar in the block, and let no bar of transformers appear below it.

    Otherwise, they would tear the bar, and each checkpoint would leave a bar about the files that were written.
    """
    loggers = [logging.getLogger(), *filter(_prints, logging.root.manager.loggerDict.values())]
    had_bars = is_progress_bar_enabled()
    logging.captureWarnings(True)
    disable_progress_bar()
    try:
        with logging_redirect_tqdm(loggers):
            yield
    finally:
        logging.captureWarnings(False)
        if had_bars:
            enable_progress_bar()


def _prints(log) -> bool:
    """Say whether a logger has a handler of its own that prints, as that of transformers."""
    handlers = log.handlers if isinstance(log, logging.Logger) else ()  # there are placeholders, too
    return any(getattr(handler, "stream", None) in (sys.stdout, sys.stderr) for handler in handlers)


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
    """Return None for nan and infinity, which JSON lacks; TRL marks a reward that does not apply with nan."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    return "not applicable" if value is None else f"{value:.3f}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())
