"""Merging adapters: what is merged, saved and loaded again gives the outputs of the adapter, or is refused."""

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, Gemma3Config

from empathy_trl.errors import UserError
from empathy_trl.models import adapters
from empathy_trl.models.adapters import (
    EXAMPLES,
    FusedLora,
    check_target_names,
    check_targets,
    example_inputs,
    fused_adapters,
    merge_adapter,
)
from empathy_trl.models.load import load_model
from empathy_trl.models.tiny import build_model, build_tokenizer
from tests.models.livelier import make_livelier

pytestmark = pytest.mark.faults
TOKENIZER = build_tokenizer([text for example in EXAMPLES for text in example], 300)
KINDS = {"t5": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM", 2)}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Return a function that loads a saved model of an architecture with tied weights."""
    root = tmp_path_factory.mktemp("bases")

    def load(architecture: str, dtype: torch.dtype = torch.float32):
        auto, _, factor = KINDS.get(architecture, (AutoModelForCausalLM, "", 4))
        if not (root / architecture).is_dir():
            shape = SimpleNamespace(architecture=architecture, hidden_size=64, layers=2, heads=4, max_length=64)
            model = build_model(shape, TOKENIZER, seed=0)
            make_livelier(model, factor)
            model.save_pretrained(root / architecture)
        return auto.from_pretrained(root / architecture, dtype=dtype)

    return load


def adapted(base, scale: float = 0.1, **settings):
    """Return a base with an adapter that changes its outputs."""
    kind = KINDS.get(base.config.model_type, (None, "CAUSAL_LM"))[1]
    model = get_peft_model(base, LoraConfig(**{"r": 2, "lora_alpha": 4, "task_type": kind} | settings))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * scale)
    return model


def logits(model, inputs):
    with torch.no_grad():
        return torch.cat([model.eval()(**row).logits[0].float() for row in inputs])


SETTINGS = {  # name -> architecture, settings of the adapter, whether the merged model's embeddings are tied
    "inside": ("qwen2", {"target_modules": ["q_proj"]}, True),
    "embedding": ("qwen2", {"target_modules": ["embed_tokens", "q_proj"]}, False),
    "output": ("llama", {"target_modules": ["lm_head"]}, False),
    "both": ("gemma2", {"target_modules": ["embed_tokens", "lm_head"]}, False),
    "both alike": ("qwen2", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "saved": ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    "saved both": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "saved and adapted": ("qwen2", {"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]}, False),
    "tokens": ("qwen2", {"target_modules": ["q_proj"], "trainable_token_indices": [7, 8]}, True),
    "dora": ("qwen2", {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}, False),
    "rslora": ("qwen2", {"target_modules": ["lm_head", "v_proj"], "use_rslora": True}, False),
    "bias": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}, True),
    "t5 inside": ("t5", {"target_modules": ["q"]}, True),
    "t5 shared": ("t5", {"target_modules": ["shared", "q"]}, True),  # transformers reads T5's as true, and compares
    "t5 output": ("t5", {"target_modules": ["lm_head"]}, True),
    "t5 embeddings": ("t5", {"target_modules": ["embed_tokens"]}, True),
    "t5 saved": ("t5", {"target_modules": ["q"], "modules_to_save": ["shared"]}, True),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_what_is_loaded_gives_the_outputs_of_the_adapter(bases, tmp_path, case):
    architecture, settings, tied = SETTINGS[case]
    model = adapted(bases(architecture), **settings)
    inputs = example_inputs(model, TOKENIZER)
    expected = logits(model, inputs)
    merged, difference = merge_adapter(model, inputs, name="mine", folder=tmp_path)
    loaded = type(merged).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, inputs), expected, atol=2e-2 if architecture == "t5" else 1e-3, rtol=0)
    assert difference.largest < 2e-2 and difference.same == 1 and difference.places == len(expected)
    assert loaded.config.tie_word_embeddings is tied
    if not tied:  # what other libraries go by
        assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False


def test_weights_are_rounded_once_and_the_difference_is_said(bases, tmp_path):
    model = adapted(bases("qwen2", torch.bfloat16), target_modules=["embed_tokens", "q_proj"])
    merged, difference = merge_adapter(model, example_inputs(model, TOKENIZER), name="mine", folder=tmp_path)
    assert merged.dtype == torch.bfloat16 and 0 < difference.largest < difference.effect / 5
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}
    assert str(difference).startswith(f"outputs differ by at most {difference.largest:.2g} (the adapter itself changes")


