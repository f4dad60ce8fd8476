"""Generalised advantage estimation (GAE) over padded completions, the value loss, and the KL per token.

All tensors have the shape (rows, completion_length). A mask of the same shape is 1 for a token that the policy chose, and 0
for padding and the output of tools. A masked token is skipped, as if the tokens before and after it were neighbours.
"""

import torch


def per_token_kl(log_probs: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """Return an estimate of KL(policy || reference) per token, in nats.

    Args:
        log_probs, reference: of the sampled tokens under the policy that sampled them and under the reference.
        estimator: `k1`, log p - log q, unbiased and of either sign; or `k3`, q/p - 1 - log(q/p), unbiased, never negative,
            and of less variance (Schulman 2020, http://joschu.net/blog/kl-approx.html).
    """
    log_ratio = reference - log_probs
    return -log_ratio if estimator == "k1" else torch.expm1(log_ratio) - log_ratio


def token_rewards(scores: torch.Tensor, penalties: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return minus the penalty at every token that counts, and the score besides at the last one.

    Args:
        scores: shape (rows,).
        penalties: per token.
    """
    last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)  # of a row without any token it is masked out again
    rewards = -penalties
    rewards = rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))
    return rewards * mask


def advantages_and_returns(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and returns of every token, 0 where the mask is (Schulman et al. 2016, arXiv 1506.02438).

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1}, R_t = A_t + V_t; after the last token both are 0.

    Args:
        rewards: per token.
        values: what the critic expects before each token.
        gamma, lam: discount, and how far the estimate looks ahead; both in [0, 1].
    """
    advantages = torch.zeros_like(values)
    next_value = next_advantage = values.new_zeros(len(values))
    counts = mask.bool()
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(counts[:, t], advantage, 0.0)
        next_advantage = torch.where(counts[:, t], advantage, next_advantage)
        next_value = torch.where(counts[:, t], values[:, t], next_value)
    return advantages, (advantages + values) * mask


def moments(values: torch.Tensor, mask: torch.Tensor, total=lambda sums: sums) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance over the tokens that count; 0 where there are none.

    Args:
        total: adds a tensor up over all processes.
    """
    mask = mask.to(values.dtype)
    amount, number = total(torch.stack([(values * mask).sum(), mask.sum()]))
    mean = amount / number.clamp(min=1)
    spread = total((((values - mean) ** 2) * mask).sum())
    return mean, spread / number.clamp(min=1)


def whitened(values: torch.Tensor, mask: torch.Tensor, total=lambda sums: sums) -> torch.Tensor:
    """Return values with mean 0 and variance 1 over the tokens that count (of all processes), 0 elsewhere."""
    mean, variance = moments(values, mask, total)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def explained_variance(
    values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, total=lambda sums: sums
) -> float | None:
    """Return 1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant, below 0 for a worse one.

    None where all returns are equal.
    """
    _, unexplained = moments(returns - values, mask, total)
    _, variance = moments(returns, mask, total)
    return None if variance < 1e-8 else (1 - unexplained / variance).item()


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of every token, and where it was clipped.

    Half the squared error, or that of the value moved by at most `cliprange` from the one at the time of the rollout,
    whichever is larger (the implementation of Schulman et al. 2017, arXiv 1707.06347).
    """
    near = old_values + (values - old_values).clamp(-cliprange, cliprange)
    free, clipped = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.maximum(free, clipped), clipped > free
