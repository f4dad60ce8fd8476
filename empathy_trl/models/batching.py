"""Texts as a model reads them: batches that fit into memory, and prompts as tokens.

**Batches.** `in_batches` processes items in batches and halves the batches when memory runs out. `fitting_rows` estimates
the batch size. `pad` pads lists of token ids to a rectangle. `read_prefix` computes the keys and values of the prefix that
all prompts of an evaluation share, usually the system message and the instruction. `Prefix.before` copies them for every
batch, whose rows are padded between the prefix and the rest of each prompt. Positions count visible tokens, so the padding
does not shift them.

**Prompts.** `render` and `prompt_tokens` turn messages into a prompt and its tokens, and `end_tokens` and `completion_of`
find the end of a completion, in the same way for every back end. `opened_thought` tells whether a completion begins inside
a thought, and `thought_tokens` how long its thoughts are.
"""

import bisect
import copy
import ctypes
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import psutil
import torch
from jinja2.exceptions import TemplateError
from tqdm.auto import tqdm
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from empathy_trl.errors import UserError
from empathy_trl.tags import THOUGHTS, thoughts_end

MOST = 128  # rows; on a CPU more are slower, because a batch runs until its longest row ends
SHARE = 0.5  # of the free memory: the size of a batch is an estimate, and other processes need memory, too


def in_batches(
    items: list[int], size: Callable[[list[int]], int], work: Callable[[list[int]], Iterable], what: str
) -> Iterator[tuple[int, object]]:
    """Yield (item, its result), batch by batch; where memory runs out, that batch and all later ones are half as large.

    Args:
        items: in the order of the work.
        size: takes the remaining items and returns the largest number for the next batch.
        work: takes a batch of items and returns one result each.
        what: name of an item, for the error.

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
            tqdm.write(f"out of memory with {len(chosen)} together; continuing with {limit}")
            release_memory()
            continue
        yield from zip(chosen, results, strict=True)
        items = items[len(chosen) :]


def _unless_out_of_memory(work: Callable, chosen: list[int]) -> list | None:
    """Return the results, or None where memory ran out; the error ends here, so that its traceback holds no tensors."""
    try:
        return list(work(chosen))
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError; a CPU raises a plain one
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
    row = row_bytes(model.config.get_text_config(decoder=True), model.dtype.itemsize, tokens, read, logits)
    return max(1, min(MOST, int(SHARE * free_memory(model.device) / row)))


def row_bytes(config, bytes_each: int, tokens: int, read: int, logits: int) -> int:
    """Return how much memory a row takes that is read without a backward pass.

    Args:
        config: of a language model's decoder, or of an encoder.
        bytes_each: of a number.
        tokens, read, logits: as for `fitting_rows`.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * head * bytes_each
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    activations = (8 * config.hidden_size + 3 * inner) * bytes_each  # of one layer: nothing is kept for a backward pass
    return tokens * cache + read * activations + logits * config.vocab_size * 16  # float32, and copies of it


def release_memory() -> None:
    """Give back to the system what nothing holds any more: a training that is over, before the evaluation begins.

    On Linux, the C library otherwise keeps most of what the tensors of a training had on the CPU.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device, with what torch holds there and does not use."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available


class GrowingLayer(DynamicLayer):
    """`DynamicLayer` that writes into a buffer with room to spare and does not copy all it holds for every token."""

    def lazy_initialization(self, key_states, value_states):
        super().lazy_initialization(key_states, value_states)
        self.buffers = [key_states, value_states]
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = [self.keys, self.values]
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        for index, states in enumerate((key_states, value_states)):
            if end > self.buffers[index].shape[2] or len(self.buffers[index]) != len(states):
                self.buffers[index] = states.new_empty(*states.shape[:2], end * 3 // 2, states.shape[3])
                self.buffers[index][:, :, :start] = held[index]
            self.buffers[index][:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values


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
    """Return the common prefix of some prompts; None if it is too short or cannot be shared.

    Encoder-decoders cannot share it, nor models with a recurrent state, which has seen the padding, nor a sliding window
    shorter than a row, which counts the padding.

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
    if not plain:
        return None
    for index, each in enumerate(layers):
        if type(each) is DynamicLayer:
            cache.layers[index] = GrowingLayer()
            cache.update(each.keys, each.values, index)
    return Prefix(tokens, cache)


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


def render(tokenizer, messages: list, **options):
    """Return `tokenizer.apply_chat_template` for one conversation or several. All prompts are rendered here.

    Raises:
        UserError: the chat template refuses the messages; names the tokenizer and the roles, and quotes the template.
    """
    if options.get("tokenize", True):
        # not verbose: `limits.fit_prompts` compares prompts with the model's positions, and one that it cuts needs no warning
        options["tokenizer_kwargs"] = {"verbose": False}
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except TemplateError as error:
        raise UserError(_refusal(tokenizer, messages, error, options)) from error


def _refusal(tokenizer, messages: list, error: TemplateError, options: dict) -> str:
    """Return the message about the first conversation that a chat template refuses."""
    chats = messages if isinstance(messages[0], list) else [messages]
    for chat in chats if len(chats) > 1 else ():
        try:
            tokenizer.apply_chat_template(chat, **options)
        except TemplateError as first:
            chats, error = [chat], first
            break
    roles = ", ".join(str(turn.get("role")) for turn in chats[0])
    return f"{tokenizer.name_or_path or 'the tokenizer'}: its chat template refuses the messages ({roles}): {error}"


def prompt_tokens(tokenizer, prompts: list[list[dict]]) -> list[list[int]]:
    """Return the tokens of chat prompts up to where the answer begins."""
    return render(tokenizer, prompts, add_generation_prompt=True, return_dict=True)["input_ids"]


def check_prompts(tokenizer, prompts: Iterable[list[dict]]) -> None:
    """Raise UserError if a chat template refuses a prompt; one prompt is tried for each sequence of roles."""
    examples = {tuple(turn["role"] for turn in prompt): prompt for prompt in prompts}
    render(tokenizer, list(examples.values()), add_generation_prompt=True, tokenize=False)


def opened_thought(prompt: str) -> str:
    """Return `<think>` if a rendered prompt ends with it, so that its completion begins inside a thought; "" otherwise.

    With this tag in front, `tags.without_thoughts` recognises the thought in the completion. The same holds for the other
    marks of `tags.THOUGHTS`.
    """
    prompt = prompt.rstrip()
    return next((mark for mark in THOUGHTS if prompt.endswith(mark)), "")


def thought_tokens(tokenizer, ids: list[int], text: str) -> int:
    """Return how many tokens of a completion its thoughts take; the others are its reply, with the end token.

    Args:
        tokenizer: which wrote the text.
        ids: tokens of the completion.
        text: of the completion, with the mark in front that its prompt may end with, see `opened_thought`.
    """
    end = thoughts_end(text)
    if not end:
        return 0
    length = lambda tokens: len(tokenizer.decode(ids[:tokens], skip_special_tokens=True))
    return bisect.bisect_left(range(len(ids)), end - len(text) + length(len(ids)), key=length)


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
