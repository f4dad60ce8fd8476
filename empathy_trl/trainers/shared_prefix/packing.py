"""Rows that share a prompt, packed behind one copy of it.

Every token-wise layer of a transformer (projections, norms, the MLP, the vocabulary head) does the same work on each
copy of a prompt. So all rows of a batch become one row of tokens without repetition and without padding:

    [prompt A without its last token] [prompt B without its last token] ... [A's last token, completion 1 of A] ...

A prompt's last token predicts a different first token in each completion, so it stands at the start of every
completion, at the same position. A completion's last token predicts nothing and is left out. The attention decides
which token sees which: see `empathy_trl.trainers.shared_prefix.attention.PackedAttention`.
"""

import dataclasses
from collections.abc import Iterable

import torch

from empathy_trl.trainers.shared_prefix.attention import PackedAttention

IGNORED = -100  # the label of a position that predicts nothing


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
