"""Tokenizers and models from scratch: exact round trips, determinism, sizes, and what survives saving."""

import random
import unicodedata
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from empathy_trl.errors import UserError
from empathy_trl.models.tiny import SPECIAL_TOKENS, build_model, build_tokenizer

TEXTS = [
    "Which emotion is it? My dog died and I cried all night.",
    "Which emotion is it? We won the game and danced all night.",
    "<reasoning>My dog died.</reasoning><answer>sad</answer>",
    "<reasoning>We won.</reasoning><answer>joyful</answer>",
] * 3
TAGS = ["reasoning", "answer"]
ARCHITECTURES = ["qwen2", "llama", "gemma2", "t5"]
ODD_TEXTS = [
    "",
    " ",
    "  two  spaces\n\n\tand tabs ",
    "<reasoning> so sad </reasoning> <answer>sad</answer>",
    "<answer>sad<answer></answer></reasoning>",
    "don't can’t I'M 12345 3.14 100%",
    "naïve café, Zürich, Ελλάδα, русский, 日本語, عربى",
    "😀👩‍👩‍👧 e\u0301 \ufeff \u200b \x00 \ud7ff",
    "< answer >, <Answer>, <answer/>, &lt;",
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEXTS, 400, TAGS, max_length=64)


def sizes(architecture, **changes):
    return SimpleNamespace(
        **{"architecture": architecture, "hidden_size": 32, "layers": 2, "heads": 4, "max_length": 64, **changes}
    )


def random_texts(n):
    pieces = ["a", "é", " ", "\n", "1", "'s", "<answer>", "</answer>", "😀", "e\u0301", "日", "word", "."]
    generator = random.Random(0)
    return ["".join(generator.choices(pieces, k=20)) for _ in range(n)]


@pytest.mark.parametrize("text", [*ODD_TEXTS, *random_texts(20)])
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    expected = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(ids) == expected
    assert tokenizer.decode(ids, skip_special_tokens=True) == expected


def test_tags_are_single_ordinary_tokens(tokenizer):
    for tag in ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]:
        assert len(tokenizer(tag)["input_ids"]) == 1
        assert tag not in tokenizer.all_special_tokens
    assert tokenizer.tokenize("<answer>sad</answer>") == ["<answer>", "sad", "</answer>"]
    assert tokenizer.tokenize("My dog died") == ["My", "Ġdog", "Ġdied"], "frequent words, too, with and without space"


def test_special_tokens(tokenizer):
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")
    assert tokenizer.padding_side == "left"
    assert tokenizer.model_max_length == 64
    plain = tokenizer("nothing is added", add_special_tokens=False)
    assert tokenizer("nothing is added")["input_ids"] == plain["input_ids"]


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    again = build_tokenizer(iter(TEXTS), 400, TAGS, max_length=64)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_vocabulary_size_counts_every_token_and_few_texts_give_a_smaller_one():
    assert [len(build_tokenizer(TEXTS, size, TAGS)) for size in (265, 300)] == [265, 300]
    assert 300 < len(build_tokenizer(TEXTS, 5000, TAGS)) < 500


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (TEXTS, 264, "vocab_size: 264 is too small; expected at least 265 .*256 bytes, 5 special tokens, 4 tag"),
        ([], 400, "no training text"),
    ],
)
def test_impossible_tokenizers(texts, vocab_size, message):
    with pytest.raises(UserError, match=message):
        build_tokenizer(texts, vocab_size, TAGS)


def test_chat_template(tokenizer):
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " Hi, \n"}]
    answer = [{"role": "assistant", "content": "<answer>sad</answer>"}]
    rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    assert rendered == "<|system|>Be kind.<|user|> Hi, \n<|assistant|>"
    assert tokenizer.apply_chat_template(prompt + answer, tokenize=False) == rendered + "<answer>sad</answer><eos>"
    conversation = tokenizer.apply_chat_template(prompt + answer + prompt[1:], tokenize=False)
    assert conversation == rendered + "<answer>sad</answer><eos><|user|> Hi, \n"


@pytest.mark.parametrize("completion", ["<answer>sad</answer>", " space", "word", "\n", ""])
def test_the_tokens_of_a_prompt_begin_those_of_prompt_and_completion(tokenizer, completion):
    prompt = [{"role": "user", "content": "How are you? "}]
    whole = prompt + [{"role": "assistant", "content": completion}]
    prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = tokenizer.apply_chat_template(whole, return_dict=True)["input_ids"]
    assert ids[: len(prompt_ids)] == prompt_ids
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_save_and_load(tokenizer, architecture, tmp_path):
    model = build_model(sizes(architecture), tokenizer, seed=1).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded_tokenizer) == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert loaded_tokenizer.all_special_ids == tokenizer.all_special_ids
    assert loaded_tokenizer.chat_template == tokenizer.chat_template
    for text in [*ODD_TEXTS, *random_texts(50)]:
        assert loaded_tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"], text

    auto = AutoModelForSeq2SeqLM if architecture == "t5" else AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    batch = loaded_tokenizer(["My dog died", "We"], padding=True, return_tensors="pt", return_token_type_ids=False)
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(loaded.generate(**batch, **options), model.generate(**batch, **options))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_seed_decides_the_weights_and_nothing_else_moves(tokenizer, architecture):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(sizes(architecture), tokenizer, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = build_model(sizes(architecture), tokenizer, seed=1).state_dict()
    other = build_model(sizes(architecture), tokenizer, seed=2).state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert any(not torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_configuration(tokenizer, architecture):
    model = build_model(sizes(architecture), tokenizer, seed=0)
    embeddings = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is embeddings
    assert embeddings.shape == (len(tokenizer), 32)
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id
    assert model.generation_config.bos_token_id is None
    assert not any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))
    if architecture == "t5":
        assert model.config.decoder_start_token_id == model.generation_config.decoder_start_token_id == 0
        assert (model.config.num_layers, model.config.num_decoder_layers) == (2, 2)
    else:
        assert model.config.num_key_value_heads == 2
        assert model.config.max_position_embeddings == 64


def test_a_fresh_model_is_as_unsure_as_a_uniform_guess(tokenizer):
    """Weights of a wrong scale would make it sure of something, and the first steps would only undo that."""
    for architecture in ("qwen2", "llama", "gemma2"):
        model = build_model(sizes(architecture, hidden_size=128), tokenizer, seed=0)
        ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
        assert abs(model(ids, labels=ids).loss.item() - torch.tensor(len(tokenizer)).log().item()) < 1.0


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma2"])
def test_attention_implementations_agree(tokenizer, architecture):
    model = build_model(sizes(architecture, max_length=16), tokenizer, seed=0).eval()
    batch = tokenizer([TEXTS[0], "We won"], padding=True, return_tensors="pt", return_token_type_ids=False)
    logits = {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            logits[implementation] = model(**batch).logits[batch["attention_mask"].bool()]
    torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("heads", [1, 3, 4])
def test_any_number_of_heads(tokenizer, heads):
    model = build_model(sizes("llama", hidden_size=24, heads=heads), tokenizer, seed=0)
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, 2, len(tokenizer))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt5"}, r"unknown architecture 'gpt5' \(choices: qwen2, llama, gemma2, t5\)"),
        ({"hidden_size": 30}, "hidden_size: 30 must be divisible by 2 × heads = 8"),
    ],
)
def test_impossible_models(tokenizer, changes, message):
    with pytest.raises(UserError, match=message):
        build_model(sizes(**{"architecture": "qwen2", **changes}), tokenizer, seed=0)
