"""Seconds of a step and memory per process, when one model is trained by more processes.

python benchmarks/processes.py                 # DDP, FSDP2, ZeRO-2 and ZeRO-3; about 4 minutes on two cores
python benchmarks/processes.py fsdp2 --steps 9
python benchmarks/processes.py --computed      # only the second table, in seconds

The first table is measured: two processes on the CPU (gloo, float32) train a Llama of 94 million weights with the batch
that one process has, started with our accelerate configs. Beside the peak of resident memory stands what `--check`
predicts. Two processes share the cores and the memory bandwidth that one has alone, so the time says what an engine
costs, and not what a second device would bring. FSDP2 is for GPUs: its processes call themselves so. ZeRO needs the extra
`deepspeed`, which compiles its optimizer at the first run. The second table is computed by the same estimate. The ratio is
the geometric mean of predicted by measured memory.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import print_ratio, print_table
from predicted_memory import Phases, time_training
from shapes import make_tokenizer

CONFIGS = Path(__file__).resolve().parents[1] / "accelerate_configs"
STEP = ("forward", "backward", "optimizer")  # the last is a part of the backward pass in DeepSpeed
ROWS = 8  # of an optimizer step, over all processes
RECIPE = {
    "task": "sft",
    "model": {
        "from_scratch": {"architecture": "llama", "hidden_size": 768, "layers": 14, "heads": 12, "vocab_size": 2048}
    },
    "data": {"name": "ed4", "path": "sample"},
    "trainer": {
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
    },
}
LARGE = {  # Llama 3.1 8B
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
LARGE_TRAINER = {"bf16": True, "gradient_checkpointing": True, "per_device_train_batch_size": 8, "num_generations": 8}


def engines(processes: int) -> dict:
    """Return config name -> `Engine`."""
    from empathy_trl.engine import PARTS, Engine

    shared = {"ddp": ("DDP", ()), "fsdp2": ("FSDP2", PARTS), "zero2": ("ZeRO-2", PARTS[1:]), "zero3": ("ZeRO-3", PARTS)}
    if processes == 1:
        return {"cpu": Engine(on_cpu=True)}
    return {config: Engine(name, None, processes, sharded=parts) for config, (name, parts) in shared.items()}


def worker(path: str, folder: str):
    """Train in this process as the launcher's environment says, and write seconds and bytes into a file for each rank."""
    import torch
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType
    from transformers import Trainer

    from empathy_trl import tasks
    from empathy_trl.engine import Engine

    usual, step, seconds, phases = AcceleratorState.__init__, Trainer.training_step, [], Phases()

    def with_fsdp(self, *args, **kwargs):
        if os.environ.get("ACCELERATE_USE_FSDP") == "true" and PartialState().distributed_type == "MULTI_CPU":
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        usual(self, *args, **kwargs)

    def timed_step(*args, **kwargs):
        seconds.append(time.perf_counter())
        return step(*args, **kwargs)

    AcceleratorState.__init__, Trainer.training_step = with_fsdp, timed_step
    Engine.missing_devices = lambda self: None
    tasks.evaluate_stage = tasks._write_report = lambda *args: None
    torch.set_num_threads(max(1, os.cpu_count() // int(os.environ.get("WORLD_SIZE", "1"))))
    time_training(phases)
    tasks.run_recipe(path, output_dir=folder)
    each = [after - before for before, after in itertools.pairwise(seconds)]
    figures = {"seconds": statistics.median(each[1:]), "bytes": max(phases.peaks.get(name, 0) for name in STEP)}
    Path(folder, f"figures.{os.environ.get('RANK', '0')}.json").write_text(json.dumps(figures))


def train(config: str, processes: int, steps: int) -> dict[str, float]:
    """Return the seconds of a step and the bytes of the process that takes most, with one of our accelerate configs."""
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder, "recipe.yaml"), Path(folder, "run")
        trainer = RECIPE["trainer"] | {"max_steps": steps, "per_device_train_batch_size": ROWS // processes}
        path.write_text(json.dumps(RECIPE | {"trainer": trainer}), encoding="utf-8")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / f"{config}.yaml"]
        command += ["--mixed_precision", "no", "--num_processes", processes, "--main_process_port", 29511]
        command += [__file__, "--worker", path, output]
        done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
        figures = [json.loads(file.read_text()) for file in output.glob("figures.*.json")]
        if done.returncode or len(figures) != processes:
            raise SystemExit(f"{config}: {done.stderr[-3000:]}")
    return {name: max(each[name] for each in figures) for name in ("seconds", "bytes")}


def memory_of(content: dict, folder: str):
    """Return a function that takes an `Engine` and rows per process and returns the parts of `memory.training_memory`."""
    from empathy_trl import check, memory
    from empathy_trl.recipe import load_recipe
    from empathy_trl.recipe.stages import stage_runs

    path = Path(folder, "predicted.yaml")
    path.write_text(json.dumps(content), encoding="utf-8")
    ((name, run),) = stage_runs(load_recipe(str(path)), Path(folder)).items()
    rows = run.local_rows()
    size, train_rows = check.model_size(run, rows, {}), run.dataset("train")
    counted, _ = check._count_lengths(run, run.trainer_config(bf16=False), train_rows, size)

    def parts(engine, per_process: int, on_gpu: bool) -> dict[str, float]:
        options = check.trainer_options(run.stage) | {"per_device_train_batch_size": per_process}
        options["rows_per_prompt"] = check._rows_per_prompt(name, options, size)
        batch = memory.largest_batch(run.stage, options, size, counted.prompt_tokens[1], counted)
        return memory.training_memory(run.stage, options, size, batch, engine, on_gpu)

    return parts


def measure(configs: list[str], steps: int) -> list[float]:
    """Print the table of what was measured, and return predicted by measured memory."""
    rows = [["engine", "processes", "s per step", "memory per process (GB)", "predicted (GB)", "ratio"]]
    with tempfile.TemporaryDirectory() as folder:
        predict = memory_of(RECIPE | {"trainer": RECIPE["trainer"] | {"max_steps": steps}}, folder)
    for processes in (1, 2):
        for config, engine in engines(processes).items():
            if config in (*configs, "cpu"):
                figures = train(config, processes, steps)
                predicted = sum(predict(engine, ROWS // processes, on_gpu=False).values())
                ratio = predicted / figures["bytes"]
                rows.append(
                    [engine.name, processes, figures["seconds"], figures["bytes"] / 1e9, predicted / 1e9, ratio]
                )
                print(*rows[-1], file=sys.stderr, flush=True)
    print_table(rows)
    return [row[-1] for row in rows[1:]]


def compute():
    """Print the table of what GPUs would take for a model of 8 billion weights."""
    from transformers import AutoConfig

    content = {
        "task": "grpo",
        "rewards": {"length": {"min": 5, "max": 50}},
        "data": RECIPE["data"],
        "trainer": LARGE_TRAINER | {"beta": 0.0},
    }
    rows = [["8B, bfloat16, GB per GPU", "engine", *(f"{processes} GPUs" for processes in (1, 2, 4, 8, 16))]]
    for title, changes in (("full", {}), ("LoRA r 16", {"lora": {"r": 16, "alpha": 32}})):
        with tempfile.TemporaryDirectory() as folder:
            AutoConfig.for_model("llama", **LARGE).save_pretrained(folder)
            make_tokenizer().save_pretrained(folder)
            predict = memory_of(content | {"model": {"name_or_path": folder} | changes}, folder)
            one = sum(predict(engines(1)["cpu"], 8, on_gpu=True).values())
            for config, engine in engines(2).items():
                totals = [sum(predict(engines(n)[config], 8, on_gpu=True).values()) for n in (2, 4, 8, 16)]
                rows.append([title, engine.name, *(f"{total / 1e9:.0f}" for total in (one, *totals))])
    print_table(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = list(engines(2))
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"some of {', '.join(choices)}; default all")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps, of which the first two do not count")
    parser.add_argument("--computed", action="store_true", help="measure nothing")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(*args.worker)
        return
    if unknown := sorted(set(args.engines) - set(choices)):
        parser.error(f"unknown engine {unknown[0]} (choices: {', '.join(choices)})")
    ratios = [] if args.computed else measure(args.engines or choices, args.steps)
    compute()
    if ratios:
        print_ratio(ratios)


if __name__ == "__main__":
    main()
