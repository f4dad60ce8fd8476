"""Attention over a packed row: which models may, and equality with the usual pass in every output and gradient."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from empathy_trl.errors import UserError
from empathy_trl.trainers.shared_prefix.packing import decide, install, pack, require_all_layers, unsupported
from tests.trainers.shared_prefix.samples import (
    BATCHES,
    CONFIGS,
    MODELS,
    RAGGED,
    SIZE,
    gradient_of,
    packed_scores,
    plain_scores,
    relative_difference,
    scoring_model,
    tiny_model,
)

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
T5_SIZES = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
UNSUPPORTED = {
    "encoder-decoder": ("t5", T5_SIZES, "eager", "an encoder-decoder"),
    "attention of its own": ("stablelm", SIZES, "sdpa", "StableLmForCausalLM does not use transformers' attention"),
    "linear layers": ("minimax", SIZES, "sdpa", "layers of type linear_attention"),
    "convolutions": ("lfm2", {**SIZES, "full_attn_idxs": [1]}, "sdpa", "layers of type conv"),
    "chunked attention": ("llama4_text", SIZES, "sdpa", "layers of type chunked_attention"),
    "flash attention": (
        "llama",
        SIZES,
        "flash_attention_2",
        "attention is flash_attention_2; load it with attn_implementation: sdpa",
    ),
}


@pytest.mark.parametrize("architecture, sizes, attention, reason", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_unsupported_models_are_told_why(architecture, sizes, attention, reason):
    config = AutoConfig.for_model(architecture, **sizes)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation="eager" if attention == "eager" else "sdpa")
    model.config._attn_implementation = attention  # the kernels of some are not installed here
    assert reason in unsupported(model)


@pytest.mark.parametrize(
    "setting, reason, shares",
    [(True, None, True), ("auto", None, True), ("auto", "no", False), (False, None, False), (False, "no", False)],
)
def test_prompts_are_shared_where_they_may_and_can_be(setting, reason, shares):
    assert decide(setting, reason, "shared_prefix") is shares


def test_a_demand_that_cannot_be_met_is_an_error():
    with pytest.raises(UserError, match="a.b: true, but prompts cannot be shared: it is big. Set auto or false"):
        decide(True, "it is big", "a.b")


@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_supported_models_stay_supported_once_prepared(name, attention):
    model = tiny_model(name, attention)
    assert unsupported(model) is None
    install(model)
    assert unsupported(model) is None


@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_preparing_a_model_changes_no_bit_of_its_usual_forward(name, attention):
    model = tiny_model(name, attention)
    inputs = {"input_ids": RAGGED.ids, "attention_mask": RAGGED.mask}
    with torch.no_grad():
        before = model(**inputs).logits
        for _ in range(2):  # the second time nothing is left to do
            install(model)
            assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_saved_model_does_not_know_of_it(tmp_path, attention):
    model = tiny_model(attention=attention)
    install(model)
    model.save_pretrained(tmp_path)
    assert "shared_prefix" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_scores_and_gradients_equal_those_of_the_usual_pass(name, attention, batch):
    model = scoring_model(name, attention)
    theirs = plain_scores(model, batch)
    ours = packed_scores(model, pack(*batch))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    their_gradient = gradient_of(model, theirs)
    assert relative_difference(gradient_of(model, ours), their_gradient) <= 1e-5


def see_the_future(layout):
    usual = layout.visible
    layout.visible = lambda sliding_window: tuple(map(torch.ones_like, usual(sliding_window)))


def see_another_prompt(layout):
    width = layout.prompt_index.shape[1]
    layout.key_index = torch.cat([layout.key_index[:, :width].roll(2, 0), layout.key_index[:, width:]], dim=1)


def see_padding(layout):
    layout.prompt_valid = torch.ones_like(layout.prompt_valid)


def see_too_far(layout):
    usual = layout.visible
    layout.visible = lambda sliding_window: usual(None)


MISTAKES = {
    "the future": (see_the_future, CONFIGS),
    "another prompt": (see_another_prompt, CONFIGS),
    "padding of a prompt": (see_padding, CONFIGS),
    "beyond the window": (see_too_far, ["gemma2", "mistral"]),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "mistake, name",
    [(mistake, name) for mistake, names in MISTAKES.values() for name in names],
    ids=[f"{what}-{name}" for what, (_, names) in MISTAKES.items() for name in names],
)
def test_a_mask_that_is_wrong_shows(mistake, name, attention):
    model, packed = scoring_model(name, attention), pack(*RAGGED)
    mistake(packed.inputs["shared_prefix"])
    with torch.no_grad():
        differences = (packed_scores(model, packed)[0] - plain_scores(model, RAGGED)[0]).abs()
    assert differences.max() > 0.01


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_gradient_checkpointing_repeats_the_same_attention(name, attention, use_reentrant):
    model, packed = scoring_model(name, attention), pack(*RAGGED)
    without = gradient_of(model, packed_scores(model, packed))
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()  # which checkpoints that are re-entrant need
    model.train()
    calls = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    gradient = gradient_of(model, packed_scores(model, packed))
    assert len(calls) == 2
    torch.testing.assert_close(gradient, without, rtol=0, atol=0)


@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_bfloat16_autocast_agrees_with_the_usual_pass(name, attention):
    model = scoring_model(name, attention)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours, theirs = packed_scores(model, pack(*RAGGED)), plain_scores(model, RAGGED)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().mean() < 0.05


# models whose layers do not hand on what they are given; how far off they would be does not matter
DEAF = {
    "arguments do not reach the attention": (
        "nemotron",
        {},
        "2 attention layers need the shared prefix, 0 received it",
    ),
    "windows do not reach the attention": (
        "phimoe",
        {"sliding_window": 40, "num_local_experts": 2},
        "do not receive the size of the sliding window",
    ),
}


@pytest.mark.parametrize("architecture, extra, message", DEAF.values(), ids=DEAF)
def test_layers_that_are_not_told_are_noticed(architecture, extra, message):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **SIZE | extra, hidden_act="silu"))
    install(model)
    packed = pack(*RAGGED)
    inputs = {name: value for name, value in packed.inputs.items() if name != "shift_labels"}
    model(**inputs)
    with pytest.raises(RuntimeError, match=message):
        require_all_layers(packed.inputs["shared_prefix"], model)


def test_layers_are_told_under_fsdp2_too_which_casts_what_it_hands_on():
    model, packed = scoring_model(), pack(*RAGGED)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh, policy = dist.init_device_mesh("cpu", (1,)), MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        for part in (*model.model.layers, model):
            fully_shard(part, mesh=mesh, mp_policy=policy)
        packed_scores(model, packed)
    finally:
        dist.destroy_process_group()
    layout = packed.inputs["shared_prefix"]
    require_all_layers(layout, model)
    assert layout.dtype == torch.bfloat16


def test_on_a_cpu_the_backward_pass_makes_the_rows_again():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 9]])
    packed = pack(ids, torch.ones_like(ids), 3)
    states = torch.randn(3, 1, 2, packed.tokens, 4, generator=torch.manual_seed(0)).bfloat16()
    exact, found = states.double().requires_grad_(), states.clone().requires_grad_()
    kept = {}
    module = SimpleNamespace(is_causal=True, training=True)
    for each in (exact, found):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (x, kept.update({x.data_ptr(): x}))[0], lambda x: x):
            out = packed.inputs["shared_prefix"].attend(sdpa_attention_forward, module, *each.unbind())
        out.double().square().sum().backward()
        assert out.dtype == each.dtype
    sizes = [each.shape for each in kept.values() if each.dtype == torch.bfloat16]
    assert sizes.count((1, 2, packed.tokens, 4)) == 3 and len(sizes) <= 4  # and the output
    assert (found.grad - exact.grad).norm() < 0.02 * exact.grad.norm()
