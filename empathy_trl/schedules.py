"""Reward weights that change over training.

A weight in a recipe is a number, or `{start: 0.5, end: 2.0, until: 0.5}`: linear from `start` to `end` over the first
`until` of the training, `end` from there on.
"""


def weight_at(weight, progress: float) -> float:
    """Return the weight at `progress` (share of the optimizer steps done, 0 to 1).

    Args:
        weight: a number, or an object with `start`, `end` and `until` (`empathy_trl.recipe.WeightSchedule`).
    """
    if isinstance(weight, (int, float)):
        return float(weight)
    share = min(1.0, progress / weight.until)
    return weight.start + share * (weight.end - weight.start)
