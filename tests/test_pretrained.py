"""A pretrained model in 4 bits, with the model of `make small-models`: warm start, GRPO, and merging the adapter."""

import json

import pytest
import torch
from peft.utils.save_and_load import load_peft_weights

from empathy_trl import load_model, run_recipe
from empathy_trl.models.adapters import adapter_outputs, difference, example_inputs, merge_adapter
from empathy_trl.trainers.shared_prefix.mixin import SharedPrefixMixin

pytestmark = [pytest.mark.slow, pytest.mark.pretrained]

# on a CPU, a step takes bitsandbytes 20 to 100 seconds
RECIPE = """
model: {{name_or_path: {model}, load_in_4bit: true, lora: {{r: 4}}}}
data: {{name: ed4, path: sample}}
trainer: {{bf16: false, gradient_checkpointing: false, max_steps: 2, learning_rate: 1.0e-3, logging_steps: 1}}
evaluation: {{limit: 1, max_new_tokens: 2}}
stages:
  sft: {{task: sft, trainer: {{per_device_train_batch_size: 1}}}}
  grpo:
    task: grpo
    model: {{name_or_path: stage:sft}}
    rewards: {{letter: {{import: "tests.test_pretrained:first_letter"}}}}
    trainer:
      {{shared_prefix: true, per_device_train_batch_size: 2, num_generations: 2, max_completion_length: 4, temperature: 1.5}}
"""


def first_letter(completions, **columns):
    """Differs within most groups, unlike a reward for a format that the model has not learned."""
    return [float(ord(completion[0]["content"][:1] or " ")) for completion in completions]


@pytest.fixture(scope="module")
def trained(smollm2, tmp_path_factory):
    """Folder of a run, and what it warned of about shared prompts."""
    pytest.importorskip("bitsandbytes", reason="needs the extra quantization")
    folder, warnings = tmp_path_factory.mktemp("run"), []
    (folder / "small.yaml").write_text(RECIPE.format(model=smollm2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedPrefixMixin, "_warn_once", lambda trainer, *message: warnings.append(message))
        yield run_recipe(str(folder / "small.yaml"), output_dir=folder / "out"), warnings


def test_sft_and_grpo_train_its_adapter_and_share_prompts(trained):
    folder, warnings = trained
    assert not warnings
    steps = {
        stage: [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
        for stage in ("sft", "grpo")
    }
    assert all(row["grad_norm"] > 0 for row in steps["sft"] if "grad_norm" in row)
    assert any(row["grad_norm"] > 0 for row in steps["grpo"] if row.get("reward_std"))
    before, after = (load_peft_weights(str(folder / stage), device="cpu") for stage in ("sft", "grpo"))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)


def test_the_merged_model_is_its_adapter_on_the_unquantised_base_and_near_that_on_the_4_bit_base(trained, tmp_path):
    folder = trained[0] / "grpo"
    model, tokenizer = load_model(folder)
    inputs = example_inputs(model, tokenizer)
    quantised = adapter_outputs(load_model(folder, load_in_4bit=True)[0], inputs)
    merged, change = merge_adapter(model, inputs, name="merged", folder=tmp_path)
    print(change, difference(quantised, merged, inputs), sep="\n")
    assert change.same == 1 and change.largest < 1e-3 * change.effect
    assert difference(quantised, merged, inputs).same > 0.4  # 4 bits change a small model more than two steps do