def test_several_active_adapters_are_merged_together(bases):
    model = adapted(bases("qwen2"), target_modules=["q_proj"])
    model.add_adapter("second", LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    inputs = example_inputs(model, TOKENIZER)
    expected = logits(model, inputs)
    merged, _ = merge_adapter(model, inputs, name="mine")
    torch.testing.assert_close(logits(merged, inputs), expected, atol=1e-3, rtol=0)


def test_a_merged_model_that_is_not_its_adapter_is_refused(bases, tmp_path, monkeypatch):
    settings = {"target_modules": ["embed_tokens", "q_proj"]}
    with monkeypatch.context() as patch:  # as peft merges it by itself
        patch.setattr(adapters, "_untie", lambda base: None)
        model = adapted(bases("qwen2"), **settings)
        with pytest.raises(
            UserError,
            match=r"^mine: the outputs change by up to \d\S* when the adapter is merged.*without merging.*now embed_tokens, q_proj\)$",
        ):
            merge_adapter(model, example_inputs(model, TOKENIZER), name="mine")
    model, other = adapted(bases("qwen2"), **settings), bases("qwen2")
    inputs = example_inputs(model, TOKENIZER)
    monkeypatch.setattr(type(other), "from_pretrained", lambda *_, **options: other)
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", lambda *_: None)
    with pytest.raises(
        UserError, match=r"^mine: the outputs change by up to \S+ when the merged model is saved and loaded"
    ):
        merge_adapter(model, inputs, name="mine", folder=tmp_path)
    model = adapted(other, scale=float("nan"), **settings)
    with pytest.raises(UserError, match="by up to nan"):
        merge_adapter(model, inputs, name="mine")


def test_what_cannot_be_merged_says_so(bases):
    prompts = get_peft_model(bases("qwen2"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(UserError, match="^mine: an adapter of type PROMPT_TUNING has no weights to merge"):
        merge_adapter(prompts, [], name="mine")
    with pytest.warns(UserWarning, match="has no bias"):
        model = adapted(bases("qwen2"), target_modules=["o_proj"], lora_bias=True)
    with pytest.raises(UserError, match="^mine: this adapter cannot be merged into its base: .*no bias"):
        merge_adapter(model, example_inputs(model, TOKENIZER), name="mine")
    model = adapted(bases("qwen2"), target_modules=["q_proj"])
    model.get_base_model().is_quantized = True
    with pytest.raises(UserError, match="^mine: its base is quantised.*load_in_4bit: false"):
        merge_adapter(model, [], name="mine")


@pytest.fixture(scope="module")
def saved(bases, tmp_path_factory):
    """A folder with an adapter, which has its tokenizer beside it, and the outputs."""
    folder = tmp_path_factory.mktemp("saved")
    model = adapted(bases("qwen2"), target_modules=["q_proj", "v_proj"])
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder, logits(model, example_inputs(model, TOKENIZER))


def changed(saved, folder, config=None, rename=lambda name: name):
    """Copy the adapter with another config or other names of its weights."""
    shutil.copytree(saved[0], folder, dirs_exist_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({rename(name): weight for name, weight in weights.items()}, folder / "adapter_model.safetensors")
    return folder


def test_a_sharded_training_merges_whole_weights(saved, tmp_path, sharded_loading):
    model, tokenizer = load_model(saved[0])
    _, difference = merge_adapter(model, example_inputs(model, tokenizer), name="it", folder=tmp_path)
    assert difference.effect > 0.1 and difference.largest < 1e-3 and difference.same == 1  # what is loaded again


def test_an_adapter_that_peft_would_leave_out_in_part_is_refused(saved, tmp_path):
    """peft loads all three; the first two then compute as the base does, or nearly."""
    model, tokenizer = load_model(saved[0])
    torch.testing.assert_close(logits(model, example_inputs(model, tokenizer)), saved[1])
    renamed = changed(saved, tmp_path / "a", rename=lambda name: name.replace("self_attn", "attention"))
    with pytest.raises(
        UserError, match=r"do not fit adapter_config.json or its base: 8 are missing, such as base_model"
    ):
        load_model(renamed)
    fewer = changed(saved, tmp_path / "b", {"target_modules": ["q_proj"]})
    with pytest.raises(UserError, match="4 of the adapter's 8 weights have no place"):
        load_model(fewer)
    with pytest.raises(UserError, match="4 are missing"):
        load_model(changed(saved, tmp_path / "c", {"target_modules": ["q_proj", "v_proj", "k_proj"]}))


def test_virtual_tokens_are_refused(bases, tmp_path):
    """Chat would leave them out."""
    kind = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(bases("qwen2"), kind).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match="is an adapter of type PROMPT_TUNING, which is made of virtual tokens; expected"
    ):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "settings", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"target_modules": ["lm_head"]}]
)
def test_an_adapter_with_added_tokens_brings_its_embedding_along_also_merged(bases, tmp_path, settings):
    base = bases("qwen2")
    base.resize_token_embeddings(base.config.vocab_size + 3)
    model = adapted(base, **{"target_modules": ["q_proj"]} | settings)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    TOKENIZER.save_pretrained(tmp_path / "adapter")
    loaded, tokenizer = load_model(tmp_path / "adapter")
    inputs = [*example_inputs(model, tokenizer), {"input_ids": torch.tensor([[5, base.config.vocab_size - 1]])}]
    torch.testing.assert_close(logits(loaded, inputs), logits(model, inputs))
    merged, _ = merge_adapter(loaded, inputs, name="mine", folder=tmp_path / "merged")
    assert merged.config.vocab_size == base.config.vocab_size
    torch.testing.assert_close(logits(merged, inputs), logits(model, inputs), atol=1e-3, rtol=0)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "v_projj"], r"no layer v_projj; did you mean v_proj\? \(layers: "),
        (["query", "q_proj", "key"], "no layer key, query"),
        ("q_proj", "'q_proj' is read as a regular expression.* write a list: "),
        (["q_proj", "norm"], r"\[norm, q_proj\]: Target module .*RMSNorm.* is not supported"),
        (["q_proj", "mlp.up_proj", "layers.0.self_attn.v_proj"], None),
        (r".*\.[qv]_proj", None),
        ("all-linear", None),
    ],
)  # fmt: skip
def test_names_that_are_no_layers_are_refused_although_peft_leaves_them_out(bases, targets, message):
    adapter = LoraConfig(target_modules=targets)
    with pytest.raises(UserError, match=message) if message else nullcontext():
        check_target_names(bases("qwen2"), adapter)
        check_targets(bases("qwen2").config, adapter)


