"""Masks of an exact area, at inference: the positions that rank highest, as many as the budget allows."""

from __future__ import annotations

import torch
from torch import Tensor


def budgeted_mask(scores: Tensor, area: float) -> Tensor:
    """Open an exact share of each image's positions, those of the highest scores.

    Args:
        scores: mask logits, or anything else that ranks the positions, (N, 1, H, W).
        area: share of the positions, in (0, 1]; it is rounded to whole positions, of which at least one is open.

    Returns:
        The mask, exactly 0 or 1, of the shape and dtype of ``scores``. Of equal scores the first in reading order are
        taken.

    Example:
        >>> budgeted_mask(torch.tensor([[[[0.3, -2.0], [7.0, 0.1]]]]), 0.5)
        tensor([[[[1., 0.],
                  [1., 0.]]]])
    """
    ranked = scores.flatten(1).argsort(dim=1, descending=True, stable=True)
    kept = ranked[:, : max(1, round(area * ranked.shape[1]))]
    return torch.zeros_like(scores).flatten(1).scatter_(1, kept, 1.0).view_as(scores)
