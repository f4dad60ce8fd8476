"""Rows that share a prompt, packed behind one copy of it, and the attention over such a packed row.

**Packing.** Every token-wise layer of a transformer (projections, norms, the MLP, the vocabulary head) does the same work on
each copy of a prompt. So all rows of a batch become one row of tokens without repetition and without padding:

    [prompt A without its last token] [prompt B without its last token] ... [A's last token, completion 1 of A] ...

A prompt's last token predicts a different first token in each completion, so it stands at the start of every
completion, at the same position. A completion's last token predicts nothing and is left out.

**Attention.** `PackedAttention` decides which token sees which. transformers looks up a model's attention function by name. `install` registers a function of ours under a new name and
gives it to the model. It behaves like the original function until a forward pass brings the argument `shared_prefix`.
The object in that argument then defines which token sees which, builds rows from the packed ones, and calls the
original function on them. The original function still handles heads, grouped keys, soft-capping and dropout; sliding
windows are passed to us as an argument and become part of the mask. The argument travels with the call, so gradient
checkpointing repeats the same computation in the backward pass.

Unlike one mask over the whole packed row, this computes only what some token really sees: the work of the plain layout
minus the repeated prompts, by dense kernels.
"""

import dataclasses
import sys
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from empathy_trl.errors import UserError

IGNORED = -100  # the label of a position that predicts nothing
PREFIX = "shared_prefix_"
BASES = ("sdpa", "eager")
# Plain attention over all or the last few tokens; other kinds (recurrent, chunked) carry state of their own
LAYER_TYPES = {"full_attention", "sliding_attention"}
COMPILED = "torch_compile would recompile for every batch"  # a reason that is in the settings, not in the model


def decide(setting: bool | str, reason: str | None, key: str) -> bool:
    """Return whether prompts are shared.

    Args:
        setting: of `shared_prefix`: auto, True or False.
        reason: why prompts cannot be shared, or None where they can.
        key: where the setting stands, for the message.

    Raises:
        UserError: sharing is demanded and there is a reason against it.
    """
    if setting is True and reason:
        raise UserError(f"{key}: true, but prompts cannot be shared: {reason}. Set auto or false")
    return setting is not False and not reason


def unsupported(model) -> str | None:
    """Return why a model cannot share prompts, or None when it can.

    Args:
        model: a transformers model, without PEFT or distributed wrappers.
    """
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        return "the model is an encoder-decoder"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} does not use transformers' attention interface"
    if getattr(model, "_is_stateful", False):
        return f"{type(model).__name__} has recurrent layers"
    other = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if other:
        return f"the model has layers of type {', '.join(sorted(other))}"
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "the model is spread over several devices"
    name = config._attn_implementation.removeprefix(PREFIX)
    if name not in BASES:
        return f"the model's attention is {name}; load it with attn_implementation: sdpa"
    return None


def install(model) -> None:
    """Let a supported model's attention understand `shared_prefix`; without that argument it computes as before."""
    config = model.config.get_text_config()
    if not config._attn_implementation.startswith(PREFIX):
        model.set_attn_implementation(PREFIX + config._attn_implementation)


def _sdpa(module, query, key, value, attention_mask, *, shared_prefix=None, **kwargs):
    return _attend(sdpa_attention_forward, module, query, key, value, attention_mask, shared_prefix, kwargs)


def _eager(module, query, key, value, attention_mask, *, shared_prefix=None, **kwargs):
    # every modeling file has its own, because the details (soft-capping, sinks) differ
    files = (sys.modules[parent.__module__] for parent in type(module).__mro__)
    base = next(file.eager_attention_forward for file in files if hasattr(file, "eager_attention_forward"))
    return _attend(base, module, query, key, value, attention_mask, shared_prefix, kwargs)


def _attend(base, module, query, key, value, attention_mask, shared_prefix, kwargs):
    if shared_prefix is None:
        return base(module, query, key, value, attention_mask, **kwargs)
    shared_prefix.windows.append(kwargs.get("sliding_window"))
    shared_prefix.dtype = value.dtype  # under autocast, rotary embeddings turn queries and keys to float32
    return shared_prefix.attend(base, module, query, key, value, **kwargs), None


