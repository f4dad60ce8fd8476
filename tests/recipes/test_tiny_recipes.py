"""Every recipe that fits a laptop trains here as it is written, only for fewer steps and fewer rows."""

import json

import pytest

from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.layers import REWARD_TASKS
from tests.recipes.scripts import ROOT, script

TINY = sorted(path.stem for path in (ROOT / "recipes").glob("*_tiny.yaml"))


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_recipe_trains_from_end_to_end(name, tmp_path):
    stages = load_recipe(name).stages
    overrides = ["--evaluation.limit", "8", "--evaluation.max_new_tokens", "8"]
    for stage in stages.values():
        # a single stage has its keys at the top level of the file
        prefix = "--trainer" if len(stages) == 1 else f"--stages.{stage.name}.trainer"
        overrides += [f"{prefix}.max_steps", "2", f"{prefix}.disable_tqdm", "true"]
        if stage.task in REWARD_TASKS:
            overrides += [f"{prefix}.max_completion_length", "8"]
        for reward, section in stage.rewards.items():
            if "min_held_out" in section.params:  # more than a model of two steps reaches
                overrides += [f"--stages.{stage.name}.rewards.{reward}.min_held_out", "0"]
    assert script("run")(["--recipe", name, "--output_dir", str(tmp_path), *overrides]) == 0
    for stage in stages:
        result = json.loads((tmp_path / stage / "eval_test.json").read_text())
        assert result["data"]["n"] == 8 and (tmp_path / stage / "model.safetensors").is_file()
        assert stage in (tmp_path / "report.md").read_text()


def test_the_recipe_with_lora_trains_a_pretrained_encoder(tmp_path):
    """wassa_reward.yaml as it is, with a small RoBERTa in place of the one on the Hub; what it saves is a whole model."""
    from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaModel

    from empathy_trl.models.classifier import build_encoder_tokenizer

    tokenizer = build_encoder_tokenizer(["I am so sorry to hear that."] * 3, 300, 64)
    RobertaModel(
        RobertaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                      max_position_embeddings=300, pad_token_id=tokenizer.pad_token_id)
    ).save_pretrained(tmp_path / "base")  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "base")
    overrides = ["--model.name_or_path", str(tmp_path / "base"), "--trainer.bf16", "false", "--trainer.max_steps", "2",
                 "--trainer.disable_tqdm", "true", "--stages.turns", "null"]  # fmt: skip
    assert script("run")(["--recipe", "wassa_reward", "--output_dir", str(tmp_path / "out"), *overrides]) == 0
    saved = tmp_path / "out" / "conversations"
    assert not (saved / "adapter_config.json").exists()
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert model.config.id2label == {0: "Emotion", 1: "EmotionalPolarity", 2: "Empathy"}
    assert not any("lora" in name for name, _ in model.named_parameters())
