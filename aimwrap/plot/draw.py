"""One picture into one axes: an image, a mask, a mask over an image, a heatmap over an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FINEST_GRID = 32  # positions a side; finer ones would be all lines


def draw_image(axes: Axes, image: Tensor) -> None:
    """Show an image (3, H, W) with values in [0, 1]."""
    height, width = image.shape[-2:]
    axes.imshow(plain(image).permute(1, 2, 0).clamp(0, 1).numpy(), extent=(0, width, height, 0))


def draw_mask(axes: Axes, mask: Tensor) -> None:
    """Show a mask (1, h, w) by itself: white where it is 1, each position a square of its own."""
    height, width = mask.shape[-2:]
    axes.imshow(
        plain(mask)[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=(0, width, height, 0)
    )
    if max(height, width) <= FINEST_GRID:
        axes.set_xticks(range(width + 1))
        axes.set_yticks(range(height + 1))
        axes.grid(color="0.5", linewidth=0.3)


def draw_masked_image(axes: Axes, image: Tensor, mask: Tensor) -> None:
    """Show an image (3, H, W) as it is where a mask (1, h, w) is 1, dark and grey elsewhere, with the border."""
    height, width = image.shape[-2:]
    image = plain(image)
    enlarged = F.interpolate(plain(mask)[None], size=(height, width), mode="nearest")[0]
    dark = 0.3 * image.mean(dim=0, keepdim=True)
    draw_image(axes, torch.where(enlarged > 0.5, image, dark))
    if 0 < float(enlarged.mean()) < 1:
        _outline(axes, enlarged[0], "#ffd60a", 1.2)


def draw_heatmap(axes: Axes, image: Tensor, heatmap: Tensor, object_mask: Tensor | None = None) -> None:
    """Show the positive part of a heatmap (h, w) over an image (3, H, W), scaled to its own largest value.

    Args:
        axes: where to draw.
        image: (3, H, W) in [0, 1].
        heatmap: (h, w); resized bilinearly, as the energy pointing game does.
        object_mask: (1, H, W), outlined in white if given.
    """
    height, width = image.shape[-2:]
    positive = F.interpolate(plain(heatmap)[None, None].clamp(min=0), size=(height, width), mode="bilinear")[0, 0]
    positive = positive / positive.max().clamp(min=1e-12)
    draw_image(axes, plain(image).mean(dim=0, keepdim=True).expand(3, -1, -1))
    axes.imshow(positive.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.7, extent=(0, width, height, 0))
    if object_mask is not None and 0 < float(plain(object_mask).mean()) < 1:
        _outline(axes, plain(object_mask)[0], "white", 0.9)


def _outline(axes: Axes, mask: Tensor, colour: str, linewidth: float) -> None:
    """Draw the border of a mask (H, W), one value per pixel of the picture and each at the pixel's centre."""
    height, width = mask.shape
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    axes.contour(x.numpy(), y.numpy(), mask.numpy(), levels=[0.5], colors=colour, linewidths=linewidth)