@pytest.mark.parametrize(
    "targets", [["q_proj", "lm_head"], "all-linear", r".*\.q_proj", r".*vision.*\.q_proj", ["fc1"]]
)
def test_an_adapter_leaves_out_what_reads_images(targets):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=sizes | {"num_key_value_heads": 1, "head_dim": 8, "vocab_size": 300}, vision_config=sizes
    )
    adapter = LoraConfig(target_modules=targets, task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_config(config)
    adapters.exclude_images(base, adapter)
    with pytest.raises(UserError, match="target_modules") if "vision" in targets or "fc1" in targets else nullcontext():
        check_target_names(base, adapter)
        model = adapters.adapted(base, adapter)
        changed = model.base_model.targeted_module_names
        assert [name for name in changed if "language_model" not in name] == ["lm_head"] * ("lm_head" in targets)
        model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
        assert all(each.grad is not None for each in model.parameters() if each.requires_grad)


def test_layers_on_which_an_adapter_would_do_nothing_or_the_wrong_thing_are_refused(bases):
    qwen, t5 = bases("qwen2").config, bases("t5").config
    embedding = LoraConfig(target_modules=["embed_tokens", "q_proj"])
    check_targets(qwen, embedding)
    check_targets(qwen, LoraConfig(target_modules="all-linear"), use_vllm=True)
    with pytest.raises(UserError, match="target_modules: embed_tokens shares its weights.*trainer.use_vllm: false"):
        check_targets(qwen, embedding, use_vllm=True)
    check_targets(t5, embedding)
    with pytest.raises(UserError, match="target_modules: shared has no effect.*expected embed_tokens"):
        check_targets(t5, LoraConfig(target_modules=["shared", "q"]))


@pytest.mark.parametrize(
    "dtype, settings, difference",
    [
        (torch.float32, {}, 1e-5),
        (torch.bfloat16, {}, 0.05),
        (torch.float32, {"use_dora": True}, 0),  # computed by peft, as is all that is not plain LoRA
        (torch.float32, {"lora_bias": True}, 0),
    ],
)
def test_a_fused_adapter_computes_the_same_up_to_rounding(bases, dtype, settings, difference):
    model = adapted(bases("llama", dtype), target_modules="all-linear", **settings)
    inputs = example_inputs(model, TOKENIZER)
    expected = logits(model, inputs)
    with fused_adapters(model):
        assert sum(type(module) is FusedLora for module in model.modules()) == 14
        assert 0 <= (logits(model, inputs) - expected).abs().max() <= difference * expected.abs().max()
        with model.disable_adapter():
            assert not torch.equal(logits(model, inputs), expected)
    assert torch.equal(logits(model, inputs), expected)
