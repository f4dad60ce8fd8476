"""Token ids of several lengths as one rectangle."""

import torch


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
