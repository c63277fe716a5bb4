"""What counts as the object: a mask, a mask with soft edges, or boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def boxes_to_masks(boxes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Turn bounding boxes into object masks, for data sets that have no masks.

    A pixel belongs to the object where its centre lies in at least one of the image's boxes (their union, so that
    overlaps count once). A box reaches from x0 up to, but without, x1: the whole-number box (0, 0, 2, 1) covers two
    pixels. What lies outside of the image is cut off.

    Args:
        boxes: one (M_i, 4) tensor per image, in pixels of the mask, as x0, y0, x1, y1 with x to the right and y down;
            (0, 4) for an image without any box, whose mask is then empty.
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


def _box_union(boxes: Tensor, height: int, width: int, image: int) -> Tensor:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes must hold one (M, 4) tensor of x0, y0, x1, y1 per image, got {tuple(boxes.shape)} for image "
            f"{image}: for one box write box[None], for none torch.zeros(0, 4)."
        )
    x0, y0, x1, y1 = boxes[:, :, None].unbind(dim=1)  # (M, 1) each
    if bool((x1 < x0).any()) or bool((y1 < y0).any()):
        raise ValueError(
            f"boxes must be x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {boxes.tolist()} for image {image}: "
            'torchvision.ops.box_convert(boxes, "xywh", "xyxy") converts boxes with width and height.'
        )
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    columns, rows = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    return (rows[:, :, None] & columns[:, None, :]).any(dim=0)


def object_weights(object_mask: Tensor, threshold: float | None, count: int | None = None) -> Tensor:
    """How much each position belongs to the object: 0 or 1 behind a threshold, else the mask's own values.

    Args:
        object_mask: (N, H, W) or (N, 1, H, W).
        threshold: a position belongs to the object where the mask is above it; None takes the mask's values, 0 to 1.
        count: N, where it is known from what the object is compared with.

    Returns:
        (N, H, W) float32.

    Raises:
        ValueError: if the shape does not fit, or a soft mask leaves 0 to 1.

    >>> object_weights(torch.tensor([[[0.2, 0.9]]]), threshold=0.5)
    tensor([[[0., 1.]]])
    """
    if object_mask.ndim == 4 and object_mask.shape[1] == 1:
        object_mask = object_mask[:, 0]
    if object_mask.ndim != 3 or (count is not None and len(object_mask) != count):
        images, reason = ("N", "") if count is None else (str(count), ", one per image")
        raise ValueError(
            f"object_mask must be ({images}, H, W) or ({images}, 1, H, W){reason}, got {tuple(object_mask.shape)}."
        )
    if threshold is not None:
        return (object_mask > threshold).float()
    weights = object_mask.float()
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ValueError(
            f"object_mask must stay from 0 to 1 where threshold=None takes its values as shares, got "
            f"{weights.min():g} to {weights.max():g}: divide an 8-bit mask by 255, or set a threshold."
        )
    return weights