for _name, _function in (("sdpa", _sdpa), ("eager", _eager)):
    AttentionInterface.register(PREFIX + _name, _function)
    AttentionMaskInterface.register(PREFIX + _name, ALL_MASK_ATTENTION_FUNCTIONS[_name])


def require_all_layers(layout, *models, calls: int = 1):
    """Make sure that `shared_prefix`, and a sliding window where there is one, has reached all attention layers.

    Args:
        layout: what has been handed to the model.
        models: the transformers models that have read it, without wrappers.
        calls: forward passes of each since the layout was made.

    Raises:
        RuntimeError: some layer has not been reached; its attention was wrong.
    """
    configs = [model.config.get_text_config() for model in models]
    expected = calls * sum(config.num_hidden_layers for config in configs)
    if len(layout.windows) != expected:
        raise RuntimeError(f"{expected} attention layers need the shared prefix, {len(layout.windows)} received it")
    if any(map(_slides, configs)) and not any(layout.windows):
        raise RuntimeError("the attention layers do not receive the size of the sliding window")


def _slides(config) -> bool:
    types = getattr(config, "layer_types", None) or ["sliding_attention"]
    return "sliding_attention" in types and bool(getattr(config, "sliding_window", None))


def for_base(base, visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the mask as `base` wants it: SDPA takes booleans, eager attention adds numbers to its scores."""
    return visible if base is sdpa_attention_forward else added(visible, dtype)


def added(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask of booleans as numbers that are added to scores."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def inputs_for(layout, device) -> dict:
    """Return the arguments that make a model with `install`ed attention use a layout."""
    # a 4-D mask is handed on as it is by transformers, instead of a mask of its own; nothing reads it
    return {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device), "shared_prefix": layout}


class PackedAttention:
    """Attention within a row packed by `pack`.

    Prompts attend to themselves, completions to their prompt and themselves. Indices point into the packed row;
    padding, on the right, points at 0. This is no dataclass: FSDP2, which casts what a layer is given, copies dataclasses for
    each layer, so that no layer would be counted and every one would build the masks.

    Args:
        prompt_index: shape (prompts, longest prompt).
        prompt_valid: same shape, False for padding.
        completion_index: shape (completions, longest completion).
        group: shape (completions,): the number of each completion's prompt.
        starts: shape (completions,): the position of each completion's first token.
        place: shape (tokens,): where each packed token lies in all prompts, then all completions, flattened.

    Attributes:
        windows: what each layer that used this layout said of its sliding window.
        dtype: of the values in the last of them, the type that the model computes in.
    """

    def __init__(self, prompt_index, prompt_valid, completion_index, group, starts, place):
        self.prompt_index, self.prompt_valid, self.completion_index = prompt_index, prompt_valid, completion_index
        self.group, self.starts, self.place = group, starts, place
        self.key_index = torch.cat([prompt_index[group], completion_index], dim=1)
        self.windows, self.dtype = [], None
        self._visible = {}

    @classmethod
    def build(cls, prompt_index, prompt_valid, completion_index, completion_valid, group, starts) -> "PackedAttention":
        """Return the layout with `place` worked out."""
        flat_valid = torch.cat([prompt_valid.flatten(), completion_valid.flatten()])
        flat_index = torch.cat([prompt_index.flatten(), completion_index.flatten()])
        place = torch.empty(int(flat_valid.sum()), dtype=torch.long)
        place[flat_index[flat_valid]] = flat_valid.nonzero()[:, 0]
        return cls(prompt_index, prompt_valid, completion_index, group, starts, place)

    def to(self, device) -> "PackedAttention":
        """Return the same layout on another device."""
        indices = self.prompt_index, self.prompt_valid, self.completion_index, self.group, self.starts, self.place
        return PackedAttention(*(index.to(device) for index in indices))

    def model_inputs(self) -> dict:
        """Return the arguments that make a model with `install`ed attention use this layout."""
        return inputs_for(self, self.place.device)

    def attend(self, base, module, query, key, value, sliding_window=None, **kwargs) -> torch.Tensor:
        """Return the attention output of shape (1, tokens, heads, head size).

        Args:
            base: the attention function to use on ordinary rows.
            query, key, value: shape (1, heads, tokens, head size).
        """
        arguments = (base, module, query, key, value, sliding_window, kwargs)
        if query.device.type != "cpu" or not torch.is_grad_enabled():
            return self._attend(*arguments)
        # else autograd keeps every row's copies of keys and values, which are quickly made again
        has_dropout = bool(kwargs.get("dropout"))
        return checkpoint(self._attend, *arguments, use_reentrant=False, preserve_rng_state=has_dropout)

    def _attend(self, base, module, query, key, value, sliding_window, kwargs) -> torch.Tensor:
        dtype = value.dtype  # under autocast, rotary embeddings turn queries and keys to float32
        if query.device.type == "cpu" and dtype.itemsize == 2:  # the backward pass takes two to three times as long
            whole = (each.float() for each in (query, key, value))
            with torch.autocast("cpu", enabled=False):
                return self._attend(base, module, *whole, sliding_window, kwargs).to(dtype)
        prompts, completions = self.visible(sliding_window)
        outputs = [
            base(
                module,
                _take(query, queries),
                _take(key, keys),
                _take(value, keys),
                None if causal and base is sdpa_attention_forward else for_base(base, visible, query.dtype),
                **kwargs,
            )[0]
            for queries, keys, visible, causal in (
                (self.prompt_index, self.prompt_index, prompts, sliding_window is None),
                (self.completion_index, self.key_index, completions, False),
            )
            if queries.numel()
        ]
        heads, size = outputs[0].shape[2:]
        flat = torch.cat([output.reshape(-1, heads * size) for output in outputs])
        return F.embedding(self.place, flat).view(1, -1, heads, size)

    def visible(self, sliding_window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what prompts and completions see, bool, shapes (1, 1, p, p) and (completions, 1, c, p + c).

        The prompts' mask knows no padding: it is on the right, where no token looks.
        """
        if sliding_window not in self._visible:
            device = self.group.device
            prompt, completion = self.prompt_index.shape[1], self.completion_index.shape[1]
            prompt_at = torch.arange(prompt, device=device)
            own_at = self.starts[:, None] + torch.arange(completion, device=device)
            key_at = torch.cat([prompt_at.expand(len(own_at), -1), own_at], dim=1)
            prompt_valid = self.prompt_valid[self.group]
            # padding after a completion lies where none of its tokens looks, padding after a prompt does not
            key_valid = torch.cat([prompt_valid, prompt_valid.new_ones(self.completion_index.shape)], dim=1)
            self._visible[sliding_window] = (
                _window(prompt_at[None], prompt_at[None], sliding_window)[:, None],
                (_window(own_at, key_at, sliding_window) & key_valid[:, None])[:, None],
            )
        return self._visible[sliding_window]


def _window(query_at: torch.Tensor, key_at: torch.Tensor, sliding_window: int | None) -> torch.Tensor:
    """Return which keys are at or before a query and less than `sliding_window` back, shape (rows, queries, keys)."""
    back = query_at[:, :, None] - key_at[:, None, :]
    return (back >= 0) if sliding_window is None else (back >= 0) & (back < sliding_window)


def _take(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return rows of a packed row: (1, heads, tokens, size) and index (rows, length) to (rows, heads, length, size)."""
    _, heads, tokens, size = states.shape
    # an embedding is the gather whose backward is fastest on a CPU, several times faster than that of indexing
    rows = F.embedding(index, states.transpose(1, 2).reshape(tokens, heads * size))
    return rows.view(*index.shape, heads, size).transpose(1, 2)


@dataclasses.dataclass
class PackedBatch:
    """A batch without repetition, and the way back to its rows.

    Attributes:
        inputs: for the model: `input_ids`, `position_ids` and `shift_labels` of shape (1, tokens), `attention_mask` and
            `shared_prefix`.
        scored: bool, shape (rows, completion_length): False where a completion has ended.
        source, target: long, shape (completion tokens,): where a token is predicted in the packed row, and where it
            stands in the flattened (rows, completion_length).
        plain_tokens: how many tokens the model would read without packing: those of all rows, padded to the longest.
    """

    inputs: dict
    scored: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    plain_tokens: int

    @property
    def tokens(self) -> int:
        """How many tokens the model reads."""
        return self.inputs["input_ids"].shape[1]

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """Bring values of the packed row back to their rows, with zeros after the end of a completion.

        Args:
            values: shape (1, tokens, ...), one for every packed position: log-probabilities, or the hidden states that
                predict the next token.

        Returns:
            shape (rows, completion_length, ...), aligned with the completion tokens as TRL's log-probabilities are.
        """
        rows = values.new_zeros(self.scored.numel(), *values.shape[2:])
        # indices instead of masks: on a GPU a mask makes the host wait to learn how many there are
        rows = rows.index_copy(0, self.target, values[0].index_select(0, self.source))
        return rows.view(*self.scored.shape, *values.shape[2:])


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int) -> PackedBatch:
    """Pack a batch of TRL's.

    Args:
        input_ids: long, shape (rows, prompt_length + completion_length); prompts padded on the left and never empty,
            completions padded on the right. Rows with the same prompt need not be neighbours.
        attention_mask: same shape, 1 for tokens and 0 for padding.
        completion_length: columns that belong to completions.
    """
    device = input_ids.device
    ids, mask = input_ids.cpu(), attention_mask.cpu().bool()  # one transfer each; the rest is bookkeeping
    prompt_width = ids.shape[1] - completion_length
    prompts = [row[kept] for row, kept in zip(ids[:, :prompt_width], mask[:, :prompt_width], strict=True)]
    completions = [row[kept] for row, kept in zip(ids[:, prompt_width:], mask[:, prompt_width:], strict=True)]
    first, group = distinct(prompt.tolist() for prompt in prompts)
    prompts = [prompts[row] for row in first]

    heads = [prompt[:-1] for prompt in prompts]
    # a row whose completion is masked out keeps one token, so that it stays connected to the model as TRL's rows do
    tails = [torch.cat([prompts[group[row]][-1:], tokens[:-1]]) for row, tokens in enumerate(completions)]
    labels = [torch.full_like(head, IGNORED) for head in heads]
    labels += [tokens if len(tokens) else torch.tensor([IGNORED]) for tokens in completions]
    starts = torch.tensor([len(heads[number]) for number in group])
    positions = [torch.arange(len(head)) for head in heads]
    positions += [torch.arange(len(tail)) + start for tail, start in zip(tails, starts, strict=True)]

    layout = PackedAttention.build(
        *_places(heads, 0), *_places(tails, sum(map(len, heads))), torch.tensor(group), starts
    )
    parts = {"input_ids": heads + tails, "position_ids": positions, "shift_labels": labels}
    inputs = {name: torch.cat(pieces)[None] for name, pieces in parts.items()}
    scored = mask[:, prompt_width:]
    # completions follow each other in the order of the rows
    source, target = (inputs["shift_labels"][0] != IGNORED).nonzero()[:, 0], scored.flatten().nonzero()[:, 0]
    longest = max(map(len, prompts)) + max(map(len, completions))
    inputs = {name: values.to(device) for name, values in inputs.items()} | layout.to(device).model_inputs()
    return PackedBatch(inputs, *(index.to(device) for index in (scored, source, target)), longest * len(ids))


def distinct(rows: Iterable[list[int]]) -> tuple[list[int], list[int]]:
    """Number equal rows alike, in the order in which they come first.

    Returns:
        the index of the first row of every number; and for every row its number.
    """
    numbers, first = {}, {}
    group = [numbers.setdefault(tuple(row), len(numbers)) for row in rows]
    for index, number in enumerate(group):
        first.setdefault(number, index)
    return list(first.values()), group


def _places(segments: list[torch.Tensor], first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return index and validity, shape (segments, longest), of segments that lie one after another from `first` on."""
    lengths = torch.tensor([len(segment) for segment in segments])
    column = torch.arange(int(lengths.max()))
    valid = column < lengths[:, None]
    starts = first + lengths.cumsum(0) - lengths
    return torch.where(valid, starts[:, None] + column, 0), valid


def trim(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Cut off the columns that are padding in every row; at least one column of completions stays.

    Returns:
        ids, mask, and how many of their columns belong to completions.
    """
    columns = attention_mask.any(0).nonzero()[:, 0]
    first, last = columns[0].item(), columns[-1].item() + 1
    prompt_width = input_ids.shape[1] - completion_length
    last = max(last, prompt_width + 1)
    return input_ids[:, first:last], attention_mask[:, first:last], last - prompt_width
