"""Dropout is off in every place that a model keeps its probability in."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BartConfig, BartModel, Qwen2Config, Qwen2Model

from empathy_trl.trainers.critic import switch_off_dropout

SIZES = {"vocab_size": 30, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
ADAPTED = get_peft_model(
    Qwen2Model(Qwen2Config(**SIZES, num_key_value_heads=2)),
    LoraConfig(target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False),
)
MODELS = {
    "attention": Qwen2Model(Qwen2Config(**SIZES, num_key_value_heads=2, attention_dropout=0.5)),
    "an adapter": ADAPTED,
    "functions, layers and attention": BartModel(
        BartConfig(
            vocab_size=30,
            d_model=8,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=8,
            decoder_ffn_dim=8,
            dropout=0.3,
            attention_dropout=0.3,
            activation_dropout=0.3,
            encoder_layerdrop=0.5,
            decoder_layerdrop=0.5,
        )
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_model_in_training_mode_gives_the_same_twice(model):
    ids = torch.arange(5, 15)[None]
    model.train()

    def states():
        return [model(input_ids=ids).last_hidden_state for _ in range(4)]

    first, *others = states()
    assert any(not torch.equal(first, other) for other in others)
    switch_off_dropout(model)
    assert model.training
    first, *others = states()
    assert all(torch.equal(first, other) for other in others)
