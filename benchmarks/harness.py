"""Timing and command lines of the benchmarks: two trainers alternate step by step in one process.

Timings on a busy machine drift by tens of percent within minutes. Alternating steps drift together, so the ratio of
their medians is reliable. TRL's own profiling measures the times.
"""

import argparse
import dataclasses
import functools
import gc
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import torch
from shapes import RANDOM, SHAPES, make_trainer
from tqdm import tqdm
from trl import GRPOTrainer
from trl.extras.profiling import ProfilingContext

# Sections that do not come from TRL's profiling
WHOLE, TRAINING, PEAK, POLICY, REFERENCE, TOKENIZING = (
    "whole step",
    "training pass",
    "peak memory",
    "forward and log-probabilities",
    "reference pass",
    "tokenizing prompts",
)


def one_step(trainer: GRPOTrainer) -> Callable[[], dict[str, float]]:
    """Return a function that takes one optimizer step and returns seconds by section.

    The sections are those of TRL's profiling (without the class name) and the ones above; the training pass is forward,
    loss and backward. The random state is set before every step, so that two trainers that take turns draw the same
    numbers.
    """
    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1
    batches = itertools.chain.from_iterable(itertools.repeat(trainer.get_train_dataloader()))
    seconds = defaultdict(float)
    time_method(trainer, "_tokenize_prompts", seconds, lambda: TOKENIZING)
    time_method(
        trainer,
        "_get_per_token_logps_and_entropies",
        seconds,
        lambda: POLICY if torch.is_grad_enabled() else REFERENCE,
    )

    def step() -> dict[str, float]:
        seconds.clear()
        torch.manual_seed(trainer.state.global_step)
        with trl_profiling(seconds), timed(seconds, WHOLE):
            trainer.model_wrapped.train()
            batch = next(batches)
            with timed(seconds, TRAINING):
                trainer.training_step(trainer.model_wrapped, batch, None)
            trainer._clip_grad_norm(trainer.model_wrapped)
            trainer.optimizer.step()
            trainer.model_wrapped.zero_grad()
            trainer.state.global_step += 1
        seconds[TRAINING] -= seconds["_prepare_inputs"]
        return dict(seconds)

    return step


def time_method(trainer, method: str, seconds: dict, section: Callable[[], str]):
    """Add the time spent in a trainer's method to the section that is named when it is called."""
    usual = getattr(trainer, method)

    @functools.wraps(usual)
    def with_time(*args, **kwargs):
        with timed(seconds, section()):
            return usual(*args, **kwargs)

    setattr(trainer, method, with_time)


def trl_profiling(seconds: dict) -> AbstractContextManager:
    """Add what TRL's profiling measures meanwhile to `seconds`, by section."""

    def collect(context, duration):
        seconds[context.name.split(".", 1)[1] if "Trainer." in context.name else context.name] += duration

    return patch.object(ProfilingContext, "_log_metrics", collect)


@contextmanager
def timed(seconds: dict, name: str):
    """Add the wall-clock time of what runs inside to `seconds[name]`, the work of a GPU included."""
    start = _now()
    yield
    seconds[name] += _now() - start


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turns(functions: dict[str, Callable[[], dict]], rounds: int, warm_up: int, label: str) -> dict[str, dict]:
    """Call the functions in turns and return, for each, the median of every figure after the warm-up rounds."""
    figures = {name: defaultdict(list) for name in functions}
    for index in tqdm(range(warm_up + rounds), desc=label, leave=False):
        for name, function in functions.items():
            result = function()
            if index >= warm_up:
                for key, value in result.items():
                    figures[name][key].append(value)
    return {name: {key: statistics.median(values) for key, values in rows.items()} for name, rows in figures.items()}


def compare_steps(name: str, rounds: int, **changes) -> dict[str, dict[str, float]]:
    """Return section to seconds (medians), and `PEAK` to MB, for `trl` and `ours`, which take steps of a shape in turns.

    `changes` are fields of the shape.
    """
    gc.collect()  # trainers hold on to themselves, and two of an earlier shape would not fit beside these
    shape = dataclasses.replace(SHAPES[name], **changes)
    with tempfile.TemporaryDirectory() as folder:
        steps = {who: one_step(make_trainer(shape, who == "ours", folder)) for who in ("trl", "ours")}
        figures = in_turns(steps, rounds, warm_up=2, label=name)
        return {who: figures[who] | {PEAK: peak_of(step)} for who, step in steps.items()}


def peak_of(step: Callable) -> float:
    """Return by how many MB the memory of tensors grows during a step, at most."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / 1e6


def command_line(
    description: str,
    rounds: int = 3,
    shapes: Iterable[str] = RANDOM,
    flags: dict[str, str] | None = None,
    pretrained: bool = False,
) -> argparse.Namespace:
    """Read the arguments that most benchmarks take.

    Args:
        description: of the benchmark.
        rounds, shapes: how many rounds count, and the shapes, by default.
        flags: further arguments, which are off by default, and what they do.
        pretrained: whether the shape of a pretrained model may be chosen. `changes` of the result then says, for
            `compare_steps`, which model and type of weights the user wants.
    """
    choices = list(SHAPES) if pretrained else RANDOM
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "shapes", nargs="*", metavar="SHAPE", help=f"some of {', '.join(choices)}; default {', '.join(shapes)}"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds that count (default {rounds})")
    if pretrained:
        parser.add_argument("--model", help="folder of the pretrained model, such as models/smollm2-135m")
        parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the weights (default float32)")
    for flag, words in (flags or {}).items():
        parser.add_argument(flag, action="store_true", help=words)
    args = parser.parse_args()
    args.shapes = args.shapes or list(shapes)
    if unknown := [name for name in args.shapes if name not in choices]:
        parser.error(f"unknown shape {unknown[0]} (choices: {', '.join(choices)})")
    if args.rounds < 1:
        parser.error(f"--rounds: {args.rounds} should be at least 1")
    if pretrained:
        args.changes = {key: getattr(args, key) for key in ("model", "dtype") if getattr(args, key) is not None}
        if args.model and (others := set(args.shapes) & set(RANDOM)):
            parser.error(f"--model: has no effect on {', '.join(sorted(others))}; expected the shape smollm2 alone")
    return args


def print_table(rows: Iterable[Iterable]):
    """Print rows, the first one being the header, as a Markdown table with aligned columns."""
    texts = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    texts.insert(1, ["-" * width for width in widths])
    for row in texts:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def print_ratio(ratios: Iterable[float]):
    """Print the geometric mean of ratios as the last line of a benchmark."""
    ratios = list(ratios)
    print(f"ratio: {functools.reduce(lambda left, right: left * right, ratios) ** (1 / len(ratios)):.2f}")
