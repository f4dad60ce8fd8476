"""What the memory of a run is predicted to be."""

from unittest.mock import Mock

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    Qwen2Config,
    RobertaConfig,
    T5Config,
)

from empathy_trl.check import trainer_options
from empathy_trl.engine import PARTS, Engine
from empathy_trl.memory import SEQ2SEQ_COPIES, Size, activations, largest_batch, training_memory
from empathy_trl.models.adapters import fuse_adapters
from empathy_trl.recipe import load_recipe
from empathy_trl.trainers.shared_prefix.packing import install

SHAPE = {"num_layers": 5, "num_decoder_layers": 5, "num_hidden_layers": 5, "num_attention_heads": 2, "num_heads": 2}
SHAPE |= {
    "hidden_size": 8,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 16,
    "intermediate_size": 16,
    "vocab_size": 100,
    "num_key_value_heads": 2,
}
KINDS = {  # task -> stage, class of the model's config, auto class
    "grpo": (("ed4_tiny", "grpo"), Qwen2Config, AutoModelForCausalLM),
    "t5": (("godel_tiny", "ppo"), T5Config, AutoModelForSeq2SeqLM),
    "classify": (("intent9_tiny", "classify"), RobertaConfig, AutoModelForSequenceClassification),
}


def planned(task, device="meta", lora=None, dtype=torch.float32, **options):
    """Return stage, options, size and batch as `training_memory` takes them, of a small model of random weights."""
    name, config, auto = KINDS[task]
    stage = load_recipe(name[0]).stages[name[1]]
    config = config(**{key: value for key, value in SHAPE.items() if task == "t5" or "d_" not in key})
    with torch.device(device):
        network = auto.from_config(config, dtype=dtype)
        network = get_peft_model(network, LoraConfig(r=2, target_modules="all-linear")) if lora else network
    numbers = [(each.numel(), each.requires_grad) for each in network.parameters()]
    total, trainable = sum(number for number, _ in numbers), sum(number for number, trained in numbers if trained)
    size = Size(config, None, "float32", total, trainable, network=network)
    usual = {"per_device_train_batch_size": 8, "rows_per_prompt": 1, "max_completion_length": 6, "max_length": 16}
    options = trainer_options(stage) | usual | options
    return stage, options, size, largest_batch(stage, options, size, prompt=10, counted=None)


def parts_of(task="grpo", engine=None, on_gpu=True, **options):
    return training_memory(*planned(task, **options), engine or Engine(), on_gpu)


def test_memory_counts_what_each_part_takes():
    _, _, size, _ = planned("grpo")
    parts = parts_of(beta=0.1, on_gpu=False)
    assert list(parts) == ["libraries", "weights", "gradients", "optimizer", "activations", "logits", "reference"]
    assert parts["weights"] == parts["gradients"] == parts["reference"] == parts["optimizer"] / 2 == 4 * size.total
    assert "libraries" not in parts_of() and "reference" not in parts_of(beta=0.0)
    half = parts_of(dtype=torch.bfloat16)
    assert half["optimizer"] == 4 * size.total and half["activations"] < parts["activations"]
    _, _, adapted, _ = planned("grpo", lora=True)
    adapter = parts_of(beta=0.1, lora=True)  # the base is the reference
    assert adapter["gradients"] == 4 * adapted.trainable and "reference" not in adapter
    more = ({"per_device_train_batch_size": 16}, {"max_completion_length": 9}, {"rows_per_prompt": 1})
    totals = [sum(parts_of(**{"rows_per_prompt": 4, **change}).values()) for change in ({}, *more)]
    assert totals[0] == min(totals) and len(set(totals)) == 4
    assert parts_of(gradient_checkpointing=True)["activations"] < parts_of()["activations"] / 2
    assert parts_of("t5")["logits"] == SEQ2SEQ_COPIES * 4 * 100 * 8 * 6


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize(
    ("task", "settings"),
    [("grpo", {}), ("grpo", {"lora": True}), ("grpo", {"rows_per_prompt": 4}), ("t5", {}), ("classify", {})],
)
def test_activations_are_what_a_forward_pass_keeps(task, settings, mixed):
    _, _, size, batch = planned(task, **settings)
    estimated, _ = activations(size.network, batch, mixed, checkpointing=False)

    _, _, real, batch = planned(task, device="cpu", **settings)
    fuse_adapters(real.network)
    if "shared_prefix" in batch.inputs:
        install(real.network)
    else:  # without padding, transformers would leave the mask out
        batch.inputs["attention_mask"] = torch.ones(8, batch.inputs["input_ids"].shape[1]).index_fill(
            1, torch.tensor(0), 0
        )
    weights, kept = {each.data_ptr() for each in (*real.network.parameters(), *real.network.buffers())}, {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        outputs = real.network.train()(**batch.inputs, use_cache=False)
    assert outputs and estimated == pytest.approx(sum(each.nbytes() for each in kept.values()), rel=0.02)


def test_a_model_that_cannot_be_tried_is_counted_by_a_rule(monkeypatch):
    monkeypatch.setattr("empathy_trl.memory._kept_by", Mock(side_effect=NotImplementedError))
    assert parts_of("classify", bf16=True)["activations"] == 34 * (8 * 10) * 8 * (5 + 0.5)


@pytest.mark.parametrize(
    ("name", "sharded", "divided"),
    [
        ("DDP", (), set()),
        ("ZeRO-2", PARTS[1:], set(PARTS[1:])),
        ("ZeRO-3", PARTS, set(PARTS)),
        ("FSDP2", PARTS, set(PARTS)),
    ],
)
def test_an_engine_divides_memory_over_its_processes(name, sharded, divided):
    two, eight = (parts_of(engine=Engine(name, processes=n, sharded=sharded), bf16=False) for n in (2, 8))
    assert {part for part in PARTS if eight[part] == two[part] / 4} == divided
    assert {part for part in two if part not in PARTS and two[part] != eight[part]} <= {"reference"}
    assert two["communication"] > 0 and parts_of(engine=Engine(name, processes=1)).get("communication") is None
