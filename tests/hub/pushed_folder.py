"""A stage's folder as run.py leaves it, without the training."""

import json
import shutil
from pathlib import Path

from empathy_trl.recipe import load_recipe

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
    record = {
        "fingerprint": "f",
        "status": "complete",
        "recipe": "ed4_tiny",
        "stage": "grpo",
        "seed": 42,
        "processes": 1,
    }
    record |= {"versions": {"python": "3.11"}, "git_commit": None, "started": "2026-01-01T00:00:00+00:00"}
    (folder / "run.json").write_text(json.dumps(record | {"train_seconds": 1.0}))
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
