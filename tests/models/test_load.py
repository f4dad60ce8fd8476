"""Loading models: full, quantised, adapters, from scratch; their chat templates; and an error that helps for everything else."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
import trl
from datasets import Dataset
from huggingface_hub.errors import RemoteEntryNotFoundError
from peft import PeftModel, PeftModelForSeq2SeqLM, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Punctuation
from tokenizers.processors import TemplateProcessing
from transformers import (
    AddedToken,
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    T5ForConditionalGeneration,
    T5Tokenizer,
)
from trl import SFTConfig, SFTTrainer

from empathy_trl.chat.local import KeyValueCache, LocalModel
from empathy_trl.chat.reply import Sampling
from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics import perplexity
from empathy_trl.models import hub_files as hub
from empathy_trl.models import load as models
from empathy_trl.models.batching import check_prompts, prompt_tokens, render
from empathy_trl.models.load import (
    check_tags,
    check_template_arguments,
    generator_class,
    load_model,
    load_or_build,
    lora_config,
    pin_template_arguments,
    set_template,
)
from empathy_trl.models.tiny import build_model, build_tokenizer
from empathy_trl.tags import CHAT_TEMPLATES
from empathy_trl.trainers.grpo import EmpathyGRPOConfig, EmpathyGRPOTrainer
from empathy_trl.trainers.policy_scorer import PolicyScorer
from tests.trainers.tiny_t5 import tiny_t5

TEXTS = ["My dog died and I cried all night.", "<reasoning>My dog died.</reasoning><answer>sad</answer>"] * 5
TAGS = ["reasoning", "answer"]
IDS = torch.tensor([[5, 60, 61, 62]])


def recipe_model(name=None, **changes):
    """A stand-in for `recipe.Model`."""
    settings = dict.fromkeys(
        ("revision", "attn_implementation", "lora", "from_scratch", "chat_template", "chat_template_kwargs")
    )
    settings |= {"name_or_path": None if name is None else str(name), "dtype": "auto", "load_in_4bit": False}
    return SimpleNamespace(**settings | changes)


def sizes(architecture="qwen2"):
    shape = {"hidden_size": 64, "layers": 2, "heads": 4, "vocab_size": 300, "max_length": 64}
    return SimpleNamespace(architecture=architecture, **shape)


def lora(**changes):
    return SimpleNamespace(**{"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", **changes})


def save_tiny(folder, architecture="qwen2"):
    """Save a small model with its tokenizer; return the tokenizer."""
    tokenizer = build_tokenizer(TEXTS, 300, TAGS)
    for part in (build_model(sizes(architecture), tokenizer, seed=0), tokenizer):
        part.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A folder with a small Qwen2, wide enough to be quantised, and its tokenizer."""
    folder = tmp_path_factory.mktemp("full")
    save_tiny(folder)
    return folder


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
        assert models.teaches_no_end(loaded) == (turn == "{{ turn.content }}")
        assert (f"completions also end with {turn_end}" in caplog.text) == isinstance(ends, list)


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
        "classifier.py": 2,
        "adapters.py": 1,
        "critic.py": 3,
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
    with pytest.raises(UserError, match="no such folder; expected the folder of a model, or a Hub id"):
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


SYSTEM = "Instruction: given a dialog context, you need to response empathically."
GROUNDED = f"{SYSTEM}\n[KNOWLEDGE] Paris is in France.\nIt is large."


def conversation(system, *turns):
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return ([{"role": "system", "content": system}] if system is not None else []) + messages


@pytest.mark.parametrize(
    "messages, expected",
    [
        (conversation(SYSTEM, "Hi!"), f"{SYSTEM} [CONTEXT] Hi!<eos>"),
        (conversation(SYSTEM, "Hi!", "Hello.", "I am sad."), f"{SYSTEM} [CONTEXT] Hi! EOS Hello. EOS I am sad.<eos>"),
        (conversation(GROUNDED, "Hi!", "Yes?", "Where?"),
         f"{SYSTEM} [CONTEXT] Hi! EOS Yes? EOS Where? [KNOWLEDGE] Paris is in France.\nIt is large.<eos>"),
        (conversation("[KNOWLEDGE] Paris.", "Where?"), "[CONTEXT] Where? [KNOWLEDGE] Paris.<eos>"),
        (conversation(None, "Hi!"), "[CONTEXT] Hi!<eos>"),
        (conversation(f"  {SYSTEM}\n", "  Hi! \n"), f"{SYSTEM} [CONTEXT] Hi!<eos>"),
        (conversation("Say [KNOWLEDGE] aloud.", "Hi!"), "Say [KNOWLEDGE] aloud. [CONTEXT] Hi!<eos>"),
    ],
    ids=["one turn", "three turns", "knowledge", "knowledge alone", "no instruction", "white space", "no line of its own"],
)  # fmt: skip
@pytest.mark.parametrize("generation", [True, False])
def test_godel(messages, expected, generation):
    _, tokenizer = tiny_t5()
    set_template(tokenizer, "godel", "t5", is_decoder=False)
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False)
    assert rendered == expected
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=generation, return_dict=True)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1]


