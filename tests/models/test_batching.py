"""Batches: as many rows as memory holds, halved when it did not, and nothing lost or done twice."""

import pytest
import torch

from empathy_trl.errors import UserError
from empathy_trl.models import batching as batches
from empathy_trl.models.batching import MOST, fitting_rows, in_batches
from empathy_trl.models.generate import generate_completions

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


def test_a_single_row_that_does_not_fit_is_an_error():
    def work(chosen):
        raise OUT_OF_MEMORY[0]

    with pytest.raises(UserError, match="out of memory with a single prompt; expected a smaller model"):
        list(in_batches([1, 2], lambda left: 2, work, "prompt"))


def test_other_errors_are_not_taken_for_it():
    def work(chosen):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
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
    middle = next(2**power for power in range(10, 50) if 8 < rows(2**power, 500) <= 64)
    assert rows(middle, 100) > rows(middle, 500) > rows(middle, 2000) and rows(4 * middle, 500) > rows(middle, 500)


def test_free_memory_is_some():
    assert batches.free_memory(torch.device("cpu")) > 2**20
