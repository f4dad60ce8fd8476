"""Positions and vocabulary of a model against its texts, and the counts of what a limit cuts."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel, BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel
from trl import SFTConfig, SFTTrainer

from empathy_trl.errors import UserError
from empathy_trl.models.generate import generate_completions
from empathy_trl.models.limits import Limits, check_vocabulary, fit_prompts, token_lengths, truncation
from tests.trainers.settings import quiet_config

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "settings", "reads", "writes"),
    [
        ("gpt2", {"n_positions": 64}, 64, 64),
        ("opt", {"max_position_embeddings": 64}, 64, 64),  # two rows more in its embedding
        ("bert", {}, 512, 512),
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512, 512),
        ("bart", {"max_position_embeddings": 64}, 64, 64),
        ("led", {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 32}, 64, 32),
        ("t5", {"n_positions": 512}, None, None),
        ("deberta-v2", {"relative_attention": True, "position_biased_input": False}, None, None),
        ("bloom", {}, None, None),
        ("mistral", {"max_position_embeddings": 64, "sliding_window": 8}, 64, 64),
        ("llama", {"max_position_embeddings": 64, "rope_parameters": YARN}, 256, 256),
        ("llama", {"max_position_embeddings": 131072, "rope_parameters": LLAMA3}, 131072, 131072),
    ],
)  # fmt: skip
def test_how_much_a_model_reads_and_writes(kind, settings, reads, writes):
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
    assert Limits.of(model) == Limits(reads, writes, model.config.is_encoder_decoder)


def learned(tokenizer, kind):
    """A model of 64 learned positions: GPT-2, or BART."""
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "vocab_size": len(tokenizer)}
    ids |= dict.fromkeys(("eos_token_id", "decoder_start_token_id"), tokenizer.eos_token_id)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_positions=64, n_embd=8, n_layer=1, n_head=2, **ids))
    sizes = {
        f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in ("layers", "ffn_dim", "attention_heads")
    }
    ids |= {"forced_eos_token_id": None, "max_position_embeddings": 64, "d_model": 8}
    return BartForConditionalGeneration(BartConfig(**sizes, **ids))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "words", "new", "message"),
    [
        ("gpt2", 59, 4, None),
        ("gpt2", 60, 4, "row 2 has 61 tokens in its prompt and up to 4 in its completion, but the model has 64 positions"),
        ("bart", 62, 64, None),
        ("bart", 64, 1, "has 65 tokens .* but the model has 64 positions; shorten it"),
        ("bart", 1, 65, "up to 65 in its completion"),
    ],
)  # fmt: skip
def test_what_is_longer_than_the_positions_is_refused_with_the_numbers(tiny, kind, words, new, message):
    tokenizer = tiny[1]
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}<eos>"
    prompts = [[{"role": "user", "content": text}] for text in ("<answer>", "<answer>" * words)]
    settings = {"batch_size": 2, "max_new_tokens": new, "progress": False}
    if message is None:
        assert len(generate_completions(learned(tokenizer, kind), tokenizer, prompts, **settings)) == 2
        return
    with pytest.raises(UserError, match=message):
        generate_completions(learned(tokenizer, kind), tokenizer, prompts, **settings)


@pytest.mark.faults
def test_counting_the_tokens_of_long_prompts_warns_of_no_indexing_errors(tiny):
    tokenizer = tiny[1]
    chat = [{"role": "user", "content": "so " * tokenizer.model_max_length}, {"role": "assistant", "content": "yes"}]
    rows = Dataset.from_dict({"prompt": [chat[:1]], "completion": [chat[1:]]})
    assert token_lengths(tokenizer, rows)[0][0] > tokenizer.model_max_length
    assert not tokenizer.deprecation_warnings


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokenizer, model: None, None),
        (lambda tokenizer, model: tokenizer.add_tokens(["<thought>"]), "the tokenizer's token '<thought>' has the id 3.., but"),
        (lambda tokenizer, model: tokenizer.add_special_tokens({"pad_token": "[PAD]"}), r"the tokenizer's token '\[PAD\]' has the id"),
        (lambda tokenizer, model: tokenizer.add_tokens(["<image>"], special_tokens=True), None),  # as in Gemma 3 1B
        (lambda tokenizer, model: setattr(model.config, "pad_token_id", 9999), "pad_token_id in config.json is 9999"),
        (lambda tokenizer, model: setattr(model.generation_config, "eos_token_id", [1, 9999]), "eos_token_id in generation_"),
    ],
)  # fmt: skip
def test_a_token_without_an_embedding_is_refused(tiny, change, message):
    model, tokenizer = tiny
    change(tokenizer, model)
    if message is None:
        check_vocabulary(model, tokenizer, "me/model")
        return
    with pytest.raises(UserError, match=f"me/model: {message}"):
        check_vocabulary(model, tokenizer, "me/model")


@pytest.mark.faults
def test_an_added_token_with_a_row_of_its_own_is_fine(tiny):
    model, tokenizer = tiny
    tokenizer.add_tokens(["<thought>"])
    model.resize_token_embeddings(len(tokenizer))
    adapted = get_peft_model(model, LoraConfig(target_modules=["embed_tokens"], task_type="CAUSAL_LM"))
    check_vocabulary(adapted, tokenizer, "me/model")


LENGTHS = [(4, 2), (5, 3), (8, 2), (9, 1)]  # with a limit of 8: whole, just whole, and two without room
SFT = {"packing": False, "packing_strategy": "bfd", "completion_only_loss": None, "truncation_mode": "keep_start"}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("settings", "apart", "counts"),
    [
        ({}, False, (2, 0, 0)),
        ({"max_length": 7}, False, (2, 0, 1)),
        ({"max_length": None}, False, (0, 0, 0)),
        ({"truncation_mode": "keep_end"}, False, (0, 2, 0)),
        ({"completion_only_loss": False}, False, (0, 1, 2)),
        ({"packing": True}, False, (2, 0, 0)),
        ({"packing": True, "packing_strategy": "wrapped"}, False, (0, 0, 0)),
        ({"max_length": 2}, True, (0, 4, 1)),
        ({"max_length": 3}, False, (4, 0, 0)),
    ],
)
def test_what_a_limit_drops_and_cuts_is_counted_by_what_is_cut(settings, apart, counts):
    config = SimpleNamespace(**SFT | {"max_length": 8} | settings)
    counted = truncation(config, LENGTHS, apart)
    assert (counted.dropped, counted.prompts, counted.completions) == counts
    assert (counted.prompt_tokens, counted.completion_tokens) == ((4, 5, 9), (1, 2, 3))
    assert counted.needed == (9 if apart else 10)
    if counts[0] == len(LENGTHS):
        with pytest.raises(
            UserError, match=r"^max_length: 3 drops all 4 rows, .* 4 / 5 / 9 tokens .*; 10 would cut none"
        ):
            counted.check("max_length")
    else:
        counted.check("max_length")


@pytest.mark.faults
def test_texts_of_an_encoder_and_prompts_of_grpo_have_no_completion():
    assert "cuts 1 of 2 texts; texts have 3 / 3 / 9 tokens" in str(
        truncation(SimpleNamespace(max_length=4), [(3, 0), (9, 0)])
    )
    assert str(truncation(SimpleNamespace(), [(3, 0), (9, 0)])) == "prompts have 3 / 3 / 9 tokens (min / median / max)"


@pytest.mark.faults
@pytest.mark.parametrize("settings", [{}, {"truncation_mode": "keep_end"}, {"completion_only_loss": False}], ids=str)
def test_the_counts_are_those_of_trl(tiny, tmp_path, settings):
    model, tokenizer = tiny
    texts = [("hi", "so sad"), ("my dog died in the night", "so sad"), ("hi", "the night was long and I was afraid")]
    columns = {"prompt": ("user", 0), "completion": ("assistant", 1)}
    rows = Dataset.from_dict(
        {name: [[{"role": role, "content": row[at]}] for row in texts] for name, (role, at) in columns.items()}
    )
    lengths = token_lengths(tokenizer, rows)
    limit = lengths[1][0]  # fills the second row with its prompt, and cuts the third
    args = quiet_config(tmp_path, SFTConfig, max_length=limit, **settings)
    kept = SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer).train_dataset
    counted = truncation(args, lengths)
    assert counted.dropped == len(rows) - len(kept) == (0 if settings else 1)
    lost = sum(map(sum, lengths)) - sum(map(len, kept["input_ids"])) - counted.dropped * sum(lengths[1])
    assert (lost > 0) == (counted.prompts + counted.completions > 0)
    assert [min(sum(row), limit) for at, row in enumerate(lengths) if at != 1 or settings] == [
        len(ids) for ids in kept["input_ids"]
    ]


def talk(*words, system=True):
    """Chat messages of so many words, the user's first; with the tiny tokenizer each takes one token for its role, too."""
    turns = [
        {"role": ("user", "assistant")[place % 2], "content": "<answer>" * each} for place, each in enumerate(words)
    ]
    return [{"role": "system", "content": "<answer>" * 4}, *turns] if system else turns


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "words", "own", "kept"),
    [
        ("gpt2", (9, 9, 9), False, 3),  # 5 tokens of the system message, 10 + 11 + 10, 1 and 8 more: 45
        ("gpt2", (29, 9, 9), False, 1),
        ("gpt2", (9, 9, 29, 9, 9), False, 1),
        ("gpt2", (9, 9, 9, 9, 9), False, 3),
        ("gpt2", (9, 9, 9), True, 1),  # its own completion is longer than 8
        ("bart", (9, 9, 24), False, 3),
        ("bart", (9, 9, 44), False, 1),
    ],
)  # fmt: skip
def test_prompts_lose_their_oldest_turns_to_fit_and_nothing_else(tiny, kind, words, own, kept):
    chats = [talk(3), talk(*words)]
    completions = [[{"role": "assistant", "content": "<answer>" * count}] for count in (1, 28)]
    rows = Dataset.from_dict({"prompt": chats} | ({"completion": completions} if own else {}))
    fit = partial(fit_prompts, learned(tiny[1], kind), tiny[1], where="stages.x: train", advice="lower it")
    fitted, cut = fit(rows, None if own else 8)
    system, *turns = chats[1]
    assert list(fitted["prompt"]) == [chats[0], [system, *turns[-kept:]]] and cut == (kept < len(turns))
    assert fitted.features == rows.features
    with pytest.raises(
        UserError,
        match="stages.x: train: row 8 has 66 tokens in its prompt .* but the model has 64 positions; lower it",
    ):
        fit(Dataset.from_dict({"prompt": [talk(3), talk(9, 9, 59)]}), 8, numbers=[3, 7])