def test_t5s_own_tokenizer_which_appends_the_end_itself_gets_it_once():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in "▁[]!NOTEXCHSYaiouy.")]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    assert tokenizer("Hi!")["input_ids"][-1] == tokenizer.eos_token_id and tokenizer.chat_template is None
    set_template(tokenizer, "godel", "t5", is_decoder=False)
    messages = conversation("Say.", "Hi!", "You.", "Hi.")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == "Say. [CONTEXT] Hi! EOS You. EOS Hi.</s>"


def test_the_template_is_saved_with_the_tokenizer(tmp_path):
    _, tokenizer = tiny_t5()
    set_template(tokenizer, "godel", "t5", is_decoder=False)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == CHAT_TEMPLATES["godel"]


CHAT = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture
def base(tmp_path):
    """Make a folder with a base model, which has no chat template; its end token ends texts."""

    def make(*tokens):
        tokenizer = build_tokenizer(TEXTS, 300, TAGS)
        tokenizer.chat_template = None
        tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
        for part in (build_model(sizes(), tokenizer, seed=0), tokenizer):
            part.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return make


@pytest.mark.parametrize("tokens", [(), ("<|im_start|>", "<|im_end|>")])
def test_chatml_ends_turns_with_a_token_that_a_base_model_has(base, tmp_path, tokens):
    folder = base(*tokens)
    with pytest.raises(UserError, match="no chat template .*model.chat_template: chatml for a base model, godel"):
        models.load_model(folder)
    model, tokenizer = models.load_model(folder, chat_template="chatml")
    end = "<|im_end|>" if tokens else tokenizer.eos_token
    expected = f"<|im_start|>user\nHi!{end}\n<|im_start|>assistant\nHello.{end}\n"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == expected
    ids = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert tokenizer.decode(ids) == f"<|im_start|>user\nHi!{end}\n<|im_start|>assistant\n"
    ends = model.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids(end) in (ends if isinstance(ends, list) else [ends])
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "saved")
    again, saved = models.load_model(tmp_path / "saved")
    assert saved.apply_chat_template(CHAT, tokenize=False) == expected
    assert again.generation_config.eos_token_id == ends


def test_chatml_begins_with_the_token_that_begins_the_models_texts(base):
    _, tokenizer = models.load_model(base(), chat_template="chatml")
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    pair = ("<s>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[pair])
    set_template(tokenizer, "chatml", "m")
    assert tokenizer.apply_chat_template(CHAT, tokenize=False).startswith("<s><|im_start|>user\n")


def test_the_template_of_a_file_or_of_another_model(base, full, tmp_path):
    folder, own = base(), AutoTokenizer.from_pretrained(full).chat_template
    assert models.load_model(folder, chat_template=str(full))[1].chat_template == own
    file = tmp_path / "mine.jinja"
    file.write_text("{% for turn in messages %}{{ turn.role }}: {{ turn.content }}{{ eos_token }}{% endfor %}")
    _, tokenizer = models.load_model(folder, chat_template=str(file))
    end = tokenizer.eos_token
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == f"user: Hi!{end}assistant: Hello.{end}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for turn in messages %}\n{{ turn.content }", "mine.jinja, line 2: not a Jinja template: "),
        ("", "the template .*mine.jinja leaves out the user's message; expected a template that writes the content of each"),
        ("{% for turn in messages %}{{ turn.content }}<|eot_id|>{% endfor %}",
         "mine.jinja ends a reply with '<|eot_id|>', which contains no special token of .*expected .* ends it with <eos>"),
        (None, r"model.chat_template: no file .*mine.jinja"),
    ],
)  # fmt: skip
def test_a_template_that_is_none_or_ends_no_reply_is_refused(base, tmp_path, text, message):
    file, folder = tmp_path / "mine.jinja", base()
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        models.load_model(folder, chat_template=str(file))


def test_a_model_without_a_template_gives_none(base, full):
    folder = base()
    with pytest.raises(UserError, match="model.chat_template: .*base has no chat template itself"):
        models.load_model(full, chat_template=str(folder))


# Chat templates that do not take every conversation

NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATING = (
    "{% for turn in messages %}{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
ALTERNATING_BEHIND_SYSTEM = (
    "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
    + ALTERNATING.replace("in messages", "in turns")
)
LOSES_SYSTEM = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
BODY = "{% for turn in messages %}{{ turn.role[0] }}:{{ turn.content }};{% endfor %}"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("refuses", "roles", "rendered"),
    [
        ("", "system system user user", "s:0;s:1;u:2;u:3;"),
        (NO_SYSTEM, "user user assistant", "u:0;u:1;a:2;"),
        (NO_SYSTEM, "system user assistant user", "u:0\n\n1;a:2;u:3;"),
        (NO_SYSTEM, "system assistant user", "u:0;a:1;u:2;"),
        (LOSES_SYSTEM, "system user", "u:0\n\n1;"),
        (NO_SYSTEM + ALTERNATING, "system user user", "u:0\n\n1\n\n2;"),
        (NO_SYSTEM + ALTERNATING, "user assistant assistant user", "u:0;a:1\n\n2;u:3;"),
        (ALTERNATING_BEHIND_SYSTEM, "system user user", "s:0;u:1\n\n2;"),
        (ALTERNATING_BEHIND_SYSTEM, "system assistant user", "u:0;a:1;u:2;"),
    ],
)
def test_a_template_gets_the_conversation_as_it_takes_it(refuses, roles, rendered):
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.chat_template = refuses + BODY
    set_template(tokenizer, None, "m")
    turns = [{"role": role, "content": str(number)} for number, role in enumerate(roles.split())]
    assert render(tokenizer, turns, tokenize=False) == rendered
    assert tokenizer.chat_template.endswith(refuses + BODY)
    once = tokenizer.chat_template
    set_template(tokenizer, None, "m")
    assert tokenizer.chat_template == once, "a guarded template needs no other guard"


@pytest.mark.faults
def test_a_template_that_takes_everything_stays_as_it_is_and_so_does_its_white_space():
    tokenizer = build_tokenizer(TEXTS, 300)
    user = [{"role": "user", "content": "Hi"}]
    for refuses, same in (("", True), (NO_SYSTEM, False)):
        tokenizer.chat_template = f"\n  {{% if true %}}\n{refuses}\n {BODY} {{% endif %}}\n"
        plain, own = tokenizer.apply_chat_template(user, tokenize=False), tokenizer.chat_template
        set_template(tokenizer, None, "m")
        assert (tokenizer.chat_template == own) == same
        assert tokenizer.apply_chat_template(user, tokenize=False) == plain
    tokenizer.chat_template = {"default": NO_SYSTEM + BODY, "tool_use": BODY}
    set_template(tokenizer, None, "m")
    assert tokenizer.chat_template["default"] != NO_SYSTEM + BODY and tokenizer.chat_template["tool_use"] == BODY


@pytest.mark.faults
def test_what_no_guard_can_mend_names_the_tokenizer_the_roles_and_the_rule():
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.name_or_path, tokenizer.chat_template = "me/strict", ALTERNATING + BODY
    set_template(tokenizer, None, "me/strict")
    good, bad = ([{"role": role, "content": "a"} for role in roles] for roles in (["user"], ["assistant", "user"]))
    message = r"me/strict: its chat template refuses the messages \(assistant, user\): roles must alternate"
    for ask in (prompt_tokens, check_prompts):
        with pytest.raises(UserError, match=message):
            ask(tokenizer, [good, good, bad])
    check_prompts(tokenizer, [good])


TRLS_TEMPLATES = ("qwen3", "qwen3_5_think", "qwen3_5_nothink", "gemma3", "llama3_2", "qwen2_5")
NO_THOUGHTS = {"enable_thinking": False}


