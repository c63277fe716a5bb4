"""A grid of images with titles, captions and an explanation, for the figures of masks and of heatmaps.

It is laid out in inches: matplotlib's own layouts leave gaps around images, whose proportions are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from . import canvas
from .canvas import SMALL, TEXT, TITLE, framed_figure, text_height, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLUMN_TITLE = 9.5  # in points
WIDEST, WIDEST_PANEL, NARROWEST_PANEL = 15.0, 1.75, 1.15  # inches; many columns make the panels narrower
LEFT, RIGHT = 0.75, 0.08  # margins, in inches
BETWEEN = 0.1  # inches from panel to panel


@dataclass(frozen=True)
class Panel:
    """One panel of a grid: what to draw, and a short caption under it.

    Attributes:
        image: (3, H, W) in [0, 1]; None where the mask is shown by itself.
        mask: (1, h, w): alone, or drawn over the image.
        heatmap: (h, w), drawn over the image.
        object_mask: (1, H, W), outlined on a heatmap.
        caption: under the image; wrapped to its width.
        highlight: the caption's colour, for instance for a right or a wrong prediction. Say it in words, too.
        box: (4,) as left, top, right, bottom in pixels, framed.
    """

    image: Tensor | None = None
    mask: Tensor | None = None
    heatmap: Tensor | None = None
    object_mask: Tensor | None = None
    caption: str = ""
    highlight: str = "0.15"
    box: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what is drawn.

        Raises:
            ValueError: if there is nothing to draw.
        """
        shown = self.mask if self.image is None else self.image
        if shown is None:
            raise ValueError("a panel needs an image, or a mask to show by itself; got neither")
        return shown.shape[-2], shown.shape[-1]

    def draw(self, axes: Axes) -> None:
        """Draw what is given."""
        if self.image is not None and self.heatmap is not None:
            canvas.draw_heatmap(axes, self.image, self.heatmap, self.object_mask)
        elif self.image is not None and self.mask is not None:
            canvas.draw_masked_image(axes, self.image, self.mask)
        elif self.image is not None:
            canvas.draw_image(axes, self.image)
        elif self.mask is not None:
            canvas.draw_mask(axes, self.mask)
        if self.box is not None:
            canvas.draw_box(axes, self.box)
        axes.tick_params(length=0, labelbottom=False, labelleft=False)
        axes.set_xlabel(self.caption, fontsize=SMALL, color=self.highlight, labelpad=4)


def plot_panels(
    rows: Sequence[Sequence[Panel]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    title: str,
    explanation: str,
    *,
    room_below: float = 0.0,
) -> Figure:
    """Draw a grid of panels with titles, and an explanation under it, on a new figure (no pyplot state).

    Args:
        rows: panels, as many in each row as there are column titles.
        column_titles: above the first row.
        row_titles: left of each row.
        title: in bold, on top; wrapped here, like all text.
        explanation: sentences under the grid.
        room_below: inches left free between the grid and the explanation, for what the caller adds.

    Returns:
        The figure; ``figure.savefig("name.png")`` writes it.

    Raises:
        ImportError: without matplotlib, naming the extra.
        ValueError: if the titles do not fit the panels, or a panel is empty.
    """
    if not rows or len(rows) != len(row_titles) or any(len(row) != len(column_titles) for row in rows):
        raise ValueError(
            f"rows must be {len(row_titles)} rows of {len(column_titles)} panels, one per row and column title, "
            f"got rows of {[len(row) for row in rows]}"
        )
    shape = max((panel.shape for row in rows for panel in row), key=lambda shape: shape[0] / shape[1])
    columns = len(column_titles)
    side = min(WIDEST_PANEL, max(NARROWEST_PANEL, WIDEST / columns))
    tall = side * shape[0] / shape[1]
    width = LEFT + columns * side + (columns - 1) * BETWEEN + RIGHT

    column_titles = [wrap(column_title, side, COLUMN_TITLE) for column_title in column_titles]
    row_titles = [wrap(row_title, tall, TEXT) for row_title in row_titles]
    rows = [[replace(panel, caption=wrap(panel.caption, side, SMALL)) for panel in row] for row in rows]

    head, foot = 0.25 + max(text_height(t, COLUMN_TITLE) for t in column_titles), 0.2 + room_below
    below = 0.14 + max(text_height(panel.caption or " ", SMALL) for row in rows for panel in row)
    height = head + len(rows) * (tall + below) + foot
    figure = framed_figure(width, height, title, explanation, LEFT, RIGHT, constrained=False)
    head += text_height(figure.get_suptitle(), TITLE)
    foot += text_height(figure.get_supxlabel(), TEXT)
    height = figure.get_size_inches()[1]
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, row, row_title in zip(grid, rows, row_titles, strict=True):
        for axes, panel in zip(axes_row, row, strict=True):
            panel.draw(axes)
        axes_row[0].set_ylabel(row_title, fontsize=TEXT)
    for axes, column_title in zip(grid[0], column_titles, strict=True):
        axes.set_title(column_title, fontsize=COLUMN_TITLE)
    figure.subplots_adjust(
        left=LEFT / width,
        right=1 - RIGHT / width,
        top=1 - head / height,
        bottom=(foot + below) / height,
        wspace=BETWEEN / side,
        hspace=below / tall,
    )
    return figure
