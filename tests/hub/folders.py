"""Stage folders as a run leaves them, without the run."""

import copy
import json
import shutil
from pathlib import Path

import yaml

from empathy_trl.recipe import load_recipe

STAGE = {
    "task": "grpo",
    "model": {"name_or_path": "Qwen/Qwen2.5-1.5B-Instruct", "lora": None, "from_scratch": None},
    "data": {"name": "ed4", "path": "sample", "revision": None, "portion": [0.0, 1.0]},
    "rewards": {"emotion_accuracy": {"weight": 1.0}},
    "trainer": {"learning_rate": 1e-5, "max_steps": 3},
    "evaluation": {"split": "test", "max_new_tokens": 8, "temperature": 0.0},
    "seed": 42,
}
RECORD = {
    "fingerprint": "f",
    "recipe": "mine",
    "status": "complete",
    "processes": 1,
    "seed": 42,
    "versions": {"python": "3.11.7", "trl": "1.16.0"},
    "git_commit": "0123abc",
    "train_seconds": 100.0,
    "sessions": 1,
    "hardware": {"cpu": "Some CPU", "cores": 2, "memory_gb": 8.0, "gpus": []},
    "energy": None,
}


def stage_folder(folder: Path, record: dict | None = None, earlier: dict | None = None, **stage) -> Path:
    """Write `recipe.yaml` and `run.json` into a folder; `stage` and `record` replace what stands above, section by section.

    Args:
        earlier: stages before this one, name -> section.
    """
    section = copy.deepcopy(STAGE)
    for key, value in stage.items():
        section[key] = section.get(key, {}) | value if isinstance(value, dict) and key != "rewards" else value
    recipe = {"name": "mine", "seed": 42, "stages": {**(earlier or {}), "grpo": section}}
    return write_stage(folder, recipe, "grpo", record)


def write_stage(folder: Path, recipe: dict, name: str, record: dict | None = None) -> Path:
    """Write a resolved recipe and the record of one of its stages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(RECORD | {"stage": name} | (record or {})), encoding="utf-8")
    return folder


NOT_PUBLISHED = (
    "predictions_test.jsonl",
    "training_args.bin",
    "samples.jsonl",
    "notes.txt",
    "checkpoint-2/optimizer.pt",
)


def make_stage_folder(model: Path, folder: Path) -> Path:
    """Copy a model's files to a folder and put the artefacts of ed4_tiny's stage grpo beside them."""
    shutil.copytree(model, folder)
    recipe = load_recipe("ed4_tiny", ["--hub.repo_id", "ann/elsewhere"])
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "run.json").write_text(json.dumps(RECORD | {"recipe": "ed4_tiny", "stage": "grpo"}))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "reward": 0.1}\n')
    (folder / "reward_curve.png").write_bytes(b"\x89PNG...")
    (folder / "samples.md").write_text(f"# Samples\n\nfrom {Path.home()}/corpus\n")
    accuracy = {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}}
    result = {
        "recipe": "ed4_tiny",
        "stage": "grpo",
        "model": str(folder),
        "kind": "emotions",
        "data": {"name": "ed4", "source": "sample", "revision": None, "split": "test", "n": 40, "rows": "r"},
        "metrics": accuracy,
        "baselines": {"majority": accuracy},
        "seed": 42,
        "metrics_version": 1,
        "versions": {},
    }
    (folder / "eval_test.json").write_text(json.dumps(result))
    for name in NOT_PUBLISHED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not for others")
    return folder