def of_trl(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        (NO_SYSTEM + ALTERNATING + BODY, None),
        *((of_trl(name), NO_THOUGHTS if name.startswith("qwen3") else None) for name in TRLS_TEMPLATES),
    ],
    ids=["strict", *TRLS_TEMPLATES],
)
def test_training_evaluation_chat_and_scorer_ask_the_same(tmp_path, template, arguments):
    save_tiny(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    model, tokenizer = load_or_build(recipe_model(tmp_path, chat_template_kwargs=arguments), seed=0)
    prompt = conversation("Be kind.", "Hi!", "You.", "My dog died.")
    completion = [{"role": "assistant", "content": "I cried."}]
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False, **arguments or {})
    if template.startswith(NO_SYSTEM):
        assert text == "u:Be kind.\n\nHi!;a:You.;u:My dog died.;"
    settings = {"report_to": "none", "use_cpu": True, "bf16": False, "per_device_train_batch_size": 2}
    rows = Dataset.from_list([{"prompt": prompt, "completion": completion}] * 2)
    sft = SFTTrainer(model, SFTConfig(tmp_path / "sft", **settings), train_dataset=rows, processing_class=tokenizer)
    assert re.match(re.escape(text) + r"\s*(a:)?I cried\.", tokenizer.decode(sft.train_dataset[0]["input_ids"]))
    plain = AutoTokenizer.from_pretrained(tmp_path, padding_side="left")  # as TRL itself loads it
    plain.chat_template = template
    pin_template_arguments(plain, arguments)
    grpo = EmpathyGRPOTrainer(
        model,
        lambda completions, **_: [0.0] * len(completions),
        EmpathyGRPOConfig(tmp_path / "grpo", num_generations=2, **settings),
        rows,
        processing_class=plain,
    )
    asked = {
        "rollout": grpo._tokenize_prompts([prompt])[0][0],
        "evaluation": prompt_tokens(tokenizer, [prompt])[0],
        "chat": LocalModel(model, tokenizer, Sampling())._encode(prompt, KeyValueCache())[1],
        "scorer": PolicyScorer(lambda: model, tokenizer, 1)._context(prompt, "")[0],
        "perplexity": perplexity._encoded(model, tokenizer, [prompt], ["I cried."])[0][0],
    }
    sft.save_model(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")  # as a user of the model card does
    asked["card"] = saved.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert {name: tokenizer.decode(ids) for name, ids in asked.items()} == dict.fromkeys(asked, text)


@pytest.mark.faults
def test_arguments_of_a_template_hold_wherever_it_is_rendered():
    tokenizer, user = build_tokenizer(TEXTS, 300), conversation(None, "Hi!")
    tokenizer.chat_template = "{{ mood }}{{ thinks is defined and thinks }}"
    for arguments in (None, {}, {"thinks": True, "mood": "calm"}, {"thinks": True, "mood": "calm"}, {"thinks": False}):
        pin_template_arguments(tokenizer, arguments)
    assert render(tokenizer, user, tokenize=False) == "calmFalse"
    assert render(tokenizer, user, tokenize=False, thinks=True) == "calmTrue"
    check_template_arguments(tokenizer, {"thinks": True, "mood": "calm"})
    with pytest.raises(UserError, match="kwargs.think: has no effect, .*does not read it; did you mean thinks"):
        check_template_arguments(tokenizer, {"think": True})
    tokenizer.chat_template = BODY
    pin_template_arguments(tokenizer, {"think": True})
    with pytest.raises(UserError, match="kwargs.think: has no effect, .* does not read it and has no arguments"):
        check_template_arguments(tokenizer, {"think": True})


@pytest.mark.faults
def test_what_is_pinned_last_holds_and_all_arguments_stay():
    tokenizer, user = build_tokenizer(TEXTS, 300), conversation(None, "Hi!")
    tokenizer.chat_template = "{{ mood }}{{ thinks is defined and thinks }}"
    for thinks in (True, False, True):
        pin_template_arguments(tokenizer, {"thinks": thinks, "mood": None})
    assert render(tokenizer, user, tokenize=False) == "NoneTrue"
    assert tokenizer.chat_template.count("set thinks") == 2, "one line for each value, however often it is pinned"


@pytest.mark.faults
def test_a_tag_that_the_vocabulary_cannot_write_is_refused_until_it_is_a_token():
    words = Tokenizer(WordLevel({"<unk>": 0, "answer": 1}, unk_token="<unk>"))  # like T5's, without <
    words.pre_tokenizer = Punctuation()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    with pytest.raises(UserError, match="rewards.format: the tag <answer> cannot be written .* makes 'answer' of it"):
        check_tags({"length": [], "format": ["answer"]}, tokenizer)
    check_tags({"length": ["answer"]}, tokenizer, optional=True)
    tokenizer.add_tokens(["<answer>", "</answer>"])
    check_tags({"format": ["answer"]}, tokenizer)


@pytest.mark.faults
def test_a_mark_that_decoding_removes_is_refused_until_it_is_an_ordinary_token(tmp_path):
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.add_tokens(["</think>", "<answer>"], special_tokens=True)
    with pytest.raises(UserError, match="^m: </think> is a special token of this tokenizer.*AddedToken"):
        set_template(tokenizer, None, "m")
    with pytest.raises(UserError, match="rewards.format: the tag <answer> is a special token"):
        check_tags({"format": ["answer"]}, tokenizer)
    tokenizer.add_tokens([AddedToken("</think>", special=False)])  # as the message says
    tokenizer.save_pretrained(tmp_path)
    set_template(AutoTokenizer.from_pretrained(tmp_path), None, "m")


@pytest.mark.faults
def test_prompts_are_rendered_in_one_place():
    package = Path(models.__file__).parents[1]
    places = {path.name for path in package.rglob("*.py") if ".apply_chat_template(" in path.read_text()}
    assert places == {"batching.py", "load.py"}
