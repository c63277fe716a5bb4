"""Pictures of masks and heatmaps, given tensors. Needs matplotlib (extra ``plot``), imported only to draw."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Panel", "draw_heatmap", "draw_image", "draw_mask", "draw_masked_image", "plot_panels"]


def draw_image(axes: Axes, image: Tensor) -> None:
    """Show an image (3, H, W) with values in [0, 1]."""
    height, width = image.shape[-2:]
    axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), extent=(0, width, height, 0))


def draw_mask(axes: Axes, mask: Tensor) -> None:
    """Show a mask (1, h, w) by itself: white where it is 1, each position a square of its own."""
    height, width = mask.shape[-2:]
    axes.imshow(mask[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=(0, width, height, 0))
    axes.set_xticks(range(width + 1))
    axes.set_yticks(range(height + 1))
    axes.grid(color="0.5", linewidth=0.3)


def draw_masked_image(axes: Axes, image: Tensor, mask: Tensor) -> None:
    """Show an image (3, H, W) as it is where a mask (1, h, w) is 1, dark and grey elsewhere, with the border."""
    height, width = image.shape[-2:]
    enlarged = F.interpolate(mask[None].float(), size=(height, width), mode="nearest")[0]
    dark = 0.3 * image.mean(dim=0, keepdim=True)
    draw_image(axes, torch.where(enlarged > 0.5, image, dark))
    if 0 < float(enlarged.mean()) < 1:
        axes.contour(enlarged[0].numpy(), levels=[0.5], colors="#ffd60a", linewidths=1.2)


def draw_heatmap(axes: Axes, image: Tensor, heatmap: Tensor, object_mask: Tensor | None = None) -> None:
    """Show the positive part of a heatmap (h, w) over an image (3, H, W), scaled to its own largest value.

    Args:
        axes: where to draw.
        image: (3, H, W) in [0, 1].
        heatmap: (h, w); resized bilinearly, as the energy pointing game does.
        object_mask: (1, H, W), outlined in white if given.
    """
    height, width = image.shape[-2:]
    positive = F.interpolate(heatmap[None, None].float().clamp(min=0), size=(height, width), mode="bilinear")[0, 0]
    positive = positive / positive.max().clamp(min=1e-12)
    draw_image(axes, image.mean(dim=0, keepdim=True).expand(3, -1, -1))
    axes.imshow(positive.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.7, extent=(0, width, height, 0))
    if object_mask is not None:
        axes.contour(object_mask[0].numpy(), levels=[0.5], colors="white", linewidths=0.9)


@dataclass(frozen=True)
class Panel:
    """One picture of a grid: what to draw, and a short line beneath.

    Attributes:
        image: (3, H, W) in [0, 1]; None where the mask is shown by itself.
        mask: (1, h, w): alone, or laid over the image.
        heatmap: (h, w), laid over the image.
        object_mask: (1, H, W), outlined on a heatmap.
        caption: beneath the picture.
        highlight: the caption's colour, for instance green for a right prediction and red for a wrong one.
    """

    image: Tensor | None = None
    mask: Tensor | None = None
    heatmap: Tensor | None = None
    object_mask: Tensor | None = None
    caption: str = ""
    highlight: str = "0.15"

    def draw(self, axes: Axes) -> None:
        """Draw what is given."""
        if self.image is None and self.mask is not None:
            draw_mask(axes, self.mask)
        elif self.image is not None and self.heatmap is not None:
            draw_heatmap(axes, self.image, self.heatmap, self.object_mask)
        elif self.image is not None and self.mask is not None:
            draw_masked_image(axes, self.image, self.mask)
        elif self.image is not None:
            draw_image(axes, self.image)
        else:
            raise ValueError("a panel needs an image, or a mask to show by itself; got neither")
        axes.tick_params(length=0, labelbottom=False, labelleft=False)
        axes.set_xlabel(self.caption, fontsize=8.5, color=self.highlight)


def plot_panels(
    rows: Sequence[Sequence[Panel]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    title: str,
    explanation: str,
) -> Figure:
    """Draw a grid of panels with titles and an explanation beneath, on a figure of its own (no pyplot state).

    Args:
        rows: panels, as many in each row as there are column titles.
        column_titles: above the first row.
        row_titles: left of each row.
        title: in bold, above all.
        explanation: sentences beneath the grid; wrapped here.

    Returns:
        The figure; ``figure.savefig("name.png")`` writes it.

    Raises:
        ImportError: without matplotlib, naming the extra.
        ValueError: if the titles do not fit the panels.
    """
    if len(rows) != len(row_titles) or any(len(row) != len(column_titles) for row in rows):
        raise ValueError(
            f"rows must be {len(row_titles)} rows of {len(column_titles)} panels, one per row and column title, "
            f"got rows of {[len(row) for row in rows]}"
        )
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('drawing needs matplotlib: pip install "aimwrap[plot]"') from error
    side = 1.75  # of a panel, in inches
    text = "\n".join(textwrap.wrap(explanation, width=int(26 * len(column_titles))))
    head, foot = 0.75, 0.3 + 0.17 * (text.count("\n") + 1)
    width, height = side * len(column_titles) + 0.9, (side + 0.28) * len(rows) + head + foot
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(column_titles), squeeze=False)
    for row_index, (row, row_title) in enumerate(zip(rows, row_titles, strict=True)):
        for axes, panel in zip(grid[row_index], row, strict=True):
            panel.draw(axes)
        grid[row_index, 0].set_ylabel(row_title, fontsize=9)
    for axes, column_title in zip(grid[0], column_titles, strict=True):
        axes.set_title(column_title, fontsize=9.5)
    figure.subplots_adjust(
        left=0.75 / width,
        right=1 - 0.08 / width,
        top=1 - head / height,
        bottom=(foot + 0.15) / height,
        wspace=0.06,
        hspace=0.2,
    )
    figure.suptitle(title, fontsize=12.5, fontweight="bold", y=1 - 0.1 / height, va="top")
    figure.text(0.75 / width, 0.1 / height, text, fontsize=9, va="bottom", linespacing=1.35)
    return figure
