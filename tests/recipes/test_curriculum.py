"""The curriculum of docs/rewards.md is a recipe that loads and trains."""

import re
from pathlib import Path

import pytest
import yaml

from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.stages import stage_runs
from empathy_trl.tasks import build_grpo

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"
TRAINER = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 8,
    "max_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "bf16": False,
    "dataloader_pin_memory": False,
    "gradient_checkpointing": False,
}


def test_the_example_trains(tiny_folder, tmp_path):
    (example,) = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        if "until" in block  # a weight that changes
    ]
    content = yaml.safe_load(example)
    content["trainer"] |= TRAINER
    content["rewards"]["length"] = {"weight": 0.5, "min": 10}  # of which even a random model earns a part
    content |= {
        "task": "grpo",
        "model": {"name_or_path": str(tiny_folder)},
        "data": {"name": "ed4", "portion": [0, 0.1]},
    }
    (tmp_path / "curriculum.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    (run,) = stage_runs(load_recipe(tmp_path / "curriculum.yaml"), tmp_path / "out").values()
    trainer = build_grpo(run)
    trainer.train()

    assert trainer.multi_objective_aggregation == "normalize_then_sum"
    rows = [row for row in trainer.state.log_history if "reward" in row]
    assert [row["reward_weight/format"] for row in rows] == pytest.approx([1.0, 0.2])
    assert [row["reward_weight/emotion_accuracy"] for row in rows] == pytest.approx([0.2, 0.2 + 0.8 * 0.5 / 0.6])
    for row, weights in zip(rows, [(1.0, 0.2, 0.2, 0.5), (0.2, 0.2 + 0.8 * 0.5 / 0.6, 0.2, 0.5)], strict=True):
        means = [row[f"rewards/{name}/mean"] for name in content["rewards"]]
        assert row["reward"] == pytest.approx(sum(weight * mean for weight, mean in zip(weights, means, strict=True)))
    assert any(row["rewards/length/std"] > 0 and row["grad_norm"] > 0 for row in rows)
