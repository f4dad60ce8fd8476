"""Systems with models of today, and tiny models of their families in place of these: recipes are sound, and runs train."""

from pathlib import Path

import pytest
import torch
import trl
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from empathy_trl import load_model, run_recipe
from empathy_trl.check import describe
from empathy_trl.models.adapters import example_inputs, merge_adapter
from empathy_trl.models.tiny import build_tokenizer
from empathy_trl.recipe import load_recipe
from tests.conftest import TEXTS

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "depth": 1,
    "num_heads": 2,
    "patch_size": 14,
}
TEXT = SIZES | {"num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 400}
RECURRENT = TEXT | {"layer_types": ["linear_attention", "full_attention"]}
PARTS = {
    "text_config": TEXT,
    "vision_config": SIZES | {"num_hidden_layers": 1, "image_size": 28, "out_hidden_size": 32},
}
# preset or family -> type of the model, its settings, the template in TRL, the end of a turn
FAMILIES = {
    "qwen3_4b": ("qwen3", TEXT, "qwen3_instruct_2507", "<|im_end|>"),
    "llama3_2_3b": ("llama", TEXT, "llama3_2", "<|eot_id|>"),
    "gemma3_4b": ("gemma3", PARTS, "gemma3", "<end_of_turn>"),
    "qwen3_5": ("qwen3_5", PARTS | {"text_config": RECURRENT}, "qwen3_5_nothink", "<|im_end|>"),
}
RUN = """
model: {{name_or_path: {folder}, lora: {{r: 2, target_modules: [q_proj, k_proj, down_proj]}}}}
data: {{name: ed4, path: sample}}
trainer: {{bf16: false, gradient_checkpointing: true, max_steps: 2, learning_rate: 1.0e-2, per_device_train_batch_size: 4}}
evaluation: {{limit: 2, max_new_tokens: 4}}
stages:
  sft: {{task: sft}}
  grpo:
    task: grpo
    model: {{name_or_path: stage:sft}}
    rewards: {{letter: {{import: "tests.test_pretrained:first_letter"}}}}
    trainer: {{num_generations: 2, max_completion_length: 4, temperature: 1.5, beta: 0.01, shared_prefix: {shared}}}
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Return a function that saves a tiny model of one of `FAMILIES` and returns its folder."""

    def save(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        kind, settings, template, end = FAMILIES[name]
        tokenizer = build_tokenizer(TEXTS, 320, ["reasoning", "answer"])
        tokenizer.add_tokens([AddedToken(end, special=True), AddedToken("<bos>", special=True)])
        tokenizer.eos_token, tokenizer.bos_token = end, "<bos>"
        tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
        tokens = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("pad", "bos", "eos")}
        config = AutoConfig.for_model(kind, **settings, **tokens)
        auto = AutoModelForImageTextToText if settings is not TEXT else AutoModelForCausalLM
        torch.manual_seed(0)
        auto.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize(
    ("recipe", "stage", "preset"),
    [
        ("ed4_gemma", "", "gemma3_4b"),
        ("wassa_llama", "stages.grpo.", "llama3_2_3b"),
        ("empath_qwen", "", "qwen3_4b"),
        ("ecr", "stages.sft.", "qwen3_4b"),
        ("godel", "stages.sft.", "llama3_2_3b"),
    ],
)
def test_each_system_is_sound_with_a_model_of_today(stand_in, tmp_path, recipe, stage, preset):
    flags = [f"--{stage}model.preset", preset]
    assert "\n\nThe recipe is sound." in describe(load_recipe(recipe, flags), tmp_path)
    flags += [f"--{stage}model.name_or_path", str(stand_in(preset)), "--data.path", "sample"]
    plan = describe(load_recipe(recipe, flags), tmp_path)
    assert "\n\nThe recipe is sound." in plan and " trained (" in plan


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_trains_shares_prompts_and_merges(stand_in, tmp_path, family):
    shares = family != "qwen3_5"  # which has recurrent layers
    (tmp_path / "run.yaml").write_text(RUN.format(folder=stand_in(family), shared="true" if shares else "auto"))
    folder = run_recipe(str(tmp_path / "run.yaml"), output_dir=tmp_path / "out")
    model, tokenizer = load_model(folder / "grpo")
    assert not [name for name in model.base_model.targeted_module_names if "vis" in name]
    _, difference = merge_adapter(model, example_inputs(model, tokenizer), name="merged", folder=tmp_path / "merged")
    assert difference.same == 1
