"""Perplexity of the references: the same as one plain forward per row, for a decoder and an encoder-decoder."""

import math
from types import SimpleNamespace

import pytest
import torch

from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.reply_metrics import perplexity
from empathy_trl.models.likelihood import reference_likelihoods, unavailable_reason
from empathy_trl.models.tiny import build_model

TURNS = [
    "I was so scared when the lights went out.",
    "They were rude.",
    "Hello",
    "We laughed at the party, lost and cried",
]
REFERENCES = ["That must have been scary.", "Oh no, how rude", "", "x"]
PROMPTS = [[{"role": "user", "content": turn}] for turn in TURNS]
TAGS = {"role": "system", "content": "Write <reasoning>why</reasoning><answer>reply</answer>."}


def plain_causal(model, tokenizer, prompt, reference):
    """Sum over the tokens after the prompt of minus their log-probability, one by one."""
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = [*asked, *tokenizer(reference)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(logs[at - 1, ids[at]].item() for at in range(len(asked), len(ids))), len(ids) - len(asked)


def plain_t5(model, tokenizer, prompt, reference):
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    labels = [*tokenizer(reference)["input_ids"], tokenizer.eos_token_id]
    start = [model.config.decoder_start_token_id]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([asked]), decoder_input_ids=torch.tensor([start + labels[:-1]])).logits
    logs = logits[0].log_softmax(-1)
    return -sum(logs[at, token].item() for at, token in enumerate(labels)), len(labels)


def t5(tokenizer):
    shape = SimpleNamespace(architecture="t5", hidden_size=16, layers=2, heads=2, max_length=256)
    return build_model(shape, tokenizer, seed=0)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("kind", ["causal", "encoder-decoder"])
def test_every_reference_is_as_likely_as_in_a_forward_of_its_own(tiny, kind, batch_size):
    model, tokenizer = tiny
    plain = plain_causal
    if kind == "encoder-decoder":
        model, plain = t5(tokenizer), plain_t5
    model.train()
    found = reference_likelihoods(model, tokenizer, PROMPTS, REFERENCES, batch_size)
    assert model.training
    model.eval()
    expected = [plain(model, tokenizer, *pair) for pair in zip(PROMPTS, REFERENCES, strict=True)]
    assert [tokens for _, tokens in found] == [tokens for _, tokens in expected]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], rel=1e-5)
    figure = perplexity(found)
    mean = sum(loss for loss, _ in expected) / sum(tokens for _, tokens in expected)
    assert figure["value"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert figure["n"] == 4 and figure["tokens"] == sum(tokens for _, tokens in expected)


def test_every_token_weighs_the_same_and_rows_are_drawn():
    figure = perplexity([(math.log(2) * 9, 9), (math.log(1024), 1)])
    assert figure["value"] == pytest.approx(2 ** (19 / 10))
    assert figure["low"] == pytest.approx(2) and figure["high"] == pytest.approx(1024)


@pytest.mark.faults
def test_references_without_tokens_are_left_out_and_counted(caplog):
    assert perplexity([(1.0, 2), (0.0, 0)])["n"] == 1
    assert "1 of 2 references are left out" in caplog.text


def test_what_a_template_writes_after_the_end_of_a_reply_does_not_count(tiny):
    model, tokenizer = tiny
    usual = reference_likelihoods(model, tokenizer, PROMPTS, REFERENCES, 4)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "{{ eos_token }}and so on")
    assert reference_likelihoods(model, tokenizer, PROMPTS, REFERENCES, 4) == usual


@pytest.mark.parametrize(
    ("prompts", "reference", "template", "reason"),
    [
        (PROMPTS, "yes", None, None),
        (PROMPTS, "lost " * 1024, None, "4 of 4 prompts with their references are longer than the model's positions"),
        ([[TAGS, *PROMPTS[0]]], "yes", None, "the prompt asks for tags around the reply, and the references have none"),
        ([[TAGS, *PROMPTS[0]]], "<reasoning>so</reasoning><answer>yes</answer>", None, None),
        ([[{"role": "user", "content": "What does <answer> mean?"}]], "yes", None, None),  # nobody asks for it
        (
            PROMPTS,
            "yes",
            "{{ messages | length }}",
            "the chat template writes a prompt in another way when it is answered",
        ),
    ],
)
def test_why_there_is_none(tiny, prompts, reference, template, reason):
    model, tokenizer = tiny
    if template:
        tokenizer.chat_template = template
    assert unavailable_reason(model, tokenizer, prompts, [reference] * len(prompts)) == reason


def test_a_model_behind_an_api_has_none():
    assert (
        unavailable_reason(object(), None, PROMPTS, REFERENCES)
        == "the model does not tell the probabilities of given texts"
    )


def test_broken_weights_are_no_perplexity(tiny):
    model, tokenizer = tiny
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(UserError, match="perplexity: the model gives nan or infinity for a reference"):
        reference_likelihoods(model, tokenizer, PROMPTS, REFERENCES, 4)
