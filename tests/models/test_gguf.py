"""GGUF files: what is made of one, for tiny models of three families, and what is refused."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from empathy_trl import UserError, load_model, load_recipe
from empathy_trl.check import describe
from empathy_trl.models import gguf as ours
from empathy_trl.models.hub_files import check_exists, one_revision
from tests.conftest import TEXTS

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")

SPECIAL = ["<|endoftext|>", "<|begin|>", "<|im_start|>", "<|im_end|>"]
SIZE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 512}
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _split(pattern: str):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES])


DIGITS = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
# tokenizer.ggml.pre -> how the family cuts a text, as transformers says; its config
FAMILIES = {
    "smollm": (pre_tokenizers.Sequence(DIGITS), LlamaConfig(**SIZE, tie_word_embeddings=True)),
    "qwen2": (_split(PRETOKENIZE_REGEX), Qwen2Config(**SIZE, rope_parameters=YARN)),
    "llama-bpe": (
        _split(TikTokenConverter.__init__.__defaults__[1]),
        LlamaConfig(**SIZE, rope_parameters=LLAMA3 | {"rope_theta": 5e5}),
    ),
}


def family(pre: str, seed: int = 0):
    """Return a tiny model and its tokenizer (of the `tokenizers` library, without added tokens)."""
    cut, config = FAMILIES[pre]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=299, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, "in 2024 and 2024, 1234567 it's it's"] * 9, trainer)
    torch.manual_seed(seed)
    kind = Qwen2ForCausalLM if pre == "qwen2" else LlamaForCausalLM
    return kind(config).eval(), tokenizer


def write(file, pre: str = "smollm", seed: int = 0, kind=None, leave_out=(), **changes):
    """Write a GGUF file as llama.cpp's converter does; `changes` replace metadata. Returns model and tokenizer."""
    model, tokenizer = family(pre, seed)
    config, merges = model.config, json.loads(tokenizer.to_str())["model"]["merges"]
    name = changes.pop("architecture", config.model_type)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get) + ["<think>"]
    types = [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL) - 1) + [4]
    keys = {
        f"{name}.{key}": value
        for key, value in {
            "block_count": 2, "context_length": 16384 if pre == "llama-bpe" else 1024, "embedding_length": 32, "feed_forward_length": 32, "attention.head_count": 4,
            "attention.head_count_kv": 2, "rope.freq_base": config.rope_parameters["rope_theta"],
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "vocab_size": len(tokens),
        }.items()
    }  # fmt: skip
    if pre == "qwen2":
        keys |= {
            "qwen2.rope.scaling.type": "yarn",
            "qwen2.rope.scaling.factor": 2.0,
            "qwen2.rope.scaling.original_context_length": 512,
        }
    else:
        keys["llama.rope.dimension_count"] = 8
    keys |= {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges], "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 3, "tokenizer.ggml.padding_token_id": 0, "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip
    writer = gguf.GGUFWriter(file, name)
    for key, value in (keys | changes).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        add[type(value)](key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2 if pre == "qwen2" else gguf.MODEL_ARCH.LLAMA, 2)
    for key, weight in model.state_dict().items():
        if key in leave_out or (key == "lm_head.weight" and config.tie_word_embeddings):
            continue
        if pre != "qwen2" and ("q_proj" in key or "k_proj" in key):  # llama.cpp turns neighbouring numbers
            weight = weight.view(4 if "q_proj" in key else 2, 2, -1, 32).transpose(1, 2).reshape(weight.shape)
        stem, _, end = key.rpartition(".")
        writer.add_tensor(f"{names.get_name(stem)}.{end}", weight.numpy(), raw_dtype=kind)
    if pre == "llama-bpe":
        inverse = model.model.rotary_emb.inv_freq
        writer.add_tensor("rope_freqs.weight", ((5e5 ** (-torch.arange(0, 8, 2) / 8)) / inverse).numpy())
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return model, tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, in which the folders of GGUF files are written; and a working folder."""
    monkeypatch.setenv("EMPATHY_TRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "gguf"


@pytest.mark.parametrize("pre", FAMILIES)
def test_a_model_of_a_family_is_the_original_with_its_tokenizer(pre, tmp_path, caplog):
    original, reference = write(tmp_path / "a.gguf", pre)
    model, tokenizer = load_model(tmp_path / "a.gguf")
    for text in (ours.PROBE, "in 1234567 years,  it's 2024", "naïve 日本", *TEXTS):
        assert (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            == reference.encode(text, add_special_tokens=False).ids
        )
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert (tokenizer("a")["input_ids"][0] == 1) is (pre == "llama-bpe")
    assert tokenizer("<think><|im_end|>", add_special_tokens=False)["input_ids"] == [299, 3]
    assert tokenizer.decode([299, 3], skip_special_tokens=True) == "<think>"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|begin|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert (tokenizer.chat_template, tokenizer.model_max_length) == (TEMPLATE, model.config.max_position_embeddings)
    assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == (1, 3)
    ids = torch.arange(4, 204)[None]
    assert torch.allclose(model(ids).logits, original(ids).logits, atol=1e-5)
    assert not caplog.records


def test_a_file_is_converted_once_whatever_its_name_and_by_one_of_two_processes(tmp_path, cache, monkeypatch):
    write(tmp_path / "a.gguf")
    converted, convert = [], ours.convert
    monkeypatch.setattr(ours, "convert", lambda *paths: (converted.append(paths), convert(*paths)))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ours.converted, [tmp_path / "a.gguf"] * 2)
    (tmp_path / "a.gguf").rename(tmp_path / "moved.gguf")
    assert first == second and len(converted) == 1
    assert ours._content(tmp_path / "moved.gguf", 0, 0) in first.name
    write(tmp_path / "a.gguf", seed=1)
    assert ours.converted(tmp_path / "a.gguf") != first and len(list(cache.glob("*/config.json"))) == 2


def test_an_adapter_names_the_file_and_is_loaded_on_it_again(tmp_path):
    write(tmp_path / "a.gguf")
    model, tokenizer = load_model("a.gguf")
    adapter = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False))
    adapter.save_pretrained("adapter")
    tokenizer.save_pretrained("adapter")
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "a.gguf"
    again, _ = load_model("adapter")
    ids = torch.arange(4, 24)[None]
    assert isinstance(again, PeftModel) and torch.equal(again(ids).logits, adapter.eval()(ids).logits)
    assert "cache" not in "".join(path.read_text() for path in tmp_path.glob("adapter/*.json"))


def test_a_plan_is_made_without_a_conversion(tmp_path, cache):
    write(tmp_path / "a.gguf")
    recipe = "task: sft\nmodel: {name_or_path: a.gguf, lora: {r: 2}}\ndata: {name: ed4, path: sample}\nevaluation: {max_new_tokens: 9}\n"
    (tmp_path / "r.yaml").write_text(recipe)
    plan = describe(load_recipe("r.yaml"), tmp_path / "out")
    assert "a.gguf (0 MB, converted into a folder" in plan and "downloads: nothing" in plan and not cache.exists()
    with pytest.raises(UserError, match=r"no file 'aa\.gguf'; did you mean a\.gguf\?; expected stage:<name>.*\*\.gguf"):
        load_recipe("r.yaml", ["--model.name_or_path", "aa.gguf"])


def test_weights_in_bfloat16_stay_so(tmp_path):
    write(tmp_path / "a.gguf", kind=gguf.GGMLQuantizationType.BF16)
    assert load_model(tmp_path / "a.gguf")[0].dtype == torch.bfloat16


def test_a_tokenizer_that_transformers_would_replace_by_another_is_refused(tmp_path):
    write(tmp_path / "a.gguf", "qwen2", **{"tokenizer.ggml.pre": "gpt-2"})
    with pytest.raises(
        UserError,
        match=r"a\.gguf: its tokenizer cuts texts as 'gpt-2' .*, but transformers cuts .* of a qwen2 differently",
    ):
        ours.converted(tmp_path / "a.gguf")


def test_an_unknown_way_to_cut_a_text_is_reported(tmp_path, caplog):
    write(tmp_path / "a.gguf", **{"tokenizer.ggml.pre": "smolm"})
    ours.converted(tmp_path / "a.gguf")
    assert "did you mean smollm?" in caplog.text


def _cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("changes", "damage", "message"),
    [
        ({"architecture": "qwen9"}, None, r"cannot read the architecture 'qwen9' from GGUF; did you mean qwen3\?.*qwen2.*name the folder"),
        ({"architecture": "bert"}, None, r"holds an encoder \(bert\); only decoders"),
        ({"architecture": "t5"}, None, r"holds an encoder-decoder \(t5\); only decoders"),
        ({"split.count": 3}, None, r"one of 3 parts of a model; join them with `llama-gguf-split --merge"),
        ({"leave_out": ["model.norm.weight"]}, None, r"weights do not fit.*model\.norm\.weight \(missing\)"),
        ({"architecture": "qwen2", "pre": "llama-bpe"}, None, "scaled|have no place|do not fit"),
        ({}, _cut, r"is cut off: [\d,]+ bytes, expected [\d,]+; download it again"),
        ({}, lambda file: file.write_bytes(file.read_bytes()[:2000]), r"broken or cut off \(2,000 bytes\); download"),
        ({}, lambda file: file.write_text("<html>no</html>"), r"is not a GGUF file: begins with b'<html>no"),
        ({}, lambda file: file.write_text("version https://git-lfs.github.com/spec/v1"), "a pointer of Git LFS: run `git lfs pull`"),
        ({}, lambda file: file.write_bytes(b""), r"is not a GGUF file: begins with b''"),
        ({}, lambda file: file.unlink(), r"x\.gguf: no such file; did you mean .*y\.gguf\?"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(changes, damage, message, tmp_path, cache):
    write(tmp_path / "x.gguf", **changes)
    (tmp_path / "y.gguf").touch()
    if damage:
        damage(tmp_path / "x.gguf")
    with pytest.raises(UserError, match=message) as raised:
        load_model(tmp_path / "x.gguf")
    assert "x.gguf" in str(raised.value) and not list(cache.glob("*/*.safetensors"))


def test_a_quantisation_a_part_and_a_missing_package_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "x-00002-of-00003.gguf")
    with pytest.raises(UserError, match="one of several parts.*--merge x-00001-of-00003.gguf whole.gguf"):
        ours.check(tmp_path / "x-00002-of-00003.gguf")
    write(tmp_path / "x.gguf")
    header = ours.check(tmp_path / "x.gguf")
    for number, name in ((16, None), (38, "type 38"), (24, "I8")):
        tensors = [(each[0], each[1], number, each[3]) for each in header.tensors]
        if name:
            with pytest.raises(
                UserError, match=rf"tensors of {name} cannot be dequantised \(choices: F32, F16, .*Q4_K"
            ):
                ours._check_types(tmp_path / "x.gguf", header._replace(tensors=tensors))
    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs the package gguf; install it with pip install "empathy-trl\[gguf\]"'):
        ours.check(tmp_path / "x.gguf")


def test_a_repository_of_gguf_files_says_how_to_get_one(hub_server):
    HfApi().create_repo("ann/small-GGUF")
    with pytest.raises(UserError, match=r"download one of its files with `hf download ann/small-GGUF FILE\.gguf"):
        load_model("ann/small-GGUF")


def test_a_revision_and_the_folder_of_a_file_are_refused(tmp_path):
    write(tmp_path / "x@1.gguf")
    assert one_revision("x@1.gguf", None) == ("x@1.gguf", None)
    with pytest.raises(UserError, match=r"x@1\.gguf is a file here, and only a model on the Hub"):
        one_revision("x@1.gguf", "main")
    check_exists("x@1.gguf")
    with pytest.raises(UserError, match="found x@1.gguf; a GGUF file is named itself, not its folder"):
        load_model(tmp_path)
