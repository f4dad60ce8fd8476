"""Batches as large as memory holds: sized from what a row is going to take, halved where that was too hopeful."""

import gc
from collections.abc import Callable, Iterable, Iterator

import psutil
import torch
from tqdm.auto import tqdm

from empathy_trl.errors import UserError

MOST = 128  # rows; on a CPU more are slower, because a batch runs until its longest row ends
SHARE = 0.5  # of the free memory: what a batch takes is estimated, and others may want some


def in_batches(
    items: list[int], size: Callable[[list[int]], int], work: Callable[[list[int]], Iterable], what: str
) -> Iterator[tuple[int, object]]:
    """Yield (item, its result), batch by batch; where memory runs out, that batch and all later ones are half as large.

    Args:
        items: in the order in which they are worked on.
        size: the items that are left -> how many to take at most.
        work: a batch of items -> one result each.
        what: an item is, for the error.

    Raises:
        UserError: memory runs out with a single item.
    """
    limit = len(items)
    while items:
        chosen = items[: max(1, min(limit, size(items)))]
        if (results := _unless_out_of_memory(work, chosen)) is None:
            if len(chosen) == 1:
                raise UserError(f"out of memory with a single {what}; expected a smaller model, or shorter texts")
            limit = len(chosen) // 2
            tqdm.write(f"out of memory with {len(chosen)} together; going on with {limit}")
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield from zip(chosen, results, strict=True)
        items = items[len(chosen) :]


def _unless_out_of_memory(work: Callable, chosen: list[int]) -> list | None:
    """Return the results, None where memory ran out; the error goes here, and with it the tensors its traceback holds."""
    try:
        return list(work(chosen))
    except (
        RuntimeError,
        MemoryError,
    ) as error:  # torch.OutOfMemoryError is a RuntimeError, and a CPU raises a plain one
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if not known:
            raise
        return None


def fitting_rows(model, tokens: int, read: int, logits: int) -> int:
    """Return how many rows fit into half of the free memory, from 1 to `MOST`.

    Args:
        model: a language model, on its device.
        tokens: of a row whose keys and values are kept.
        read: of these, the tokens that are read in one pass.
        logits: positions of a row whose logits are made.
    """
    config, bytes_each = model.config.get_text_config(decoder=True), model.dtype.itemsize
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * head * bytes_each
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    activations = (8 * config.hidden_size + 3 * inner) * bytes_each  # of one layer: nothing is kept for a backward pass
    row = tokens * cache + read * activations + logits * config.vocab_size * 16  # float32, and copies of it
    return max(1, min(MOST, int(SHARE * free_memory(model.device) / row)))


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device, with what torch holds there and does not use."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available
