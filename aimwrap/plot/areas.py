"""The accuracy / area curve: how much of the image a decision needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .canvas import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    SMALL,
    TEXT,
    TITLE,
    new_figure,
    text_height,
    text_width,
    wrap,
    write_frame,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..analysis.areas import AreaCurve, AreaPoint


PANEL, TALL, LEFT, GAP = 3.9, 2.9, 0.62, 0.62  # inches


def plot_area_curves(
    curves: AreaCurve | Mapping[str, AreaCurve], *, chance: float | None = None, title: str = "How much is needed?"
) -> Figure:
    """Show accuracy over the share of positions that a decision may use, one line per model.

    Where all curves have groups, a second panel shows the accuracy of the group that does worst.

    Args:
        curves: from :func:`aimwrap.area_curve`: one, or several by name.
        chance: accuracy of guessing; a dotted line.
        title: above all.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no curve, there are more than can be told apart, or chance is not in [0, 1].
        ImportError: without matplotlib, naming the extra.

    >>> from aimwrap import AreaCurve, AreaPoint
    >>> points = [AreaPoint(area, area, {3: area}, 0.9, 0.8, 0.95, None) for area in (0.1, 1.0)]
    >>> own = AreaPoint(None, 0.22, {3: 0.22}, 0.92, 0.82, 0.96, None)
    >>> figure = plot_area_curves({"AIM": AreaCurve(tuple(points), own, images=100)}, chance=0.5)
    >>> [axes.get_title() for axes in figure.axes]
    ['accuracy']
    """
    named = dict(curves) if isinstance(curves, Mapping) else {"": curves}
    if not named or len(named) > len(COLOURS):
        raise ValueError(f"curves must be 1 to {len(COLOURS)}, so that they can be told apart, got {len(named)}.")
    if chance is not None and not 0 <= chance <= 1:
        raise ValueError(f"chance must be an accuracy from 0 to 1, got {chance}.")
    panels: dict[str, Callable[[AreaPoint], float | None]] = {"accuracy": lambda point: point.accuracy}
    if all(curve.own.worst_group is not None for curve in named.values()):
        panels["worst group's accuracy"] = lambda point: point.worst_group

    width = LEFT + len(panels) * PANEL + (len(panels) - 1) * GAP + 0.2
    title = wrap(title, width - 0.2, TITLE, "bold")
    explanation = wrap(_explain(named, len(panels) > 1, chance), width - 0.25, TEXT)
    entry = 0.6 + max(text_width(name, TEXT) for name in named)
    columns = min(len(named), max(1, int((width - 0.2) / entry)))
    legend = 0.1 + 0.22 * math.ceil(len(named) / columns) if "" not in named else 0.0
    foot = 0.25 + text_height(explanation, TEXT)
    height = 0.5 + text_height(title, TITLE) + legend + TALL + 0.5 + foot
    figure = new_figure(width, height)
    for column, (name, value_of) in enumerate(panels.items()):
        x = LEFT + column * (PANEL + GAP)
        axes = figure.add_axes((x / width, (foot + 0.5) / height, PANEL / width, TALL / height))
        axes.set_title(name, fontsize=TEXT + 1)
        for index, curve in enumerate(named.values()):
            _draw_curve(axes, curve, value_of, index, with_interval=column == 0)
        if chance is not None and column == 0:
            axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
        _finish(axes, [point.area for curve in named.values() for point in (*curve.points, curve.own)])
    if legend:
        lines = [line for line in figure.axes[0].get_lines() if line.get_gid() == "curve"]
        figure.legend(
            lines,
            list(named),
            loc="upper center",
            bbox_to_anchor=(0.5, 1 - (0.12 + text_height(title, TITLE)) / height),
            ncols=columns,
            fontsize=TEXT,
            frameon=False,
        )
    write_frame(figure, title, explanation, 0.1)
    return figure


def _draw_curve(
    axes: Axes, curve: AreaCurve, value_of: Callable[[AreaPoint], float | None], index: int, with_interval: bool
) -> None:
    colour, marker = COLOURS[index], MARKERS[index]
    points = sorted(curve.points, key=lambda point: point.area)
    areas = [point.area for point in points]
    values = [value_of(point) or 0.0 for point in points]
    axes.plot(areas, values, color=colour, marker=marker, markersize=4.5, linewidth=1.5, zorder=3, gid="curve")
    own = curve.own
    if with_interval:
        axes.fill_between(
            areas, [p.low for p in points], [p.high for p in points], color=colour, alpha=0.15, linewidth=0, zorder=1
        )
        axes.plot([own.area, own.area], [own.low, own.high], color=colour, linewidth=1.4, zorder=4)
    axes.plot(
        [own.area],
        [value_of(own) or 0.0],
        marker="*",
        color=colour,
        markeredgecolor=INK,
        markersize=13,
        linestyle="none",
        zorder=5,
    )


def _finish(axes: Axes, areas: list[float]) -> None:
    """A logarithmic axis in percent: the small areas are the interesting ones."""
    low, high = min(area for area in areas if area > 0), max(areas)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.25, high * 1.25)
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if low / 1.25 <= tick <= high * 1.25]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("positions that the decision may use", fontsize=TEXT)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _explain(curves: Mapping[str, AreaCurve], grouped: bool, chance: float | None) -> str:
    counts = sorted({curve.images for curve in curves.values()})
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    text = "Line: masks of exactly that area, the positions of the highest mask logits. Star: the model's own masks."
    text += f" Shading, and the star's bar: 95 % interval (Wilson) of the accuracy of {images} images; all points of a "
    text += "line are of the same images."
    if any(point.area == 1 for curve in curves.values() for point in curve.points):
        text += " At 100 % nothing is masked."
    if grouped:
        text += " The worst group is picked at each point anew, and has no interval."
    if chance is not None:
        text += f" Dotted: chance, {chance:.2f}."
    return text + " The vertical axes need not begin at zero."
