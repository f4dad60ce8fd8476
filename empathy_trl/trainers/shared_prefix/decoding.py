"""Sampling several completions per prompt: a prompt is read once, and its cache is stored once per row of completions.

The completions of a prompt are decoded as neighbouring tokens of a row; a large group is spread over several rows. With
k completions in a row, its cache holds `[prompt][token 1 of all k][token 2 of all k] ...`; a token sees the prompt and
every k-th column after it. The usual method keeps k copies of the prompt's cache and reads all of them for every token.

Everything else comes from transformers: processors, stopping criteria, and the order in which random numbers are drawn,
so that the same seed gives the same completions as `generate` (up to the last bits of the logits).
"""

import dataclasses
import math
from collections import Counter

import torch
import torch.nn.functional as F
from transformers import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from empathy_trl.models.adapters import fused_adapters
from empathy_trl.models.batching import GrowingLayer
from empathy_trl.models.generate import draw
from empathy_trl.trainers.shared_prefix.packing import added, distinct, inputs_for, require_all_layers

# How many columns of neighbours a slot may attend over in vain, for every column that is its own or the prompt's
SLACK = 2
# Rows are dropped from the cache, which copies the rest, when at most this share of them is still read
MOST_KEPT = 0.75


def sample(
    model,
    input_ids: torch.Tensor,
    logits_processor,
    stopping_criteria,
    generation_config,
    **model_kwargs,
) -> torch.Tensor:
    """Sample (or decode greedily) as transformers' `_sample` does; for `generate(..., custom_generate=sample)`.

    The model's attention must be prepared with `empathy_trl.trainers.shared_prefix.packing.install`.

    Args:
        input_ids: shape (rows, prompt), padded on the left; equal rows are decoded together.

    Returns:
        shape (rows, prompt + longest completion), padded with the pad token after the end of a completion.
    """
    mask = model_kwargs["attention_mask"]
    decoder = SharedDecoder(model, input_ids, mask, generation_config.max_length - input_ids.shape[1])
    unfinished = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    with fused_adapters(model):
        logits = decoder.read_prompts()
        while True:
            scores = logits_processor(input_ids, logits.to(torch.float32, copy=True))
            tokens = _choose(scores, generation_config.do_sample)
            if generation_config._pad_token_tensor is not None:
                tokens = torch.where(unfinished, tokens, generation_config._pad_token_tensor)
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
            unfinished = unfinished & ~stopping_criteria(input_ids, None)
            if not unfinished.any():
                return input_ids
            decoder.drop(~unfinished)
            logits = decoder.read(tokens)


class SharedDecoder:
    """Reads repeated prompts once, then one new token of every row at a time.

    Args:
        model: with `install`ed attention.
        input_ids, attention_mask: shape (rows, prompt), padded on the left.
        max_new_tokens: how many tokens per row there may be.
    """

    def __init__(self, model, input_ids: torch.Tensor, attention_mask: torch.Tensor, max_new_tokens: int):
        self.model = model
        first, group = distinct(torch.cat([input_ids, attention_mask], dim=1).tolist())
        self.prompts, self.prompt_mask = input_ids[first], attention_mask[first]
        parents, row, slot = _seats(group, _slots(group, _most_slots(input_ids.shape[1], max_new_tokens)))
        # on the device once, because every token is read with them
        self.group, self.parents, self.row, self.slot = (
            torch.tensor(numbers, device=input_ids.device) for numbers in (group, parents, row, slot)
        )
        self.going = torch.arange(len(row), device=input_ids.device)  # completions whose rows are still read
        mask = self.prompt_mask[self.parents]
        self.starts = mask.sum(1)
        self.cache = Cache(layer_class_to_replicate=GrowingLayer)
        self.layout = DecodeAttention(mask.bool(), slots=max(slot) + 1)

    def read_prompts(self) -> torch.Tensor:
        """Return the logits of every row's first new token, shape (rows, vocabulary)."""
        positions = (self.prompt_mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(self.prompts, positions, attention_mask=self.prompt_mask, logits_to_keep=1)
        if len(self.parents) > len(self.prompts):
            for layer in self.cache.layers:
                layer.batch_select_indices(self.parents)
        return logits[self.group, -1]

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token per row, shape (rows,), and return the logits of the next one, shape (rows, vocabulary)."""
        inputs = tokens.new_zeros(len(self.starts), self.layout.slots)
        inputs[self.row[self.going], self.slot[self.going]] = tokens[self.going]
        positions = (self.starts + self.layout.step)[:, None].expand_as(inputs)
        return self._forward(inputs, positions, **self.layout.next_inputs())[self.row, self.slot]

    def drop(self, finished: torch.Tensor):
        """Stop reading rows whose completions are all finished, bool of shape (rows,), once they are a quarter of what is read.

        The logits of these completions are then those of others.
        """
        kept = self.row[~finished].unique()
        if len(kept) > MOST_KEPT * len(self.starts):
            return
        for layer in self.cache.layers:
            layer.batch_select_indices(kept)
        self.starts = self.starts[kept]
        self.layout.select(kept)
        self.going = self.going[torch.isin(self.row[self.going], kept)]
        self.row = torch.searchsorted(kept, self.row).clamp(max=len(kept) - 1)

    def _forward(self, input_ids, position_ids, **inputs) -> torch.Tensor:
        return self.model(
            input_ids=input_ids, position_ids=position_ids, past_key_values=self.cache, use_cache=True, **inputs
        ).logits


def _most_slots(prompt: int, max_new_tokens: int) -> int:
    """Return how many completions a row holds at most.

    A slot computes attention over the columns of its neighbours, too. That is cheap as long as they are few beside the
    prompt and its own; more completions go to another row, with another copy of the prompt's cache.
    """
    return max(2, SLACK * (prompt + max_new_tokens) // max_new_tokens)


def _slots(group: list[int], most: int) -> int:
    """Return how many completions a row holds: 4 where 8 of a prompt need two rows of at most 7; empty slots cost time."""
    return max(math.ceil(size / math.ceil(size / most)) for size in Counter(group).values())


def _seats(group: list[int], most: int) -> tuple[list[int], list[int], list[int]]:
    """Seat completions side by side, at most `most` in a row.

    Returns:
        the prompt of every row; and for every completion its row and its slot in the row.
    """
    parents, row, slot, open_rows = [], [], [], {}
    for prompt in group:
        if prompt not in open_rows or open_rows[prompt][1] == most:
            open_rows[prompt] = [len(parents), 0]
            parents.append(prompt)
        row.append(open_rows[prompt][0])
        slot.append(open_rows[prompt][1])
        open_rows[prompt][1] += 1
    return parents, row, slot


def _choose(scores: torch.Tensor, do_sample: bool) -> torch.Tensor:
    if do_sample:
        return draw(scores.softmax(-1))
    return scores.argmax(-1)


@torch.no_grad()
def usual_log_probs(model, prompt: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities while a prompt goes on in two ways, shape (2, steps, vocabulary).

    Args:
        prompt: long, shape (tokens,).
    """
    rows, continuations = _continued(prompt)
    ids = torch.cat([rows, continuations], dim=1)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=continuations.shape[1]).logits
    return logits.float().log_softmax(-1)


