"""A T5 from nothing through a recipe: a warm start, GRPO, evaluation; and what is found before anything is trained."""

import json
import re

import pytest
from transformers import AutoTokenizer

from empathy_trl.check import describe
from empathy_trl.errors import UserError
from empathy_trl.recipe import load_recipe
from empathy_trl.tags import CHAT_TEMPLATES
from tests.recipes.scripts import script
from tests.trainers.tiny_t5 import save_t5

SMALL = """
# A recipe for tests.
data: {name: wassa, path: sample, split_by: conversation}
evaluation: {batch_size: 8, max_new_tokens: 8, limit: 8}
stages:
  sft:
    task: sft
    model: {chat_template: godel, from_scratch: {architecture: t5, hidden_size: 32, layers: 1, heads: 2, vocab_size: 600}}
    trainer: {max_steps: 8, per_device_train_batch_size: 4, learning_rate: 1.0e-2, bf16: false, save_strategy: "no", logging_steps: 1, disable_tqdm: true}
  grpo:
    task: grpo
    model: {name_or_path: "stage:sft"}
    rewards: {length: {min: 2, max: 5}, format: {weight: 0.2}}
    trainer: {max_steps: 2, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 6, beta: 0.1, bf16: false, logging_steps: 1, disable_tqdm: true}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_it_runs_from_end_to_end(recipe, tmp_path):
    folder = tmp_path / "out"
    assert script("run")(["--recipe", str(recipe), "--output_dir", str(folder)]) == 0
    losses = [row["loss"] for row in rows_of(folder / "sft" / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0]
    assert all("kl" in row and "rewards/length/mean" in row for row in rows_of(folder / "grpo" / "metrics.jsonl")[:2])
    for stage in ("sft", "grpo"):
        assert json.loads((folder / stage / "eval_test.json").read_text())["data"]["n"] == 8
        assert json.loads((folder / stage / "config.json").read_text())["model_type"] == "t5"
        assert AutoTokenizer.from_pretrained(folder / stage).chat_template == CHAT_TEMPLATES["godel"]
    assert any(row["completion"] for row in rows_of(folder / "sft" / "predictions_test.jsonl"))
    assert "## Start (step 1)" in (folder / "grpo" / "samples.md").read_text()
    assert "stage:sft" in (folder / "recipe.yaml").read_text() and (folder / "report.md").is_file()


def test_the_plan_counts_a_t5(recipe, tmp_path):
    plan = describe(load_recipe(recipe), tmp_path)
    assert plan.count("48,224 of 48,224 trained") == 2 and "logits" in plan
    assert re.search(r"4 × \(\d+ prompt \+ at most 6 new\)", plan)  # each completion reads its own prompt
    assert "The recipe is sound." in plan


@pytest.mark.parametrize(
    "override, message",
    [
        (["--stages.grpo.trainer.use_vllm", "true"],
         "stages.grpo.trainer.use_vllm: true, but the model is an encoder-decoder: vLLM .*leave it out"),
        (["--stages.grpo.trainer.use_transformers_continuous_batching", "true"], "continuous_batching: true, but the model is an"),
        (["--stages.sft.trainer.packing", "true"], "stages.sft.trainer.packing: true, but the model is an encoder-decoder: its pr"),
        (["--stages.sft.trainer.completion_only_loss", "false"], "stages.sft.trainer.completion_only_loss: false, but the model"),
        (["--stages.sft.model.from_scratch.architecture", "llama"], "stages.sft.model.chat_template: 'godel' is the input of an en"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_an_encoder_decoder_is_found_before_training(recipe, override, message):
    with pytest.raises(UserError, match=message):
        load_recipe(recipe, override)


@pytest.mark.parametrize("key", ["use_vllm", "packing"])
def test_defaults_may_be_written_out(recipe, key):
    stage = "grpo" if key == "use_vllm" else "sft"
    assert load_recipe(recipe, [f"--stages.{stage}.trainer.{key}", "false"]).stages


def test_a_folder_says_what_its_model_is(recipe, tmp_path):
    folder = save_t5(tmp_path / "t5")
    override = [
        "--stages.sft",
        "null",
        "--stages.grpo.model.name_or_path",
        folder,
        "--stages.grpo.trainer.use_vllm",
        "true",
    ]
    with pytest.raises(UserError, match="trainer.use_vllm: true, but the model is an encoder-decoder"):
        load_recipe(recipe, override)
