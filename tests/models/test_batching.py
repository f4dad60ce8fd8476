"""Batches: sized for the memory there is, halved where it runs out, behind a prefix that is read once."""

import ctypes

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from empathy_trl.errors import UserError
from empathy_trl.models import batching as batches
from empathy_trl.models.batching import MOST, fitting_rows, in_batches, release_memory
from empathy_trl.models.generate import generate_completions
from tests.chat.small_models import sharpened
from tests.trainers.tiny_t5 import tiny_t5

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
]


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """In a process that has run many tests, collecting garbage takes seconds."""
    monkeypatch.setattr(batches.gc, "collect", lambda: 0)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "python", "cpu"])
def test_batches_are_halved_where_memory_runs_out(error):
    sizes = []

    def work(chosen):
        sizes.append(len(chosen))
        if len(chosen) > 3:
            raise error
        return [item * 10 for item in chosen]

    items = list(range(20))
    assert dict(in_batches(items, lambda left: 8, work, "row")) == {item: item * 10 for item in items}
    assert sizes[:4] == [8, 4, 2, 2] and max(sizes[2:]) == 2, "and it does not try the size again"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OUT_OF_MEMORY[0], UserError, "out of memory with a single prompt; expected a smaller model"),
        (RuntimeError("shape mismatch"), RuntimeError, "shape mismatch"),
    ],
)
def test_a_single_row_that_does_not_fit_and_other_errors_raise(error, kind, message):
    def work(chosen):
        raise error

    with pytest.raises(kind, match=message):
        list(in_batches([1, 2], lambda left: 2, work, "prompt"))


def test_completions_are_the_same_after_memory_ran_out(tiny, monkeypatch):
    prompts = [[{"role": "user", "content": f"prompt {number}"}] for number in range(9)]
    expected = generate_completions(*tiny, prompts, max_new_tokens=4, progress=False)
    usual, sizes = tiny[0].generate, []

    def small(input_ids, **settings):
        sizes.append(len(input_ids))
        if len(input_ids) > 4:
            raise OUT_OF_MEMORY[0]
        return usual(input_ids=input_ids, **settings)

    monkeypatch.setattr(tiny[0], "generate", small)
    assert generate_completions(*tiny, prompts, max_new_tokens=4, progress=False) == expected
    assert sizes == [9, 4, 4, 1]


def test_rows_grow_with_memory_and_shrink_with_length(tiny, monkeypatch):
    def rows(free, tokens):
        monkeypatch.setattr(batches, "free_memory", lambda device: free)
        return fitting_rows(tiny[0], tokens, read=tokens, logits=1)

    assert rows(0, 10) == 1 and rows(2**50, 10) == MOST
    assert batches.free_memory(torch.device("cpu")) > 2**20
    middle = next(2**power for power in range(10, 50) if 8 < rows(2**power, 500) <= 64)
    assert rows(middle, 100) > rows(middle, 500) > rows(middle, 2000) and rows(4 * middle, 500) > rows(middle, 500)


INSTRUCTION = "Which emotion is it? Reason briefly, then answer with one word."
SITUATIONS = ["I was so scared when the lights went out.", "Party!", "How are you? Fine, and you?", "Cried.", "nods"]
PROMPTS = [[{"role": "user", "content": f"{INSTRUCTION} {text}"}] for text in SITUATIONS]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim")
def test_what_is_freed_goes_back_to_the_system():
    tensors = [torch.ones(25_000) for _ in range(3000)]  # 100 kB each, which the C library takes from its heap
    before, last = psutil.Process().memory_info().rss, tensors.pop()  # above the others in the heap
    tensors.clear()
    release_memory()
    assert last.sum() and psutil.Process().memory_info().rss < before - 200e6


def generate(model, tokenizer, prompts=PROMPTS, **settings):
    return generate_completions(
        model, tokenizer, prompts, **{"batch_size": 2, "max_new_tokens": 12, "progress": False} | settings
    )


@pytest.fixture
def apart(monkeypatch):
    """Return a function that generates as if prompts had nothing in common."""

    def run(*arguments, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(batches, "SHORTEST", 10**6)
            return generate(*arguments, **settings)

    return run


def tokens_read(model) -> list[int]:
    """Return a list that gets the number of tokens of every forward pass."""
    seen = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))
    return seen


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
def test_the_same_is_said_with_fewer_tokens_read(architecture, settings, apart):
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
    model, tokenizer = sharpened()
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    assert generate(model, tokenizer) == apart(model, tokenizer)


@torch.inference_mode()
def test_tokens_are_added_to_a_batch_without_a_copy_of_what_it_holds():
    model, _ = sharpened()
    prefix, new = batches.read_prefix(model, [[5] * 20 + [6], [5] * 20 + [7]], 4), torch.ones(2, 1, dtype=torch.long)
    layer, places = prefix.before(new, new)["past_key_values"].layers[0], set()
    for length in range(21, 24):
        layer.update(*(torch.ones_like(states[:, :, :1]) for states in (layer.keys, layer.values)))
        places.add(layer.keys.data_ptr())
        assert layer.keys.shape[2] == layer.values.shape[2] == length
    assert len(places) == 1 and len(layer.keys) == 2


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
    found = batches.read_prefix(model, prompts, max_new_tokens=4)
    assert (len(found) if found else 0) == shared
    assert batches.read_prefix(tiny_t5()[0], prompts, 4) is None, "an encoder reads whole prompts"


@pytest.mark.parametrize(
    ("first", "second", "shared"), [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2], [1, 3], 1), ([2], [1], 0)]
)
def test_common_prefix(first, second, shared):
    assert batches.common_prefix(first, second) == batches.common_prefix(second, first) == shared
