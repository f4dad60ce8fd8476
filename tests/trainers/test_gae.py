"""Advantages against their definition, one sum per token, and the figures around them by hand."""

import math
import random

import pytest
import torch

from empathy_trl.trainers import gae


def scalar_advantages(rewards, values, mask, gamma, lam):
    """The definition, one sum per token: A_t = sum over l of (gamma lambda)^l delta_{t+l}, over the tokens that count."""
    kept = [t for t, counts in enumerate(mask) if counts]
    deltas = [
        rewards[t] + (gamma * values[kept[i + 1]] if i + 1 < len(kept) else 0.0) - values[t] for i, t in enumerate(kept)
    ]
    result = [0.0] * len(mask)
    for i, t in enumerate(kept):
        result[t] = sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(kept)))
    return result


@pytest.mark.parametrize("seed", range(20))
def test_advantages_equal_their_definition_on_random_masks(seed):
    draw = random.Random(seed)
    rows, length = draw.randint(1, 5), draw.randint(1, 12)
    rewards, values = ([[draw.gauss(0, 1) for _ in range(length)] for _ in range(rows)] for _ in range(2))
    mask = [[int(draw.random() < 0.7) for _ in range(length)] for _ in range(rows)]
    gamma, lam = draw.random(), draw.random()
    tensors = [torch.tensor(each, dtype=torch.float64) for each in (rewards, values, mask)]
    found, returns = gae.advantages_and_returns(*tensors, gamma, lam)
    for row in range(rows):
        expected = scalar_advantages(rewards[row], values[row], mask[row], gamma, lam)
        assert found[row].tolist() == pytest.approx(expected)
        wanted = [(a + v) * m for a, v, m in zip(expected, values[row], mask[row], strict=True)]
        assert returns[row].tolist() == pytest.approx(wanted)


SCORES = {
    "at the last token": ([1, 1, 1], [-0.5, -0.25, 1.875]),
    "before the padding": ([1, 1, 0], [-0.5, 1.75, 0]),
    "before what a tool wrote": ([1, 0, 0], [1.5, 0, 0]),
    "after a hole": ([0, 1, 1], [0, -0.25, 1.875]),
    "nowhere in an empty row": ([0, 0, 0], [0, 0, 0]),
}


@pytest.mark.parametrize("mask, expected", SCORES.values(), ids=SCORES)
def test_the_score_is_paid_once_and_the_kl_everywhere(mask, expected):
    penalties = torch.tensor([[0.5, 0.25, 0.125]])
    assert gae.token_rewards(torch.tensor([2.0]), penalties, torch.tensor([mask])).tolist() == [expected]


def test_kl_estimators():
    policy, reference = torch.log(torch.tensor([0.5, 0.2])), torch.log(torch.tensor([0.25, 0.4]))
    assert gae.per_token_kl(policy, reference, "k1").tolist() == pytest.approx([math.log(2), -math.log(2)])
    # q/p - 1 - log(q/p) for q/p = 1/2 and 2
    assert gae.per_token_kl(policy, reference, "k3").tolist() == pytest.approx([math.log(2) - 0.5, 1 - math.log(2)])


def test_whitening_counts_only_what_the_mask_keeps():
    values, mask = torch.tensor([[1.0, 3.0, 100.0], [5.0, -7.0, 7.0]]), torch.tensor([[1, 1, 0], [1, 0, 1]])
    white = gae.whitened(values, mask)
    kept = white[mask.bool()]
    assert kept.mean().item() == pytest.approx(0, abs=1e-6) and kept.var(unbiased=False).item() == pytest.approx(1)
    assert white[~mask.bool()].tolist() == [0, 0]


def test_whitening_uses_the_sums_of_all_processes():
    """What one of two processes with equal data computes is what it would compute alone."""
    values, mask = torch.tensor([[1.0, 3.0, 5.0]]), torch.ones(1, 3)
    assert torch.allclose(gae.whitened(values, mask, lambda sums: 2 * sums), gae.whitened(values, mask))


@pytest.mark.parametrize(
    "values, expected", [([1, 2, 3], 1.0), ([2, 2, 2], 0.0), ([3, 2, 1], -3.0)], ids=["perfect", "constant", "worse"]
)
def test_explained_variance(values, expected):
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 99.0]]), torch.tensor([[1, 1, 1, 0]])
    found = gae.explained_variance(torch.tensor([[*map(float, values), 0.0]]), returns, mask)
    assert found == pytest.approx(expected)


def test_explained_variance_of_equal_returns_is_undefined():
    assert gae.explained_variance(torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3)) is None


# the value, the one of the rollout, the return -> loss, clipped
VALUE_LOSSES = [
    (1.1, 1.0, 2.0, 0.405, False),  # within the range: (0.9)^2 / 2
    (1.5, 1.0, 2.0, 0.32, True),  # clipped to 1.2: (0.8)^2 / 2 is larger than (0.5)^2 / 2
    (0.5, 1.0, 2.0, 1.125, False),  # moved away from the return: the free error is larger
]


@pytest.mark.parametrize("value, old, target, loss, is_clipped", VALUE_LOSSES)
def test_value_loss_is_pessimistic(value, old, target, loss, is_clipped):
    found, clipped = gae.clipped_value_loss(*(torch.tensor([[x]]) for x in (value, old, target)), cliprange=0.2)
    assert found.item() == pytest.approx(loss, rel=1e-5)
    assert clipped.item() is is_clipped
