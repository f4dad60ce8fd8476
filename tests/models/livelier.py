"""A tiny model whose greedy completions differ from prompt to prompt."""

import torch


def make_livelier(model, factor: float = 4) -> None:
    """Make a model's weights larger; as they were drawn, one token is the likeliest after nearly everything."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
