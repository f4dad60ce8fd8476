"""Decoding over shared prompts gives the tokens that `generate` gives, and reads and stores every prompt once."""

import pytest
import torch
from transformers import GenerationConfig

from empathy_trl.trainers.shared_prefix.decoding import (
    DecodeAttention,
    SharedDecoder,
    sample,
    shared_log_probs,
    usual_log_probs,
)
from empathy_trl.trainers.shared_prefix.packing import install
from tests.trainers.shared_prefix.samples import MODELS, PAD, VOCABULARY, random_batch, tiny_model

NEW_TOKENS = 9
PROMPTS = (13, 5, 8, 1)  # lengths, most of them longer than a sliding window
# the prompt of every row: groups of 3 and of 1; rows of a prompt need not be neighbours
ROWS = {"groups of 3 and 1": [0, 0, 0, 1, 2, 2, 2, 3], "scattered": [2, 0, 1, 2, 0, 3, 0]}


def prompts_of(numbers):
    """Return ids and mask of rows, padded on the left."""
    batch = random_batch(PROMPTS, [(number, 1) for number in range(len(PROMPTS))])
    return {"input_ids": batch.ids[numbers, :-1], "attention_mask": batch.mask[numbers, :-1]}


def generate(model, rows, shared, **settings):
    """Return the rows that a model continues by at most 9 tokens, with the usual decoding or over shared prompts."""
    config = GenerationConfig(pad_token_id=PAD, **{"max_new_tokens": NEW_TOKENS, "do_sample": False, **settings})
    if shared:
        install(model)
    torch.manual_seed(0)
    with torch.no_grad():
        return model.generate(
            **prompts_of(rows), generation_config=config, **({"custom_generate": sample} if shared else {})
        )


def new_tokens(rows):
    return rows[:, max(PROMPTS) :]


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_greedy_decoding_gives_the_same_tokens(name, attention, rows):
    model = tiny_model(name, attention)
    usual = generate(model, rows, shared=False)
    assert new_tokens(usual).shape == (len(rows), NEW_TOKENS) and len(new_tokens(usual).unique()) > 10
    assert torch.equal(generate(model, rows, shared=True), usual)


SAMPLING = {
    "temperature, top-p and top-k": {"temperature": 0.8, "top_p": 0.9, "top_k": 20},
    "repetition penalty": {"repetition_penalty": 1.5},
    "all of it, and a smallest length": {
        "temperature": 1.2,
        "top_p": 0.95,
        "top_k": 50,
        "repetition_penalty": 1.1,
        "min_new_tokens": 4,
        "eos_token_id": list(range(5, 40)),
    },
}


@pytest.mark.parametrize("settings", SAMPLING.values(), ids=SAMPLING)
@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_sampling_with_the_same_seed_gives_the_same_tokens(name, attention, settings):
    model, rows = tiny_model(name, attention), ROWS["groups of 3 and 1"]
    usual = generate(model, rows, shared=False, do_sample=True, **settings)
    assert len(new_tokens(usual)[:3].unique(dim=0)) == 3  # the rows of a group go their own ways
    state = torch.get_rng_state()
    assert torch.equal(generate(model, rows, shared=True, do_sample=True, **settings), usual)
    assert torch.equal(torch.get_rng_state(), state)


def test_after_the_end_of_a_completion_comes_padding():
    model, rows = tiny_model(), ROWS["groups of 3 and 1"]
    endless = new_tokens(generate(model, rows, shared=False))
    eos = endless[0, 3].item()
    usual = generate(model, rows, shared=False, eos_token_id=eos)
    ours = generate(model, rows, shared=True, eos_token_id=eos)
    assert torch.equal(ours, usual)
    first = endless[0].tolist().index(eos)
    assert new_tokens(ours)[0, first] == eos and (new_tokens(ours)[0, first + 1 :] == PAD).all()
    assert ours.shape[1] == max(PROMPTS) + NEW_TOKENS  # other rows go on


@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_rows_whose_completions_have_ended_are_no_longer_read(name, attention):
    model, rows = tiny_model(name, attention), ROWS["scattered"]
    endless = new_tokens(generate(model, rows, shared=False))
    eos = endless[1:, 2].unique().tolist()
    usual = generate(model, rows, shared=False, eos_token_id=eos)
    reads = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: reads.append(len(args[0])))
    assert torch.equal(generate(model, rows, shared=True, eos_token_id=eos), usual)
    assert reads[0] == 4 > reads[-1]


