"""Batches as large as memory holds: sized from what a row is going to take, halved where that was too hopeful.

What all prompts of an evaluation begin with, read once: mostly the system message and the instruction.

Its keys and values are computed for one row and copied for every batch, whose rows are then padded between the prefix and what is
their own. Positions are counted over the tokens that are seen, so the padding moves nothing.

Token ids of several lengths as one rectangle.

What every back end is asked, and how its answer is read: the same tokens in, the same end, the same text out.
"""

import copy
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import psutil
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

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


SHORTEST = 8  # tokens; a shorter prefix is not worth a pass of its own


@dataclass
class Prefix:
    """The first tokens of every prompt, and a decoder's keys and values of them.

    Attributes:
        tokens: shape (1, tokens).
        cache: of one row.
    """

    tokens: torch.Tensor
    cache: DynamicCache

    def __len__(self) -> int:
        return self.tokens.shape[1]

    def before(self, ids: torch.Tensor, mask: torch.Tensor) -> dict:
        """Return what `generate` takes for rows whose prompts go on with `ids`, shape (rows, tokens), padded on the left."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(len(ids))
        tokens = self.tokens.expand(len(ids), -1)
        return {
            "input_ids": torch.cat([tokens, ids], dim=1),
            "attention_mask": torch.cat([torch.ones_like(tokens), mask], dim=1),
            "past_key_values": cache,
        }


def read_prefix(model, prompts: list[list[int]], max_new_tokens: int) -> Prefix | None:
    """Return the common prefix of some prompts; None where there is hardly any, or it cannot be shared.

    It cannot by an encoder-decoder, by a model that keeps more than keys and values (a state that has seen the padding), and
    where a window of attention is shorter than a row: it counts the padding, too.

    Args:
        model: a language model, in eval mode.
        prompts: their tokens.
        max_new_tokens: that follow a prompt.
    """
    # what the first and the last of the sorted prompts share, all share; a token of each is left to go on from
    length = min(common_prefix(min(prompts), max(prompts)), min(map(len, prompts)) - 1)
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    if len(prompts) < 2 or length < SHORTEST or model.config.is_encoder_decoder:
        return None
    if window is not None and window < 2 * max(map(len, prompts)) + max_new_tokens:
        return None
    tokens = torch.tensor([prompts[0][:length]], device=model.device)
    cache = model(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values
    layers = getattr(cache, "layers", [])
    plain = isinstance(cache, DynamicCache) and all(
        type(each) in (DynamicLayer, DynamicSlidingWindowLayer) for each in layers
    )
    return Prefix(tokens, cache) if plain else None


def common_prefix(first: list[int], second: list[int]) -> int:
    """Return how many items two lists share from the start."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))


def pad(rows: list[list[int]], pad_id: int, side: str, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask (1 for a token, 0 for padding), both int64 of shape (rows, longest).

    Args:
        rows: at least one.
        side: where the padding goes, "left" or "right".
    """
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        padding = width - len(row)
        ids.append([pad_id] * padding + row if side == "left" else row + [pad_id] * padding)
        mask.append([0] * padding + [1] * len(row) if side == "left" else [1] * len(row) + [0] * padding)
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


@dataclass(frozen=True)
class Asked:
    """Prompts as tokens, and how each is to be completed.

    Attributes:
        ids: tokens of every prompt, as the chat template writes it up to where the answer begins.
        rows: number of every prompt in the whole evaluation, which seeds its sampling.
        stop_ids: tokens that end a completion.
        pad_id: what rows of a batch are filled up with.
        max_new_tokens: a completion that has not ended by then is cut off.
        temperature: 0 takes the likeliest token.
        top_p, top_k: sample from the likeliest tokens only.
        seed: of the sampling.
    """

    ids: list[list[int]]
    rows: list[int]
    stop_ids: list[int]
    pad_id: int
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int

    def longest_first(self) -> list[int]:
        """Return the places of the prompts: it shows at once whether they fit in memory, and like lengths stand together."""
        return sorted(range(len(self.ids)), key=lambda place: -len(self.ids[place]))

    def row_seed(self, place: int) -> int:
        """Return the seed of a prompt's own random numbers, below 2**63."""
        return (self.seed * 1_000_003 + self.rows[place] * 7919) % 2**63


def prompt_tokens(tokenizer, prompts: list[list[dict]]) -> list[list[int]]:
    """Return the tokens of chat prompts up to where the answer begins."""
    return tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]


def completion_of(tokenizer, ids: list[int], stop_ids: list[int]) -> str:
    """Return the text of a completion up to its end, without special tokens."""
    return tokenizer.decode(ids[: first_stop(ids, stop_ids)], skip_special_tokens=True)


def end_tokens(model, tokenizer) -> list[int]:
    """Return all token ids that end a completion: the model's (there may be several) and the tokenizer's."""
    model_ids = model.generation_config.eos_token_id
    ids = [model_ids] if isinstance(model_ids, int) else list(model_ids or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    return ids


def first_stop(ids: list[int], stop_ids: list[int]) -> int:
    """Return where the first stop id is, or the length: what follows is padding, and not every stop token is special."""
    return next((position for position, token in enumerate(ids) if token in stop_ids), len(ids))
