"""What all prompts begin with is read once, and nothing that is said depends on it."""

import pytest

from empathy_trl.models import batching as prefix
from empathy_trl.models.generate import generate_completions
from tests.chat.small_models import sharpened
from tests.trainers.tiny_t5 import tiny_t5

INSTRUCTION = "Which emotion is it? Reason briefly, then answer with one word."
SITUATIONS = ["I was so scared when the lights went out.", "Party!", "How are you? Fine, and you?", "Cried.", "nods"]
PROMPTS = [[{"role": "user", "content": f"{INSTRUCTION} {text}"}] for text in SITUATIONS]


def generate(model, tokenizer, prompts=PROMPTS, **settings):
    return generate_completions(
        model, tokenizer, prompts, **{"batch_size": 2, "max_new_tokens": 12, "progress": False} | settings
    )


@pytest.fixture
def apart(monkeypatch):
    """Return a function that generates as if prompts had nothing in common."""

    def run(*arguments, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(prefix, "SHORTEST", 10**6)
            return generate(*arguments, **settings)

    return run


@pytest.fixture
def tokens_read():
    """Return a function: a model -> a list that gets the number of tokens of every forward pass."""

    def watch(model) -> list[int]:
        seen = []
        model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))
        return seen

    return watch


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("qwen2", {}),
        ("qwen2", {"batch_size": 5}),
        ("llama", {}),
        ("llama", {"temperature": 0.9, "top_p": 0.95}),
        ("gemma2", {"temperature": 0.9}),
    ],
)
def test_the_same_is_said_with_fewer_tokens_read(architecture, settings, apart, tokens_read):
    model, tokenizer = sharpened(architecture)
    seen = tokens_read(model)
    expected = apart(model, tokenizer, **settings)
    read_apart = sum(seen)
    seen.clear()
    assert generate(model, tokenizer, **settings) == expected
    assert len(set(expected)) > 2, "the test needs completions that differ"
    assert sum(seen) < 0.7 * read_apart


def test_a_token_of_every_prompt_is_left_to_go_on_from(apart):
    model, tokenizer = sharpened()
    same = [PROMPTS[0]] * 3
    assert generate(model, tokenizer, same) == apart(model, tokenizer, same)
    beginning = [PROMPTS[0], [{"role": "user", "content": f"{INSTRUCTION} I was so scared"}]]
    assert generate(model, tokenizer, beginning) == apart(model, tokenizer, beginning)


def test_an_adapter_shares_too(apart):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = sharpened()
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    assert generate(model, tokenizer) == apart(model, tokenizer)


@pytest.mark.parametrize(
    ("prompts", "window", "shared"),
    [
        ([[5] * 20 + [6], [5] * 20 + [7, 8]], 4096, 20),
        ([[5] * 20, [5] * 20 + [7, 8]], 4096, 19),
        ([[5] * 7 + [6], [5] * 7 + [7]], 4096, 0),
        ([[5] * 20 + [6]], 4096, 0),
        ([[5] * 20 + [6], [5] * 20 + [7]], 46, 20),  # both as long as 21 tokens, and 4 more: 46 with the padding
        ([[5] * 20 + [6], [5] * 20 + [7]], 45, 0),
    ],
)
def test_which_prefix_is_shared(prompts, window, shared):
    model, _ = sharpened("gemma2")
    model.config.sliding_window = window
    found = prefix.read_prefix(model, prompts, max_new_tokens=4)
    assert (len(found) if found else 0) == shared


def test_an_encoder_reads_whole_prompts():
    model, _ = tiny_t5()
    assert prefix.read_prefix(model, [[5] * 20 + [6], [5] * 20 + [7]], 4) is None
