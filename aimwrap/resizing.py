"""Nearest-neighbour resizing between the stages' grids, and its transpose."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._numerics import without_autocast


def resize_to(x: Tensor, partner: Tensor) -> Tensor:
    """Resize a map to its partner's height and width, nearest neighbour: (N, C, h, w) -> (N, C, H, W)."""
    # Also where the sizes are equal: asking would fix torch.export's dynamic sizes.
    return F.interpolate(x, size=partner.shape[-2:], mode="nearest")


def sum_to(x: Tensor, partner: Tensor) -> Tensor:
    """The transpose of :func:`resize_to`: each position of the partner's grid sums the positions that read it.

    ``(sum_to(x, y) * y).sum()`` is ``(x * resize_to(y, x)).sum()``, without the resized map.

    Args:
        x: (N, C, H, W).
        partner: gives the grid, (..., h, w).

    Returns:
        (N, C, h, w).

    Example:
        >>> sum_to(torch.ones(1, 1, 3, 3), torch.empty(2, 2))
        tensor([[[[4., 2.],
                  [2., 1.]]]])
    """
    rows, columns = (_readers(partner.shape[axis], x.shape[axis], x) for axis in (-2, -1))
    with without_autocast(x):  # bfloat16 counts to 256
        return rows @ x @ columns.mT


def _readers(size: int, finer: int, like: Tensor) -> Tensor:
    """Which of ``finer`` positions read which of ``size``, as zeros and ones: (size, finer)."""
    each = torch.eye(size, device=like.device, dtype=like.dtype)
    return F.interpolate(each[None], size=finer, mode="nearest")[0]
