"""An empty figure without pyplot, the colours and markers that everyone can tell apart, and text that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito 2008, without black, which is for text, and without yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # as many as no multiple of the colours: 42 pairs before one comes again
RIGHT, WRONG = COLOURS[0], COLOURS[1]  # always beside the words
INK, GREY = "0.15", "0.45"
DPI = 110

TITLE, TEXT, SMALL = 12.5, 9.0, 8.5  # font sizes, in points
LINE_SPACING = 1.35


def new_figure(width: float, height: float) -> Figure:
    """A white figure that pyplot does not know, so that nobody has to close it.

    Args:
        width: in inches, likewise ``height``.
        height: see there.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('drawing needs matplotlib: pip install "aimwrap[plot]"') from error
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def wrap(text: str, inches: float, size: float, weight: Literal["normal", "bold"] = "normal") -> str:
    """Break text into lines no wider than this, measured in its own font; what is one word stays one line."""
    trial = new_figure(1, 1).text(0, 0, "", fontsize=size, fontweight=weight)

    def fits(line: str) -> bool:
        trial.set_text(line)
        return bool(trial.get_window_extent().width <= inches * DPI)

    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and not fits(longer):
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return "\n".join(lines)


def text_width(text: str, size: float) -> float:
    """Of the longest line, in inches."""
    return float(new_figure(1, 1).text(0, 0, text, fontsize=size).get_window_extent().width) / DPI


def line_height(size: float) -> float:
    """Of one line of text, in inches."""
    return size * LINE_SPACING / 72


def text_height(text: str, size: float) -> float:
    """Of wrapped text, in inches; 0 for none."""
    return line_height(size) * (text.count("\n") + 1) if text else 0.0


def write_frame(figure: Figure, title: str, explanation: str, left: float) -> None:
    """Write a title on top, in bold, and an explanation at the bottom; both wrapped before, for their heights.

    Args:
        figure: where to write.
        title: wrapped.
        explanation: wrapped.
        left: where the explanation begins, in inches.
    """
    width, height = figure.get_size_inches()
    figure.suptitle(title, fontsize=TITLE, fontweight="bold", y=1 - 0.1 / height, va="top")
    figure.text(left / width, 0.1 / height, explanation, fontsize=TEXT, va="bottom", linespacing=LINE_SPACING)


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
