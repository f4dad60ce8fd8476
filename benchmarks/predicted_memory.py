"""Peak memory of a whole run, measured, against what `--check` predicts.

python benchmarks/predicted_memory.py                       # all cases; about 15 minutes on two cores
python benchmarks/predicted_memory.py grpo_lora sft_full
python benchmarks/predicted_memory.py --model models/smollm2-135m

Every case is a recipe of a few steps that trains, saves and evaluates in a process of its own. On Linux, the kernel keeps
the largest resident memory (peak RSS) of a process; it is read and reset at every change of phase. Without `--model`, a
model of random weights in the shape of SmolLM2-135M is made, which takes the same memory. The ratio is the geometric mean
of predicted by measured.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from harness import print_ratio, print_table
from shapes import Shape, make_model

PROCESS = Path("/proc/self")
SMOLLM2 = Shape(90, 24, 8, 4, hidden=576, layers=30, heads=9, kv_heads=3, inner=1536, vocab=49152)
SCRATCH = {"architecture": "llama", "hidden_size": 768, "layers": 12, "heads": 12, "vocab_size": 2048}
T5 = {"architecture": "t5", "hidden_size": 512, "layers": 6, "heads": 8, "vocab_size": 3072}
ROBERTA = {
    "architecture": "roberta",
    "hidden_size": 768,
    "layers": 12,
    "heads": 12,
    "vocab_size": 2048,
    "max_length": 128,
}
STEPS = {"max_steps": 2, "save_steps": 2, "logging_steps": 1, "dataloader_pin_memory": False}
PLAIN = {"bf16": False, "gradient_checkpointing": False, **STEPS}
ROLLOUT = {"per_device_train_batch_size": 32, "num_generations": 8, "max_completion_length": 24, "learning_rate": 1e-6}
LENGTH = {"length": {"min": 5, "max": 10}}
LORA = {"r": 8, "alpha": 16}


def recipe(task: str, model: dict, name: str = "ed4", **trainer) -> dict:
    """Return a recipe of one stage; `trainer` are settings of its trainer beside the usual ones."""
    usual = {"sft": PLAIN | {"per_device_train_batch_size": 16}, "regress": STEPS | {"bf16": False, "max_length": 128}}
    content = {
        "task": task,
        "model": model,
        "data": {"name": name, "path": "sample", **({"split_by": "row"} if name == "wassa" else {})},
        "trainer": usual.get(task, PLAIN | ROLLOUT) | trainer,
        "evaluation": {"limit": 8, "max_new_tokens": 24, "batch_size": 8},
    }
    if task in ("grpo", "ppo"):
        content["rewards"] = LENGTH
    return content


def cases(folder: str) -> dict[str, dict]:
    """Return name -> recipe; `folder` has the model that is not made from scratch."""
    smollm2, bfloat16 = {"name_or_path": folder}, {"name_or_path": folder, "dtype": "bfloat16"}
    return {
        "grpo_full": recipe("grpo", smollm2, beta=0.01),
        "grpo_lora": recipe("grpo", smollm2 | {"lora": LORA}, beta=0.01),
        "grpo_full_not_shared": recipe("grpo", smollm2, per_device_train_batch_size=16, shared_prefix=False),
        "grpo_lora_checkpointed": recipe("grpo", smollm2 | {"lora": LORA}, gradient_checkpointing=True),
        "grpo_full_bfloat16": recipe("grpo", bfloat16, beta=0.01),
        "grpo_lora_bfloat16": recipe("grpo", bfloat16 | {"lora": LORA}, beta=0.01),
        "sft_full": recipe("sft", smollm2),
        "sft_lora": recipe("sft", smollm2 | {"lora": LORA}),
        "ppo_full": recipe("ppo", smollm2),
        "grpo_scratch_80m": recipe("grpo", {"from_scratch": SCRATCH}),
        "ppo_t5_45m": recipe("ppo", {"from_scratch": T5, "chat_template": "godel"}, "dialogues", kl_coef=0.0),
        "regress_roberta_86m": recipe("regress", {"from_scratch": ROBERTA}, "wassa", per_device_train_batch_size=16),
    }


class Phases:
    """The largest resident memory in every phase of this process, in bytes; `peaks` is phase -> bytes."""

    def __init__(self):
        self.peaks, self._open = {}, ["load"]

    def note(self):
        """Count what the process took since the last call towards the phase that is open."""
        lines = (PROCESS / "status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
        self.peaks[self._open[-1]] = max(peak, self.peaks.get(self._open[-1], 0))
        (PROCESS / "clear_refs").write_text("5")  # resets it

    @contextmanager
    def phase(self, name: str):
        self.note()
        self._open.append(name)
        yield
        self.note()
        self._open.pop()

    def time(self, owner, method: str, name):
        """Make a method a phase; `name` is its name, or returns it."""
        usual = getattr(owner, method)

        @functools.wraps(usual)
        def measured(*args, **kwargs):
            with self.phase(name() if callable(name) else name):
                return usual(*args, **kwargs)

        setattr(owner, method, measured)


def time_training(phases: Phases):
    """Make generation, scoring, forward, backward, optimizer and saving phases of every trainer of this process."""
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from transformers import Trainer
    from trl import GRPOTrainer, SFTTrainer

    phases.time(GRPOTrainer, "_generate_single_turn", "generation")
    phases.time(
        GRPOTrainer,
        "_get_per_token_logps_and_entropies",
        lambda: "forward" if torch.is_grad_enabled() else "scoring",
    )
    for name in ("_save_checkpoint", "save_model"):
        phases.time(Trainer, name, "save")
    for trainer in (Trainer, SFTTrainer, GRPOTrainer):
        phases.time(trainer, "compute_loss", "forward")
    phases.time(Accelerator, "backward", "backward")
    phases.time(AcceleratedOptimizer, "step", "optimizer")
    phases.time(Trainer, "train", "train")


def run(path: str, folder: str):
    """Run a recipe in this process, and print the peaks of its phases in bytes as the last line."""
    from empathy_trl import tasks

    phases = Phases()
    time_training(phases)
    phases.time(tasks, "evaluate_stage", "evaluation")
    tasks.run_recipe(path, output_dir=folder)
    phases.note()
    print(json.dumps(phases.peaks))


def predict(path: str) -> float:
    """Return what `--check` says that the only stage of a recipe takes, in bytes: the larger of training and evaluation."""
    from empathy_trl.check import describe
    from empathy_trl.recipe import load_recipe

    plan = describe(load_recipe(path), Path("outputs"))
    (line,) = (line for line in plan.splitlines() if line.startswith("  memory "))
    return max(float(line.split()[2]), float(line.split()[-2])) * 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(cases(''))}; default all")
    parser.add_argument("--model", help="folder of SmolLM2-135M, such as `make small-models` makes")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(*args.run)
        return
    if unknown := sorted(set(args.cases) - set(cases(""))):
        parser.error(f"unknown case {unknown[0]} (choices: {', '.join(cases(''))})")
    rows, ratios = [["case", "predicted (GB)", "measured (GB)", "ratio", "peaks by phase (GB)"]], []
    with tempfile.TemporaryDirectory() as folder:
        recipes = cases(args.model or make_smollm2(folder))
        for name in args.cases or recipes:
            path = Path(folder, f"{name}.yaml")
            path.write_text(json.dumps(recipes[name]), encoding="utf-8")
            predicted = predict(str(path))
            command = [sys.executable, __file__, "--run", str(path), str(Path(folder, name))]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr}")
            peaks = json.loads(done.stdout.splitlines()[-1])
            ratios.append(predicted / max(peaks.values()))
            listed = ", ".join(f"{phase} {peak / 1e9:.1f}" for phase, peak in peaks.items())
            rows.append([name, predicted / 1e9, max(peaks.values()) / 1e9, ratios[-1], listed])
            print(*rows[-1], file=sys.stderr, flush=True)
    print_table(rows)
    print_ratio(ratios)


def make_smollm2(folder: str) -> str:
    """Save a model in the shape of SmolLM2-135M with the tokenizer of ed4_tiny's kind, and return its folder."""
    from empathy_trl.models.tiny import build_tokenizer
    from empathy_trl.recipe import load_recipe
    from empathy_trl.recipe.stages import stage_runs

    run = stage_runs(load_recipe("ed4_tiny"), Path(folder))["sft"]
    tokenizer = build_tokenizer(*run.tokenizer_texts(run.dataset("train"))[:1], 2048)
    path = str(Path(folder, "smollm2"))
    make_model(SMOLLM2).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


if __name__ == "__main__":
    main()
