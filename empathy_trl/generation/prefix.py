"""What all prompts of an evaluation begin with, read once: mostly the system message and the instruction.

Its keys and values are computed for one row and copied for every batch, whose rows are then padded between the prefix and what is
their own. Positions are counted over the tokens that are seen, so the padding moves nothing.
"""

import copy
from dataclasses import dataclass

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

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
