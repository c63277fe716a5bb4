"""Masks as one picture, for loggers: images as they are, and seen through their masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import make_grid

from ..preprocessing import Preprocessing
from ..resizing import resize_to

SHADE = 0.25  # of the brightness that positions outside a mask keep


def seen_through(images: Tensor, masks: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalised images (N, C, H, W) in their own colours, darkened where the masks (N, 1, h, w) are closed.

    In [0, 1]; of other than 1 or 3 channels, their mean (N, 1, H, W).
    """
    mean, std = (images.new_tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    shown = (images * std + mean).clamp(0, 1)
    shown = shown if shown.shape[1] in (1, 3) else shown.mean(1, keepdim=True)
    return shown * (SHADE + (1 - SHADE) * resize_to(masks.to(images), images))


@torch.no_grad()
def mask_grid(
    images: Tensor, masks: Mapping[Any, Tensor] | Tensor, preprocessing: Preprocessing | None = None
) -> Tensor:
    """A row per image: the image, and what each of its masks leaves of it. For TensorBoard, wandb and other loggers.

    Args:
        images: (N, C, H, W), normalised as ``preprocessing`` says, or in [0, 1] without it.
        masks: (N, 1, h, w), or several by name, such as an output's ``masks``; their columns are in this order.
        preprocessing: ``model.preprocessing``, to undo the normalisation.

    Returns:
        (3, height, width) uint8.

    Raises:
        ValueError: if images and masks do not fit each other, or the channels not the preprocessing.

    Example:
        >>> from aimwrap import AIM
        >>> model = AIM("test_convnext", backbone_kwargs={"num_classes": 2}).eval()
        >>> images = torch.rand(2, 3, 64, 64)
        >>> mask_grid(images, model(images).masks).shape  # for example writer.add_image("masks", mask_grid(...), step)
        torch.Size([3, 134, 200])
    """
    columns = list(masks.values()) if isinstance(masks, Mapping) else [masks]
    channels = images.shape[1] if images.ndim == 4 else 0
    prepared = preprocessing or Preprocessing((1, 1), (0.0,) * channels, (1.0,) * channels)
    if not channels or len(prepared.mean) != channels or len(images) == 0:
        raise ValueError(
            f"images must be (N, C, H, W) of {len(prepared.mean) or 'some'} channels, got {tuple(images.shape)}"
        )
    for mask in columns:
        if mask.ndim != 4 or mask.shape[:2] != (len(images), 1):
            raise ValueError(f"masks must be ({len(images)}, 1, h, w), one per image, got {tuple(mask.shape)}")
        if not bool(((mask >= -1e-3) & (mask <= 1.001)).all()):
            raise ValueError(f"masks must be from 0 to 1, got {mask.min():g} to {mask.max():g}")
    shown = [images.new_ones(len(images), 1, 1, 1), *columns]
    rows = torch.stack([seen_through(images, mask, prepared) for mask in shown], 1).flatten(0, 1)
    grid: Tensor = make_grid(rows.float().cpu(), nrow=len(shown))
    return (255 * grid).round().byte()