def test_decoding_stops_when_all_completions_have_ended():
    model, rows = tiny_model(), ROWS["groups of 3 and 1"]
    endless = new_tokens(generate(model, rows, shared=False))
    eos = endless[:, 2].unique().tolist()
    reads = []
    model.get_input_embeddings().register_forward_hook(lambda *_: reads.append(1))
    ours = generate(model, rows, shared=True, eos_token_id=eos)
    width = ours.shape[1] - max(PROMPTS)
    assert width <= 3 and len(reads) == width  # the last token is not read
    assert torch.equal(ours, generate(model, rows, shared=False, eos_token_id=eos))


@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_prompts_are_read_and_stored_once(name, attention):
    model = tiny_model(name, attention)
    install(model)
    reads = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: reads.append(args[0].shape))
    inputs = prompts_of(ROWS["scattered"])  # four prompts, at most three rows of one
    decoder = SharedDecoder(model, *inputs.values(), max_new_tokens=4)
    with torch.no_grad():
        decoder.read_prompts()
        for _ in range(2):
            decoder.read(torch.full((len(inputs["input_ids"]),), 7))
    assert reads == [(4, 13), (4, 3), (4, 3)]
    for layer in decoder.cache.layers:
        assert layer.keys.shape == layer.values.shape == (4, 2, 13 + 3 * 2, 8)


LONG = torch.randint(5, VOCABULARY, (20,), generator=torch.Generator().manual_seed(1))


def decoding_error(model, prompt):
    """Return by how much decoding over a shared prompt misses the usual log-probabilities."""
    return shared_log_probs(model, prompt)[0] - usual_log_probs(model, prompt)


@pytest.mark.parametrize("name, attention", MODELS.values(), ids=MODELS)
def test_the_error_of_a_sound_model_is_rounding(name, attention):
    model = tiny_model(name, attention)
    install(model)
    errors = decoding_error(model, LONG)
    assert errors.shape == (2, 8, VOCABULARY) and errors.abs().max() < 1e-4


def others_are_seen(monkeypatch):
    usual = DecodeAttention.__post_init__

    def broken(self):
        usual(self)
        self.own = torch.ones_like(self.own)

    monkeypatch.setattr(DecodeAttention, "__post_init__", broken)


def windows_are_ignored(monkeypatch):
    monkeypatch.setattr(DecodeAttention, "near", lambda self, sliding_window: torch.tensor(True))


def prompts_are_not_seen(monkeypatch):
    usual = DecodeAttention.attend

    def broken(self, base, module, query, key, value, **kwargs):
        width = self.prompt_valid.shape[1]
        value = torch.cat([value[:, :, :width] * 0, value[:, :, width:]], dim=2)
        return usual(self, base, module, query, key, value, **kwargs)

    monkeypatch.setattr(DecodeAttention, "attend", broken)


MISTAKES = {
    "others are seen": (others_are_seen, MODELS),
    "windows are ignored": (windows_are_ignored, [key for key in MODELS if key.startswith(("gemma2", "mistral"))]),
    "prompts are not seen": (prompts_are_not_seen, MODELS),
}


@pytest.mark.parametrize(
    "mistake, key",
    [(mistake, key) for mistake, keys in MISTAKES.values() for key in keys],
    ids=[f"{what}-{key}" for what, (_, keys) in MISTAKES.items() for key in keys],
)
def test_the_error_of_a_broken_model_is_large(mistake, key, monkeypatch):
    model = tiny_model(*MODELS[key])
    install(model)
    mistake(monkeypatch)
    assert decoding_error(model, LONG).abs().mean() > 1e-2


# 4 prompt tokens and 8 new ones: at most 3 completions to a row
@pytest.mark.parametrize("size, rows, slots", [(9, 4, 3), (4, 3, 2)], ids=["full rows", "rows of equal size"])
def test_large_groups_sit_in_several_rows(size, rows, slots):
    model = tiny_model()
    install(model)
    batch = random_batch((3, 4), [(0, 1)] * size + [(1, 1)] * 2)
    prompts, mask = batch.ids[:, :4], batch.mask[:, :4]
    decoder = SharedDecoder(model, prompts, mask, max_new_tokens=8)
    decoder.read_prompts()
    decoder.read(torch.arange(size + 2) + 5)
    assert decoder.cache.layers[0].keys.shape[0::2] == (rows, 4 + slots)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": PAD}
    usual = model.generate(prompts, attention_mask=mask, **settings)
    assert torch.equal(model.generate(prompts, attention_mask=mask, custom_generate=sample, **settings), usual)