@torch.no_grad()
def shared_log_probs(model, prompt: torch.Tensor) -> tuple[torch.Tensor, torch.dtype]:
    """Return what `usual_log_probs` returns, by `SharedDecoder`, and the type that it was computed in.

    Raises:
        RuntimeError: some attention layer computes without it.
    """
    rows, continuations = _continued(prompt)
    padded, mask = F.pad(rows, (1, 0)), F.pad(torch.ones_like(rows), (1, 0))
    decoder = SharedDecoder(model, padded, mask, max_new_tokens=continuations.shape[1])
    with fused_adapters(model):
        decoder.read_prompts()
        logits = torch.stack([decoder.read(tokens) for tokens in continuations.T], dim=1)
    require_all_layers(decoder.layout, model, calls=continuations.shape[1])
    return logits.float().log_softmax(-1), decoder.layout.dtype


def _continued(prompt: torch.Tensor, steps: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a prompt twice, shape (2, tokens), and two ways on, shape (2, steps), which show whether they stay apart."""
    ahead = prompt.repeat(steps)[-steps:]
    return prompt.expand(2, -1), torch.stack([ahead, ahead.flip(0)])


@dataclasses.dataclass
class DecodeAttention:
    """Attention of one new token per slot to the row's prompt and the slot's own earlier tokens.

    Attributes:
        prompt_valid: bool, shape (rows, longest prompt), padded on the left.
        slots: completions that are decoded beside each other in a row.
        step: completion tokens that are in the cache.
    """

    prompt_valid: torch.Tensor
    slots: int
    step: int = 0

    def __post_init__(self):
        self.windows, self.dtype = [], None  # as in `PackedAttention`
        self.own = torch.eye(self.slots, dtype=torch.bool, device=self.prompt_valid.device)
        self.visible = self.prompt_valid[:, None].expand(-1, self.slots, -1)
        self._masks = {}

    def next_inputs(self) -> dict:
        """Move on by one token and return the arguments that make a model use this layout."""
        self.step += 1
        self.visible = torch.cat([self.visible, self.own.expand(len(self.visible), -1, -1)], dim=2)
        self._masks = {}
        return inputs_for(self, self.own.device)

    def select(self, rows: torch.Tensor):
        """Keep only some rows, shape (kept rows,), sorted."""
        self.prompt_valid, self.visible, self._masks = self.prompt_valid[rows], self.visible[rows], {}

    def attend(self, base, module, query, key, value, sliding_window=None, **kwargs) -> torch.Tensor:
        """Return the attention output of shape (rows, slots, heads, head size); the new keys are the last ones."""
        rows, heads, slots, size = query.shape
        if base is sdpa_attention_forward:
            # heads that share keys become further queries; as heads, each would get a copy of the keys
            module, query = None, query.reshape(rows, key.shape[1], -1, size)
        output = base(module, query, key, value, self.mask_for(query, sliding_window), **kwargs)[0]
        return output.transpose(1, 2).reshape(rows, heads, slots, -1).transpose(1, 2)

    def mask_for(self, query: torch.Tensor, sliding_window: int | None) -> torch.Tensor:
        """Return what is added to the scores of new tokens, shape (rows, 1, queries, columns); the same in all layers."""
        if sliding_window not in self._masks:
            visible = self.visible if sliding_window is None else self.visible & self.near(sliding_window)
            repeated = visible.repeat(1, query.shape[2] // self.slots, 1)
            self._masks[sliding_window] = added(repeated[:, None], query.dtype)
        return self._masks[sliding_window]

    def near(self, sliding_window: int) -> torch.Tensor:
        """Return which cached columns are less than `sliding_window` positions back, shape (1, 1, columns)."""
        prompt = self.prompt_valid.shape[1]
        at = torch.arange(prompt + self.step, device=self.own.device)
        column_at = torch.cat([at[:prompt], at[prompt:].repeat_interleave(self.slots)])
        return (at[-1] - column_at < sliding_window)[None, None]
