"""A warm start and PPO with a critic: one tiny run from end to end, on one and on two processes."""

import json
import os
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

from empathy_trl.recipe import load_recipe
from tests.recipes.scripts import ROOT, finished_run, script

SMALL = """
# A recipe for tests.
data: {name: wassa, path: sample, split_by: conversation}
evaluation: {batch_size: 8, max_new_tokens: 8, limit: 8}
stages:
  sft:
    task: sft
    model: {from_scratch: {architecture: qwen2, hidden_size: 32, layers: 1, heads: 2, vocab_size: 400}}
    trainer: {max_steps: 2, per_device_train_batch_size: 4, bf16: false, gradient_checkpointing: false, save_strategy: "no"}
  ppo:
    task: ppo
    model: {name_or_path: stage:sft}
    rewards: {distinct: {}, length: {weight: 0.5, min: 3, max: 20}}
    trainer: {max_steps: 3, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 8, logging_steps: 1,
              kl_coef: 0.1, save_steps: 1, bf16: false, gradient_checkpointing: false, critic_learning_rate: 0.01}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its recipe and its output folder."""
    return finished_run(SMALL, tmp_path_factory.mktemp("ppo"))


def test_a_run_leaves_a_policy_a_critic_and_pictures_of_both(finished):
    folder = finished[1] / "ppo"
    for name in (
        "critic/value_head.safetensors",
        "reward_curve.png",
        "critic_curves.png",
        "samples.md",
        "eval_test.json",
    ):
        assert (folder / name).is_file(), name
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["unexpected_keys"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"explained_variance", "value_loss", "policy_loss", "kl", "returns/mean", "rewards/distinct/mean"} <= set(
        rows[0]
    )


def test_the_plan_counts_a_critic_with_a_backbone(finished, capsys):
    arguments = ["--recipe", str(finished[0]), "--check", "--output_dir", "unused"]
    assert script("run")([*arguments, "--stages.ppo.trainer.critic_kind", "model"]) == 0
    plan = capsys.readouterr().out
    assert "critic     a backbone of its own, learning rate 0.01\n" in plan and "critic 0." in plan


MISTAKES = {
    "unknown stage": (["critic_name_or_path", "stage:critc"], "critic_name_or_path: unknown stage 'critc'"),
    "no head": (["critic_name_or_path", "stage:sft"], "stage sft has task sft, which leaves no head; expected .* ppo"),
    "no folder": (["critic_name_or_path", "a/b/c"], "critic_name_or_path: no folder 'a/b/c'"),
    "no critic": (
        ["critic_name_or_path", "."],
        r"critic_name_or_path: \. holds no critic \(critic_config\.json\) that a head",
    ),
    "no critic on the Hub": (["critic_name_or_path", "a/b"], "critic_name_or_path: a/b holds no critic"),
    "range": (["lam", "1.5"], "stages.ppo.trainer.lam: 1.5 should be from 0 to 1"),
    "kind": (["critic_kind", "heads"], r"critic_kind: unknown choice 'heads'; did you mean head\?"),
    "KL in the loss": (["beta", "0.3"], "beta: 0.3 puts a KL into the loss"),
}


@pytest.mark.parametrize("override, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_exit_with_2_and_say_what_to_fix(finished, override, message, capsys, tmp_path):
    import re

    key, value = override
    arguments = ["--recipe", str(finished[0]), "--check", "--output_dir", str(tmp_path)]
    assert script("run")([*arguments, f"--stages.ppo.trainer.{key}", value]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_head_on_a_quantised_policy_is_refused_by_the_check(finished, capsys):
    overrides = ["--stages.ppo.model", "{name_or_path: user/model, load_in_4bit: true, lora: {r: 4}}"]
    assert script("run")(["--recipe", str(finished[0]), "--check", *overrides]) == 2
    assert "trainer.critic_kind: a head needs a policy whose weights are not quantised" in capsys.readouterr().err


def test_a_critic_of_another_run_makes_it_another_run(finished):
    from empathy_trl.recipe.stages import fingerprint

    content = load_recipe(str(finished[0])).resolved()["stages"]["ppo"]
    content["trainer"]["critic_name_or_path"] = "stage:critic"
    assert fingerprint(content, {"critic": "a"}) != fingerprint(content, {"critic": "b"})


@pytest.mark.slow
def test_two_cpu_processes_train_alike(finished, tmp_path):
    recipe, output = finished
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(ROOT / "recipes" / "run.py")]
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    folder = tmp_path / "two"
    subprocess.run([*command, "--recipe", str(recipe), "--output_dir", str(folder)], check=True, env=environment)
    assert json.loads((folder / "ppo" / "run.json").read_text())["processes"] == 2
    one, two = (
        [json.loads(line) for line in (path / "ppo" / "metrics.jsonl").read_text().splitlines()]
        for path in (output, folder)
    )
    assert [set(row) for row in one] == [set(row) for row in two]
    assert all(row["value_loss"] > 0 for row in two[:3])
    assert (folder / "ppo" / "critic" / "value_head.safetensors").is_file()
