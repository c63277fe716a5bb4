"""A figure without pyplot, colours and markers that everyone can tell apart, wrapped text, and single images."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito 2008, without black, which is for text, and without yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # 7 markers with 6 colours: 42 pairs before one comes again
RIGHT, WRONG = COLOURS[0], COLOURS[1]  # always together with the words
INK, GREY = "0.15", "0.45"

TITLE, TEXT, SMALL = 12.5, 9.0, 8.5  # font sizes, in points
LINE_SPACING = 1.35
CHARACTER, BOLD = 0.57, 0.66  # mean width of a character, by the size of the font
FINEST_GRID = 32  # positions a side; finer ones would be all lines


def framed_figure(
    width: float,
    height: float,
    title: str,
    explanation: str,
    left: float = 0.1,
    right: float = 0.1,
    constrained: bool = True,
) -> Figure:
    """A white figure that pyplot does not know, so that no one has to close it, with a title and an explanation.

    Both are wrapped: the title on top, the explanation at the bottom between ``left`` and ``right``, which are inches
    like ``width``, and like ``height``, the room between the two texts.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError('drawing needs matplotlib: pip install "aimwrap[plot]"') from error
    title, explanation = wrap(title, width - 0.2, TITLE, BOLD), wrap(explanation, width - left - right, TEXT)
    height += text_height(title, TITLE) + text_height(explanation, TEXT)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08) if constrained else None
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    top, bottom = (None, None) if constrained else (1 - 0.1 / height, 0.1 / height)
    figure.suptitle(title, y=top, va="top", fontsize=TITLE, fontweight="bold")
    style = {"ha": "left", "va": "bottom", "fontsize": TEXT, "linespacing": LINE_SPACING}
    figure.supxlabel(explanation, x=left / width, y=bottom, **style)
    return figure


def wrap(text: str, inches: float, size: float, character: float = CHARACTER) -> str:
    """Break text into lines of about this width; one long word stays one line."""
    most = max(1, int(72 * inches / (size * character)))
    return "\n".join(
        textwrap.fill(line, most, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")
    )


def text_height(text: str, size: float) -> float:
    """Of wrapped text, in inches; 0 for none."""
    return size * LINE_SPACING / 72 * (text.count("\n") + 1) if text else 0.0


def text_width(text: str, size: float) -> float:
    """Of the longest line, in inches, as :func:`wrap` estimates it."""
    return max(map(len, text.split("\n"))) * size * CHARACTER / 72


def draw_image(axes: Axes, image: Tensor) -> None:
    """Show an image (3, H, W) with values in [0, 1]."""
    height, width = image.shape[-2:]
    axes.imshow(plain(image).permute(1, 2, 0).clamp(0, 1).numpy(), extent=(0, width, height, 0))


def draw_mask(axes: Axes, mask: Tensor) -> None:
    """Show a mask (1, h, w) by itself: white where it is 1, one square for each position."""
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
    image = plain(image)
    enlarged = F.interpolate(plain(mask)[None], size=image.shape[-2:], mode="nearest")[0]
    draw_image(axes, torch.where(enlarged > 0.5, image, 0.3 * image.mean(dim=0, keepdim=True)))
    _outline(axes, enlarged[0], "#ffd60a", 1.2)


def draw_heatmap(axes: Axes, image: Tensor, heatmap: Tensor, object_mask: Tensor | None = None) -> None:
    """Show the positive part of a heatmap (h, w) over an image (3, H, W), scaled to its own largest value.

    It is resized bilinearly, as the energy pointing game does. ``object_mask`` (1, H, W) is outlined in white.
    """
    height, width = image.shape[-2:]
    positive = F.interpolate(plain(heatmap)[None, None].clamp(min=0), size=(height, width), mode="bilinear")[0, 0]
    positive = positive / positive.max().clamp(min=1e-12)
    draw_image(axes, plain(image).mean(dim=0, keepdim=True).expand(3, -1, -1))
    axes.imshow(positive.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.7, extent=(0, width, height, 0))
    if object_mask is not None:
        _outline(axes, plain(object_mask)[0], "white", 0.9)


def draw_box(axes: Axes, box: Tensor) -> None:
    """Draw the frame of a box, (4,) as left, top, right, bottom in pixels, over an image: dashed."""
    left, top, right, bottom = plain(box).tolist()
    x, y = [left, right, right, left, left], [top, top, bottom, bottom, top]
    for colour, style in (("black", "-"), ("white", "--")):
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.2, scalex=False, scaley=False)


def _outline(axes: Axes, mask: Tensor, colour: str, linewidth: float) -> None:
    """Draw the border of a mask (H, W), one value per pixel and each at the pixel's centre; none if there is none."""
    if 0 < float(mask.mean()) < 1:
        y, x = (torch.arange(length).add(0.5).numpy() for length in mask.shape)
        axes.contour(x, y, mask.numpy(), levels=[0.5], colors=colour, linewidths=linewidth)
