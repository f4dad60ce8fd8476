"""A 4-bit model with LoRA takes a GRPO step on the CPU, by the same code path a GPU uses."""

import pytest
import torch
from trl import GRPOConfig

from empathy_trl.models.load import load_or_build, lora_config
from empathy_trl.models.tiny import build_model, build_tokenizer
from empathy_trl.recipe import Lora, Model
from tests.conftest import TEXTS
from tests.trainers.settings import ROWS, length_reward

pytest.importorskip("bitsandbytes", reason="needs the extra quantization")


def test_a_grpo_step_of_a_4_bit_model_trains_the_adapter_and_nothing_else(tmp_path):
    from types import SimpleNamespace

    from empathy_trl.trainers.grpo import EmpathyGRPOTrainer

    tokenizer = build_tokenizer(TEXTS, vocab_size=320, tags=["reasoning", "answer"])
    shape = SimpleNamespace(architecture="qwen2", hidden_size=64, layers=2, heads=2, max_length=128)
    build_model(shape, tokenizer, seed=0).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")

    section = Model(name_or_path=str(tmp_path / "base"), load_in_4bit=True, lora=Lora(r=4))
    model, tokenizer = load_or_build(section, seed=0)
    assert model.is_loaded_in_4bit
    trainer = EmpathyGRPOTrainer(
        model=model,
        processing_class=tokenizer,
        peft_config=lora_config(section.lora),
        reward_funcs=[length_reward],
        args=GRPOConfig(
            str(tmp_path / "out"),
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=6,
            max_steps=2,
            learning_rate=0.1,
            bf16=False,
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=ROWS,
    )
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name for name in changed)
    assert all(row["grad_norm"] > 0 for row in trainer.state.log_history if "grad_norm" in row)
