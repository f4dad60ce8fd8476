"""Loading models: full, quantised, adapters, from scratch; and an error that helps for everything else."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
from huggingface_hub.errors import RemoteEntryNotFoundError
from peft import PeftModel, PeftModelForSeq2SeqLM, get_peft_model
from transformers import (
    AutoConfig,
    AutoTokenizer,
    T5ForConditionalGeneration,
)

from empathy_trl.errors import UserError
from empathy_trl.models import hub_files as hub
from empathy_trl.models import load as models
from empathy_trl.models.load import check_tags, contiguous_head, generator_class, load_model, load_or_build, lora_config
from empathy_trl.models.templates import teaches_no_end
from empathy_trl.models.tiny import build_tokenizer
from empathy_trl.recipe import Model
from empathy_trl.tags import CHAT_TEMPLATES
from tests.models.small_qwen2 import TAGS, TEXTS, recipe_model, save_tiny, sizes

IDS = torch.tensor([[5, 60, 61, 62]])


def lora(**changes):
    return SimpleNamespace(**{"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", **changes})


@pytest.fixture(scope="module")
def adapter(full, tmp_path_factory):
    """A folder with a LoRA adapter of `full` that changes its output, without a tokenizer."""
    folder = tmp_path_factory.mktemp("adapter")
    model = get_peft_model(load_or_build(recipe_model(full), seed=0)[0], lora_config(lora()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    model.save_pretrained(folder)
    return folder


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


# From scratch


def test_from_scratch_takes_texts_tags_and_seed():
    config = recipe_model(from_scratch=sizes())
    model, tokenizer = load_or_build(config, seed=1, texts=iter(TEXTS), tags=TAGS)
    assert len(tokenizer("<answer>")["input_ids"]) == 1
    assert (model.dtype, tokenizer.model_max_length) == (torch.float32, 64)
    again, _ = load_or_build(config, seed=1, texts=TEXTS, tags=TAGS)
    other, _ = load_or_build(config, seed=2, texts=TEXTS, tags=TAGS)
    assert torch.equal(logits(model), logits(again))
    assert not torch.equal(logits(model), logits(other))
    settings = {"dtype": "bfloat16", "attn_implementation": "eager"}
    model, _ = load_or_build(recipe_model(from_scratch=sizes(), **settings), seed=1, texts=TEXTS)
    assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, "eager")


@pytest.mark.parametrize(
    ("changes", "texts", "message"),
    [
        ({}, None, "model.from_scratch: needs training texts"),
        ({"load_in_4bit": True}, TEXTS, "model.load_in_4bit: only a pretrained model"),
        ({"attn_implementation": "magic"}, TEXTS, "model.attn_implementation: .*magic.*eager"),
    ],
)
def test_from_scratch_errors(changes, texts, message):
    with pytest.raises(UserError, match=message):
        load_or_build(recipe_model(from_scratch=sizes(), **changes), seed=0, texts=texts)


# Full models


def test_a_local_folder(full):
    model, tokenizer = load_or_build(recipe_model(full, dtype="bfloat16", attn_implementation="eager"), seed=0)
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert tokenizer.padding_side == "left"
    assert load_or_build(recipe_model(full), seed=0)[0].dtype == torch.float32


@pytest.mark.faults
def test_generation_settings_that_could_not_be_saved_are_left_out(full, tmp_path, caplog):
    folder = shutil.copytree(full, tmp_path / "contradicting")
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_sample": False, "temperature": 0.6, "top_p": 0.9}))
    model, tokenizer = models.load_model(folder)
    model.save_pretrained(tmp_path / "saved")
    assert "generation_config.json contradicts itself (temperature, top_p)" in caplog.text
    kept = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert kept["eos_token_id"] == tokenizer.eos_token_id and "temperature" not in kept


@pytest.mark.faults
def test_completions_end_with_the_token_that_ends_a_turn(full, tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(full)
    own, turn_end = tokenizer.eos_token, tokenizer.pad_token  # any other special token
    folder = shutil.copytree(full, tmp_path / "base")
    cases = {
        own + "{{ turn.content }}" + f" {turn_end}\n": [tokenizer.eos_token_id, tokenizer.pad_token_id],
        "{{ turn.content }}" + turn_end + own: tokenizer.eos_token_id,
        "{{ turn.content }}": tokenizer.eos_token_id,
        turn_end + "{{ turn.content | upper }}": tokenizer.eos_token_id,  # the reply is not found
    }
    for turn, ends in cases.items():
        caplog.clear()
        tokenizer.chat_template = "{% for turn in messages %}" + turn + "{% endfor %}"
        tokenizer.save_pretrained(folder)
        model, loaded = models.load_model(folder)
        assert model.generation_config.eos_token_id == ends
        assert loaded.eos_token == (turn_end if isinstance(ends, list) else own)
        assert teaches_no_end(loaded) == (turn == "{{ turn.content }}")
        assert (f"completions also end with {turn_end}" in caplog.text) == isinstance(ends, list)
        loaded.save_pretrained(folder)  # as beside an adapter, whose base keeps its own settings
        assert models.load_model(folder)[0].generation_config.eos_token_id == ends
        assert caplog.text.count("completions also end with") == isinstance(ends, list)


def test_the_head_reads_no_slice_in_half_precision(full):
    model, _ = load_model(full, dtype="bfloat16")
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(args[0]))
    model(torch.ones(2, 3, dtype=torch.long), logits_to_keep=1)
    assert seen[0].is_contiguous()
    contiguous_head(model)
    assert len(model.get_output_embeddings()._forward_pre_hooks) == 1


def test_an_encoder_decoder(tmp_path):
    tokenizer = save_tiny(tmp_path, "t5")
    assert isinstance(load_or_build(recipe_model(tmp_path), seed=0)[0], T5ForConditionalGeneration)
    tokenizer.chat_template = None
    (tmp_path / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no chat template .*godel for an encoder-decoder"):
        load_or_build(recipe_model(tmp_path), seed=0)
    chosen = load_or_build(recipe_model(tmp_path, chat_template="godel"), seed=0)[1]
    assert chosen.chat_template == CHAT_TEMPLATES["godel"]


def test_a_template_of_encoder_decoders_is_refused_for_a_decoder(full):
    with pytest.raises(UserError, match="chat_template: godel is the input of an encoder-decoder, and .* is a deco"):
        load_or_build(recipe_model(full, chat_template="godel"), seed=0)


def test_an_adapter_on_an_encoder_decoder_stays_one(tmp_path):
    save_tiny(tmp_path / "base", "t5")
    base, _ = load_or_build(recipe_model(tmp_path / "base"), seed=0)
    _, kind = generator_class(base.config)
    get_peft_model(base, lora_config(lora(), kind)).save_pretrained(tmp_path / "adapter")
    model, _ = load_or_build(recipe_model(tmp_path / "adapter"), seed=0)
    assert isinstance(model, PeftModelForSeq2SeqLM) and model.config.is_encoder_decoder


def test_a_missing_pad_token_is_the_end_token(full, tmp_path):
    shutil.copytree(full, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    (tmp_path / "config.json").write_text((full / "config.json").read_text().replace('"qwen2"', '"llama"'))
    _, tokenizer = load_or_build(recipe_model(tmp_path), seed=0)
    assert tokenizer.pad_token == tokenizer.eos_token == "<eos>"


# 4 bits


def test_four_bit_lora_takes_gradients_on_the_cpu(full):
    pytest.importorskip("bitsandbytes")
    model, _ = load_or_build(recipe_model(full, load_in_4bit=True), seed=0)
    assert model.is_loaded_in_4bit
    settings = model.config.quantization_config
    assert (settings.bnb_4bit_quant_type, settings.bnb_4bit_use_double_quant) == ("nf4", True)
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16
    difference = (logits(model) - logits(load_or_build(recipe_model(full), seed=0)[0])).abs().max()
    assert 0 < difference < 1  # also the model's first forward in evaluation mode, after which it must still train

    model = get_peft_model(model, lora_config(lora()))
    model(input_ids=IDS, labels=IDS).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert gradients and all("lora_" in name for name in gradients)
    # Before the first update lora_B is zero, so lora_A has no gradient; every lora_B has one, in every layer.
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradient.abs().max() > 0 for name, gradient in gradients.items() if "lora_B" in name)


def test_without_bitsandbytes_the_extra_is_named(full, monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "empathy-trl\[quantization\]"'):
        load_or_build(recipe_model(full, load_in_4bit=True), seed=0)


# Adapters


def test_an_adapter_is_loaded_on_its_base(full, adapter):
    model, tokenizer = load_or_build(recipe_model(adapter), seed=0)
    assert isinstance(model, PeftModel)
    assert tokenizer.eos_token == "<eos>"  # of the base
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)
    plain = logits(load_or_build(recipe_model(full), seed=0)[0])
    assert not torch.allclose(logits(model), plain, atol=1e-3)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), plain)


def test_a_sharded_training_loads_whole_models_beside_its_policy(full, adapter, sharded_loading):
    for name in (full, adapter):
        model, _ = load_model(name)
        assert all(weight.any() for key, weight in model.named_parameters() if "layernorm" in key)
    if sharded_loading == "FSDP":  # the trap is real; the engine replaces these zeros
        policy, _ = load_model(full, is_trainable=True)
        assert not any(weight.any() for weight in policy.parameters())


def test_every_module_that_loads_weights_is_known():
    """A new one has to load inside `load.loading` or `load.whole_weights`, unless it loads a part of a policy."""
    loads = re.compile(r"(AutoModel\w*|PeftModel|auto|type\([\w.]+\))\.from_pretrained\(")
    sources = {
        path.name: len(loads.findall(path.read_text("utf-8")))
        for path in Path(models.__file__).parents[1].rglob("*.py")
    }
    assert {name: n for name, n in sources.items() if n} == {
        "load.py": 2,
        "classifier.py": 3,
        "adapters.py": 1,
        "critic.py": 3,
        "gguf.py": 1,
    }


def test_an_adapter_with_its_own_tokenizer(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    build_tokenizer(TEXTS, 280, TAGS).save_pretrained(tmp_path)
    assert len(load_or_build(recipe_model(tmp_path), seed=0)[1]) == 280


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"base_model_name_or_path": "/no/such/base"}, "^/no/such/base: no such folder"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ("{", "adapter_config.json is not valid JSON"),
        ("[]", r"adapter_config.json is \[\]; expected a mapping"),
    ],
)
def test_an_adapter_without_its_base(tmp_path, content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_or_build(recipe_model(tmp_path), seed=0)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS"])
def test_lora_config(task):
    settings = lora_config(lora(r=2, alpha=6, dropout=0.3, target_modules=["q_proj"]), task)
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (2, 6, 0.3)
    assert settings.target_modules == {"q_proj"}
    assert settings.task_type == task
    assert lora_config(None) is None


# Errors


@pytest.mark.parametrize(
    "name",
    ["./none", "../none", "/none", "~/none", "~nobody/none", "outputs/none", "a/b/c", "stage:sft", "not a model"],
)
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(hub, "hf_hub_download", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    with pytest.raises(UserError, match=r"no such folder; expected the folder of a model, a file \*.gguf, or a Hub id"):
        load_or_build(recipe_model(name), seed=0)


def test_a_file_is_no_folder(full):
    with pytest.raises(UserError, match=r"config\.json: is a file; expected the folder"):
        load_or_build(recipe_model(full / "config.json"), seed=0)


def test_a_folder_without_a_model_says_what_is_there(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "checkpoint-20").mkdir()
    with pytest.raises(UserError, match=r"expected adapter_config.json or config.json, found checkpoint-20, notes.txt"):
        load_or_build(recipe_model(tmp_path), seed=0)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "cannot be read: .*config.json.*not a valid JSON"),
        ("config.json", b"[]", "cannot be read: TypeError: list indices"),
        ("tokenizer.json", b"{}", "cannot be read: KeyError: 'added_tokens'"),
        ("tokenizer.json", b'{"added_tokens": [{', "cannot be read: JSONDecodeError: "),
        ("tokenizer.json", None, "cannot be read: expected tokenizer.json or tokenizer.model or .*, found chat_temp"),
        ("tokenizer_config.json", b"[]", "cannot be read: TypeError: "),
        ("chat_template.jinja", None, "the tokenizer has no chat template .*jinja.* expected an instruction-tuned"),
        ("config.json", b'{"model_type": "gpt99"}', "cannot be loaded: .*gpt99"),
        ("model.safetensors", b"\x00" * 4, "cannot be read: .*header"),
        ("model.safetensors", None, "cannot be read: .*no file named model.safetensors"),
    ],
)
def test_a_damaged_folder(full, tmp_path, file, content, message):
    shutil.copytree(full, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path.name}: {message}"):
        load_or_build(recipe_model(tmp_path), seed=0)


@pytest.mark.parametrize(
    ("changes", "four_bits", "message"),
    [
        ({"num_hidden_layers": 3}, False, r"model.layers.2.input_layernorm.weight \(missing\), .* and 9 more$"),
        ({"num_hidden_layers": 3}, True, r"model.layers.2.input_layernorm.weight \(missing\), .* and 9 more$"),
        ({"tie_word_embeddings": False}, False, r"lm_head.weight \(missing\)$"),
        ({"vocab_size": 301}, False, r"embed_tokens.weight \(\[\d+, 64\] in the file, \[301, 64\] by config.json\)$"),
    ],
)
def test_weights_that_are_not_in_the_files_are_not_made_up(full, tmp_path, changes, four_bits, message):
    if four_bits:
        pytest.importorskip("bitsandbytes")
    shutil.copytree(full, tmp_path, dirs_exist_ok=True)
    settings = json.loads((full / "config.json").read_text()) | changes
    settings["layer_types"] = ["full_attention"] * settings["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=f"{tmp_path.name}: the weights do not fit config.json: .*{message}"):
        load_or_build(recipe_model(tmp_path, load_in_4bit=four_bits), seed=0)


def test_an_adapter_without_its_kind(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    del settings["peft_type"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=f"{tmp_path.name}: cannot be read: KeyError: 'peft_type'"):
        load_or_build(recipe_model(tmp_path), seed=0)


def test_missing_flash_attention(full):
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="cannot be loaded: .*FlashAttention2"):
            load_or_build(recipe_model(full, attn_implementation="flash_attention_2"), seed=0)


def test_what_the_hub_answers_inside_transformers(monkeypatch, tmp_path):
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
    error = RemoteEntryNotFoundError("from the Hub", response=response)

    def from_pretrained(*args, **kwargs):
        raise OSError("there was an error") from error

    (tmp_path / "config.json").touch()
    monkeypatch.setattr(hub, "hf_hub_download", lambda *args, **kwargs: tmp_path / "config.json")
    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    with pytest.raises(UserError, match="^me/model@v9: .*not a model that transformers can load"):
        load_or_build(recipe_model("me/model", revision="v9"), seed=0)


def test_a_bug_is_not_hidden(monkeypatch):
    def download(*args, **kwargs):
        raise NameError("a bug")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(NameError):
        load_or_build(recipe_model("me/model"), seed=0)


# Tags


@pytest.mark.parametrize("token", ["<answer>", "</answer>"])
def test_a_special_tag_is_refused(token):
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.add_special_tokens({"extra_special_tokens": [token]})
    with pytest.raises(UserError, match=f"rewards.format: the tag {token} is a special token"):
        check_tags({"reasoning_length": ["reasoning"], "format": TAGS}, tokenizer)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lora": {}}, "float32"),  # 16 wide: bfloat16 is slower
        ({"lora": {}, "dtype": "bfloat16"}, "bfloat16"),
        ({"lora": {}, "load_in_4bit": True}, "auto"),
        ({}, "auto"),  # all weights are trained
    ],
)
def test_auto_is_the_faster_dtype_under_an_adapter(tiny_folder, settings, expected):
    section = Model(name_or_path=str(tiny_folder), **settings)
    assert models.base_dtype(section, AutoConfig.from_pretrained(tiny_folder)) == expected


@pytest.mark.parametrize(
    "supported, width, expected",
    [(True, 256, "bfloat16"), (True, 255, "float32"), (False, 256, "float32")],
)
def test_the_faster_dtype_depends_on_the_processor_and_the_width(monkeypatch, supported, width, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    assert models.faster_dtype(width) == expected
