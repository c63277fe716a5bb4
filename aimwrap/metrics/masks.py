"""What counts as the object, and how a binary mask covers it: precision, recall, intersection over union."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import convert_bounding_box_format


def boxes_to_masks(boxes: Sequence[ArrayLike], size: tuple[int, int]) -> Tensor:
    """Turn bounding boxes into object masks, for data sets that have no masks.

    A pixel belongs to the object where its centre is in at least one of the image's boxes (their union, so that
    overlaps count once). A box reaches from x0 up to, but without, x1: the whole-number box (0, 0, 2, 1) covers two
    pixels. What is outside the image is cut off.

    Args:
        boxes: per image an (M_i, 4) tensor, array or list, in pixels of the mask, as x0, y0, x1, y1 with x to the right
            and y down; (0, 4) for an image without any box, whose mask is then empty. torchvision's ``BoundingBoxes``
            may be of any format that is not rotated.
        size: height and width of the masks, in pixels.

    Returns:
        (N, H, W) bool, on the device of the boxes.

    Raises:
        ValueError: if a tensor is not (M, 4) or a box ends before it begins.

    >>> boxes_to_masks([torch.tensor([[0, 0, 2, 1], [1, 0, 3, 1]])], size=(2, 4)).int()
    tensor([[[1, 1, 1, 0],
             [0, 0, 0, 0]]], dtype=torch.int32)
    """
    height, width = size
    masks = [_box_union(image_boxes, height, width, image) for image, image_boxes in enumerate(boxes)]
    return torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)


def _box_union(given: ArrayLike, height: int, width: int, image: int) -> Tensor:
    boxes = given if isinstance(given, Tensor) else torch.tensor(np.asarray(given))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes must hold one (M, 4) tensor of x0, y0, x1, y1 per image, got {tuple(boxes.shape)} for image "
            f"{image}: for one box write box[None], for none torch.zeros(0, 4)."
        )
    if isinstance(boxes, tv_tensors.BoundingBoxes):  # which know what their numbers are
        boxes = convert_bounding_box_format(boxes, new_format="XYXY").as_subclass(Tensor)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(dim=1)  # (M, 1) each
    if not bool(((x1 >= x0) & (y1 >= y0)).all()):  # nor if one is NaN
        raise ValueError(
            f"boxes must be x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {boxes.tolist()} for image {image}: "
            'torchvision.ops.box_convert(boxes, "xywh", "xyxy") converts boxes with width and height.'
        )
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    columns, rows = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    return (rows[:, :, None] & columns[:, None, :]).any(dim=0)


def object_weights(object_mask: Tensor, threshold: float | None, count: int | None = None) -> Tensor:
    """How much each position belongs to the object, (N, H, W) float32: 0 or 1, or the mask's values without threshold.

    >>> object_weights(torch.tensor([[[0.2, 0.9]]]), threshold=0.5)
    tensor([[[0., 1.]]])
    """
    if object_mask.ndim == 4 and object_mask.shape[1] == 1:
        object_mask = object_mask[:, 0]
    object_mask = object_mask.detach()
    if object_mask.ndim != 3 or 0 in object_mask.shape[1:] or (count is not None and len(object_mask) != count):
        images, reason = ("N", "") if count is None else (str(count), ", one per image")
        raise ValueError(
            f"object_mask must be ({images}, H, W) or ({images}, 1, H, W){reason}, got {tuple(object_mask.shape)}."
        )
    if not bool(object_mask.isfinite().all()):
        raise ValueError("object_mask must be finite, got NaN or infinity: leave such images out.")
    if threshold is not None:
        if math.isnan(threshold):
            raise ValueError("threshold must be a number, or None for a soft object, got nan.")
        return (object_mask > threshold).float()
    weights = object_mask.float()
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ValueError(
            f"object_mask must stay from 0 to 1 where threshold=None takes its values as shares, got "
            f"{weights.min():g} to {weights.max():g}: divide an 8-bit mask by 255, or set a threshold."
        )
    return weights


def mask_precision(
    mask: Tensor, object_mask: Tensor, *, threshold: float | None = 0.5, empty: float = math.nan
) -> Tensor:
    """Share of the mask that is on the object.

    A mask that is on everywhere scores the object's share of the image,
    :func:`~aimwrap.metrics.chance_level`.

    Args:
        mask: (N, 1, h, w) or (N, h, w), exactly 0 or 1, or bool: AIM's merged mask, or any heatmap after a threshold.
            Resized to the object mask by nearest neighbour: each pixel takes the cell that its centre is in.
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
    on, _, both = _areas(mask, object_mask, threshold)
    return _ratio(both, on, empty)


def mask_recall(mask: Tensor, object_mask: Tensor, *, threshold: float | None = 0.5, empty: float = math.nan) -> Tensor:
    """Share of the object that the mask covers. A mask that is on everywhere scores 1.

    Arguments and errors as for :func:`mask_precision`, but ``empty`` is the score where no position belongs to the
    object.

    Returns:
        (N,) float32, from 0 to 1.

    >>> mask_recall(torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[0, 1, 1, 1]]]))
    tensor([0.3333])
    """
    _, on_object, both = _areas(mask, object_mask, threshold)
    return _ratio(both, on_object, empty)


def mask_iou(mask: Tensor, object_mask: Tensor, *, threshold: float | None = 0.5, empty: float = math.nan) -> Tensor:
    """Intersection over union of mask and object. A mask that is on everywhere scores the object's share of the image.

    With a soft object the union is the sum over positions of the larger of the two. Arguments and errors as for
    :func:`mask_precision`, but ``empty`` is the score where mask and object are both empty; 1 counts that as agreement.
    Where only one of them is empty, the score is 0.

    Returns:
        (N,) float32, from 0 to 1.

    >>> mask_iou(torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[0, 1, 1, 1]]]))
    tensor([0.2500])
    """
    on, on_object, both = _areas(mask, object_mask, threshold)
    return _ratio(both, on + on_object - both, empty)


def _areas(mask: Tensor, object_mask: Tensor, threshold: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Positions in the mask, in the object and in both, (N,) each; in part where the object is soft."""
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3:
        raise ValueError(f"mask must be (N, 1, h, w) or (N, h, w), got {tuple(mask.shape)}.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"mask must be 0 or 1 everywhere, got values from {mask.min():g} to {mask.max():g}: apply a "
            "threshold to a heatmap first, such as heatmap > 0.5."
        )
    on_object = object_weights(object_mask, threshold, count=len(mask))
    on = mask.detach().float()
    if on.shape != on_object.shape:
        on = F.interpolate(on[:, None], size=on_object.shape[-2:], mode="nearest-exact")[:, 0]
    return on.sum(dim=(1, 2)), on_object.sum(dim=(1, 2)), (on * on_object).sum(dim=(1, 2))


def _ratio(part: Tensor, whole: Tensor, empty: float) -> Tensor:
    return torch.where(whole > 0, part / whole, empty)
