"""The scorer's shortcut (cache, one forward for all choices) equals a plain forward per prompt and choice."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.trainer.utils import add_fused_lm_head

from empathy_trl.errors import UserError
from empathy_trl.models.likelihood import PolicyScorer, next_words
from empathy_trl.models.tiny import build_model, build_tokenizer

TEXTS = [
    "The dog died and I was so sad.",
    "My friend lied to me, angry words were said, afraid of nothing.",
    "A joyful day in the sun with all my friends and a very long story about it that never ends.",
]
PROMPTS = [[{"role": "user", "content": text}] for text in TEXTS]
PREFIXES = ["<reasoning>so sad</reasoning><answer>", "<answer>", "<reasoning>a joyful day</reasoning><answer>"]
LABELS = ["sad</answer>", "joyful</answer>", "angry</answer>", "unheard of</answer>"]  # 2 tokens up to many


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEXTS * 5 + ["sad", "joyful", "angry"] * 20, 400, ["reasoning", "answer"])


def tiny(architecture, tokenizer, max_length=512):
    sizes = SimpleNamespace(architecture=architecture, hidden_size=32, layers=2, heads=4, max_length=max_length)
    model = build_model(sizes, tokenizer, seed=3)
    with torch.no_grad():  # large weights: a mix-up of rows or positions then shows far above rounding
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model.eval()


def plain_scores(model, tokenizer, prompts, prefixes, choices):
    """One forward without padding or cache per prompt and choice."""
    scores = []
    for prompt, prefix in zip(prompts, prefixes, strict=True):
        rendered = prompt
        if not isinstance(prompt, str):
            rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        before, prefix = tokenizer(rendered)["input_ids"], tokenizer(prefix)["input_ids"]
        scores.append([])
        for choice in choices:
            ids = tokenizer(choice)["input_ids"]
            with torch.no_grad():
                if model.config.is_encoder_decoder:
                    output = model(input_ids=torch.tensor([before]), labels=torch.tensor([prefix + ids]))
                    logits = output.logits[0, len(prefix) :]
                else:
                    output = model(input_ids=torch.tensor([before + prefix + ids]))
                    logits = output.logits[0, len(before + prefix) - 1 : -1]
            scores[-1].append(logits.log_softmax(-1)[range(len(ids)), ids].sum().item())
    return scores


def check(model, tokenizer, prompts=PROMPTS, choices=LABELS, batch_size=8, plain=None):
    scores = torch.tensor(PolicyScorer(lambda: model, tokenizer, batch_size)(prompts, PREFIXES, choices))
    expected = plain_scores(plain or model, tokenizer, prompts, PREFIXES, choices)
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma2", "t5"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_equals_plain_forwards_for_ragged_lengths(tokenizer, architecture, batch_size):
    check(tiny(architecture, tokenizer), tokenizer, batch_size=batch_size)


def test_equals_plain_forwards_when_the_context_is_longer_than_the_sliding_window(tokenizer):
    model = tiny("gemma2", tokenizer, max_length=16)
    assert model.config.sliding_window == 8
    check(model, tokenizer)


def test_an_encoder_reads_a_prompt_once_for_all_choices(tokenizer):
    model = tiny("t5", tokenizer)
    calls = []
    model.get_encoder().register_forward_hook(lambda *args: calls.append(1))
    adapted = get_peft_model(model, LoraConfig(target_modules=["q"], task_type="SEQ_2_SEQ_LM"))
    PolicyScorer(lambda: adapted, tokenizer, 8)(PROMPTS, PREFIXES, LABELS)
    assert len(calls) == 1
    check(adapted, tokenizer, plain=model)


def test_choices_of_one_token_take_one_forward(tokenizer):
    model = tiny("qwen2", tokenizer)
    calls = []
    model.register_forward_hook(lambda *args: calls.append(1))
    PolicyScorer(lambda: model, tokenizer, 8)(PROMPTS, PREFIXES, ["sad", "joyful"])
    assert len(calls) == 1
    check(model, tokenizer, choices=["sad", "joyful"])


def test_plain_text_prompts(tokenizer):
    check(tiny("qwen2", tokenizer), tokenizer, prompts=TEXTS)


def test_a_model_patched_by_the_trainer_is_scored_at_temperature_1(tokenizer):
    model = tiny("gemma2", tokenizer)
    before = PolicyScorer(lambda: model, tokenizer, 8)(PROMPTS, PREFIXES, LABELS)
    add_fused_lm_head(model, temperature=0.5)
    assert PolicyScorer(lambda: model, tokenizer, 8)(PROMPTS, PREFIXES, LABELS) == before


def test_scores_the_adapter_without_its_dropout_and_restores_the_mode(tokenizer):
    model = tiny("qwen2", tokenizer)
    base = PolicyScorer(lambda: model, tokenizer, 8)(PROMPTS, PREFIXES, LABELS)
    adapter = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(model, adapter).train()
    scorer = PolicyScorer(lambda: model, tokenizer, 8)
    scores = scorer(PROMPTS, PREFIXES, LABELS)
    assert scores == scorer(PROMPTS, PREFIXES, LABELS)
    assert scores != base
    assert model.training and all(module.training for module in model.modules())


def test_works_under_autocast(tokenizer):
    model = tiny("qwen2", tokenizer)
    expected = torch.tensor(PolicyScorer(lambda: model, tokenizer, 8)(PROMPTS, PREFIXES, LABELS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = torch.tensor(PolicyScorer(lambda: model, tokenizer, 8)(PROMPTS, PREFIXES, LABELS))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, atol=0.0, rtol=0.1)


@pytest.mark.parametrize("architecture", ["qwen2", "t5"])
def test_the_next_word_is_the_label_that_is_most_above_its_mean(tokenizer, architecture):
    model, labels = tiny(architecture, tokenizer), ["sad", "joyful", "angry", "unheard of"]
    plain = plain_scores(model, tokenizer, PROMPTS, ["I feel"] * 3, [f" {label}" for label in labels])
    excess = torch.tensor(plain) - torch.tensor(plain).mean(0)
    assert next_words(model, tokenizer, PROMPTS, "I feel", labels, 2) == [labels[best] for best in excess.argmax(1)]
    assert not torch.equal(torch.tensor(plain).argmax(1), excess.argmax(1))
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"next word: the model gives nan or infinity; .* overflow in torch.float32"):
        next_words(model, tokenizer, PROMPTS, "I feel", labels, 2)


@pytest.mark.faults
def test_a_thought_that_the_prompt_opened_is_not_opened_again(tiny):
    model, tokenizer = tiny
    tokenizer.chat_template += "<think>\n"
    scorer = PolicyScorer(lambda: model, tokenizer, 1)
    prompt, prefix = scorer._context([{"role": "user", "content": "Hi"}], "<think>Sad.</think>\n<answer>")
    assert tokenizer.decode(prompt + prefix).endswith("<think>Sad.</think>\n<answer>")
