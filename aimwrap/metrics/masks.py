"""How a binary mask covers the object: precision, recall, intersection over union."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .objects import object_weights


def mask_precision(
    mask: Tensor, object_mask: Tensor, *, threshold: float | None = 0.5, empty: float = math.nan
) -> Tensor:
    """Share of the mask that lies on the object.

    A mask that is on everywhere scores the object's share of the image,
    :func:`~aimwrap.metrics.chance_level`.

    Args:
        mask: (N, 1, h, w) or (N, h, w), exactly 0 or 1, or bool: AIM's merged mask, or any heatmap behind a threshold.
            Resized to the object mask by nearest neighbour: each pixel takes the cell that its centre lies in.
        object_mask: (N, H, W) or (N, 1, H, W).
        threshold: a position belongs to the object where ``object_mask`` is above it; None weighs each position by
            the mask's value, 0 to 1.
        empty: the score where the mask is 0 everywhere and precision undefined. NaN by default, so that it cannot slip
            into a mean unnoticed (``torch.nanmean`` leaves it out).

    Returns:
        (N,) float32, from 0 to 1.

    Raises:
        ValueError: if the shapes do not fit, ``mask`` is not binary, or a soft object leaves 0 to 1.

    >>> mask_precision(torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[0, 1, 1, 1]]]))
    tensor([0.5000])
    """
    areas = _areas(mask, object_mask, threshold)
    return _ratio(areas.both, areas.mask, empty)


def mask_recall(mask: Tensor, object_mask: Tensor, *, threshold: float | None = 0.5, empty: float = math.nan) -> Tensor:
    """Share of the object that the mask covers. A mask that is on everywhere scores 1.

    Args:
        mask: (N, 1, h, w) or (N, h, w), exactly 0 or 1, resized as for :func:`mask_precision`.
        object_mask: (N, H, W) or (N, 1, H, W).
        threshold: as for :func:`mask_precision`.
        empty: the score where no position belongs to the object and recall is undefined. NaN by default.

    Returns:
        (N,) float32, from 0 to 1.

    Raises:
        ValueError: as :func:`mask_precision`.

    >>> mask_recall(torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[0, 1, 1, 1]]]))
    tensor([0.3333])
    """
    areas = _areas(mask, object_mask, threshold)
    return _ratio(areas.both, areas.object, empty)


def mask_iou(mask: Tensor, object_mask: Tensor, *, threshold: float | None = 0.5, empty: float = math.nan) -> Tensor:
    """Intersection over union of mask and object. A mask that is on everywhere scores the object's share of the image.

    With a soft object the union is the sum over positions of the larger of the two.

    Args:
        mask: (N, 1, h, w) or (N, h, w), exactly 0 or 1, resized as for :func:`mask_precision`.
        object_mask: (N, H, W) or (N, 1, H, W).
        threshold: as for :func:`mask_precision`.
        empty: the score where mask and object are both empty. NaN by default; 1 counts that as agreement. Where
            only one of them is empty, the score is 0.

    Returns:
        (N,) float32, from 0 to 1.

    Raises:
        ValueError: as :func:`mask_precision`.

    >>> mask_iou(torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[0, 1, 1, 1]]]))
    tensor([0.2500])
    """
    areas = _areas(mask, object_mask, threshold)
    return _ratio(areas.both, areas.mask + areas.object - areas.both, empty)


class _Areas(NamedTuple):
    """Positions in each and in both, (N,); in part where the object is soft."""

    mask: Tensor
    object: Tensor
    both: Tensor


def _areas(mask: Tensor, object_mask: Tensor, threshold: float | None) -> _Areas:
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3:
        raise ValueError(f"mask must be (N, 1, h, w) or (N, h, w), got {tuple(mask.shape)}.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"mask must be 0 or 1 everywhere, got values from {mask.min():g} to {mask.max():g}: put a heatmap behind a "
            "threshold first, such as heatmap > 0.5."
        )
    on_object = object_weights(object_mask, threshold, count=len(mask))
    on = mask.detach().float()
    if on.shape != on_object.shape:
        on = F.interpolate(on[:, None], size=on_object.shape[-2:], mode="nearest-exact")[:, 0]
    return _Areas(on.sum(dim=(1, 2)), on_object.sum(dim=(1, 2)), (on * on_object).sum(dim=(1, 2)))


def _ratio(part: Tensor, whole: Tensor, empty: float) -> Tensor:
    return torch.where(whole > 0, part / whole, empty)
