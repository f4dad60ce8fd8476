"""The packed row of small batches, worked out by hand, and the way back to the rows."""

import pytest
import torch

from empathy_trl.trainers.shared_prefix.packing import distinct, pack, trim
from tests.trainers.shared_prefix.samples import (
    BATCHES,
    RAGGED,
    batch_of,
    gradient_of,
    packed_scores,
    plain_scores,
    scoring_model,
)

NO = -100  # the label of a token that predicts nothing
A, B, C = [11, 12, 13], [21, 22], [31]  # prompts

# rows; which of their completions are masked; input_ids, position_ids and shift_labels of the packed row
LAYOUTS = {
    "one row": ([(A, [41, 42])], [], [11, 12, 13, 41], [0, 1, 2, 3], [NO, NO, 41, 42]),
    "a group": (
        [(A, [41, 42]), (A, [43]), (A, [44, 45, 46])],
        [],
        [11, 12, 13, 41, 13, 13, 44, 45],
        [0, 1, 2, 3, 2, 2, 3, 4],
        [NO, NO, 41, 42, 43, 44, 45, 46],
    ),
    "rows of a prompt that are not neighbours": (
        [(A, [41, 42]), (B, [43, 44]), (A, [45]), (B, [46, 47])],
        [],
        [11, 12, 21, 13, 41, 22, 43, 13, 22, 46],
        [0, 1, 0, 2, 3, 1, 2, 2, 1, 2],
        [NO, NO, NO, 41, 42, 43, 44, 45, 46, 47],
    ),
    "prompts of one token": (
        [(C, [41]), (B, [42]), (C, [43, 44])],
        [],
        [21, 31, 22, 31, 43],
        [0, 0, 1, 0, 1],
        [NO, 41, 42, 43, 44],
    ),
    "a masked completion keeps one token": (
        [(A, [41, 42]), (A, [43, 44]), (B, [45])],
        [1],
        [11, 12, 21, 13, 41, 13, 22],
        [0, 1, 0, 2, 3, 2, 1],
        [NO, NO, NO, 41, 42, NO, 45],
    ),
    "nothing but masked completions": (
        [(A, [41]), (C, [42])],
        [0, 1],
        [11, 12, 13, 31],
        [0, 1, 2, 0],
        [NO, NO, NO, NO],
    ),
}


@pytest.mark.parametrize("rows, masked, input_ids, position_ids, shift_labels", LAYOUTS.values(), ids=LAYOUTS)
def test_the_packed_row(rows, masked, input_ids, position_ids, shift_labels):
    packed = pack(*batch_of(rows).masking(masked))
    assert packed.inputs["input_ids"].tolist() == [input_ids]
    assert packed.inputs["position_ids"].tolist() == [position_ids]
    assert packed.inputs["shift_labels"].tolist() == [shift_labels]
    assert packed.tokens == len(input_ids)


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_labels_come_back_as_the_completions(batch):
    packed = pack(*batch)
    completions = (batch.ids * batch.mask)[:, -batch.completion_length :]
    assert torch.equal(packed.unpack(packed.inputs["shift_labels"]), completions)
    assert torch.equal(packed.scored, batch.scored)


def test_equal_rows_get_the_same_number():
    assert distinct([[7], [1, 2], [7], [1], [1, 2], [7]]) == ([0, 1, 3], [0, 1, 0, 2, 1, 0])
    assert distinct(iter([])) == ([], [])


def test_unpacking_keeps_further_dimensions():
    rows = [(A, [41, 42]), (B, [43]), (A, [44, 45, 46])]
    packed = pack(*batch_of(rows).masking([1]))  # [11 12] [21] [13 41] [22] [13 44 45]
    values = torch.arange(9.0)[None]
    expected = torch.tensor([[3.0, 4, 0], [0, 0, 0], [6, 7, 8]])
    assert torch.equal(packed.unpack(values), expected)
    hidden = torch.stack([values, -values], dim=-1)
    assert torch.equal(packed.unpack(hidden), torch.stack([expected, -expected], dim=-1))


def test_padding_changes_nothing():
    left, right = pack(*RAGGED), pack(*RAGGED.widened(left=3, right=2))
    for name in ("input_ids", "position_ids", "shift_labels"):
        assert torch.equal(left.inputs[name], right.inputs[name])


def test_masked_completions_give_zeros_and_a_gradient_of_zeros():
    model = scoring_model()
    batch = RAGGED.masking(range(len(RAGGED.ids)))
    scores = packed_scores(model, pack(*batch))
    for ours, theirs in zip(scores, plain_scores(model, batch), strict=True):
        assert ours.shape == batch.scored.shape
        assert torch.equal(ours, torch.zeros_like(ours)) and torch.equal(ours, theirs)
    gradient = gradient_of(model, scores)
    assert torch.equal(gradient, torch.zeros_like(gradient))


# masks as text with a bar where the completions begin; the columns that stay; how many of them are completions
TRIMS = {
    "nothing to cut": (["111|11"], (0, 5), 2),
    "padding on both sides": (["0011|1100", "0001|1000"], (2, 6), 2),
    "padding in some rows only": (["0011|1000", "1111|1111", "0001|1100"], (0, 8), 4),
    "completions of one token": (["0111|1", "0011|1"], (1, 5), 1),
    "all completions masked": (["011|000", "001|000"], (1, 4), 1),
    "one completion masked": (["011|000", "001|110"], (1, 5), 2),
    "prompts of one token": (["001|110"], (2, 5), 2),
}


@pytest.mark.parametrize("rows, kept, width", TRIMS.values(), ids=TRIMS)
def test_trim(rows, kept, width):
    mask = torch.tensor([[int(char) for char in row.replace("|", "")] for row in rows])
    ids = torch.arange(mask.numel()).view_as(mask)
    new_ids, new_mask, new_width = trim(ids, mask, len(rows[0].split("|")[1]))
    assert torch.equal(new_ids, ids[:, slice(*kept)])
    assert torch.equal(new_mask, mask[:, slice(*kept)])
    assert new_width == width
