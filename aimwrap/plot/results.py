"""The results of several methods as dots with intervals, and accuracy over the share of positions in use."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .canvas import COLOURS, GREY, INK, MARKERS, SMALL, TEXT, framed_figure, text_height, text_width, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..analysis.areas import AreaCurve, AreaPoint


NAMES, PANEL, ROW = 2.0, 2.3, 0.42  # inches: longest names, width of a panel, smallest height of a method
CURVES, KEY = (3.6, 2.9), 1.5  # inches: width and height of a panel of curves, longest names next to them
PER_ROW = 4  # panels, where their order alone is given


class Result(NamedTuple):
    """The result of a method in one measure.

    Attributes:
        name: of the method.
        value: for instance the mean over seeds.
        low: lower end of the interval.
        high: upper end.
        seeds: the single runs, drawn as faint dots.
    """

    name: str
    value: float
    low: float
    high: float
    seeds: Sequence[float] = ()

    @classmethod
    def of_seeds(cls, name: str, seeds: Sequence[float]) -> Result:
        """Mean over seeds, with an interval of one standard deviation (n - 1) to either side; none of one seed.

        >>> Result.of_seeds("AIM", [0.7, 0.9]).value
        0.8
        """
        if not len(seeds):
            raise ValueError(f"seeds must hold at least one score of {name!r}, got none.")
        values = [float(score) for score in seeds]
        if not all(map(math.isfinite, values)):
            raise ValueError(f"seeds must be finite, got {values} of {name!r}: leave out a seed that has no score.")
        mean, deviation = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(name, mean, mean - deviation, mean + deviation, values)


Row = Result | tuple[str, float, float, float]


def plot_results(
    results: Mapping[str, Sequence[Row]] | Mapping[tuple[str, str], Sequence[Row]],
    *,
    baseline: str | None = None,
    interval: str = "the interval",
    chance: Mapping[str, float] | None = None,
    title: str = "Results",
) -> Figure:
    """Show results as dots with intervals, one panel per measure, one row per method (paper fig. 4).

    Args:
        results: by panel, one row per method: a :class:`Result`, or (name, value, low, high). A panel is a measure's
            name; or a pair such as (tie, measure), for a grid whose columns share their axis. A method may be missing
            from a panel.
        baseline: the method to compare with: a square, and a dashed line through the panel.
        interval: what the lines are, for the explanation: ``"mean ± standard deviation over 5 seeds"``.
        chance: by measure, the chance level; a dotted line.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if a panel is empty, a method comes twice in it, a value is outside of its interval, or a name is
            unknown.
        ImportError: without matplotlib, naming the extra.

    >>> accuracy = [Result.of_seeds("plain", [0.50, 0.62]), Result.of_seeds("AIM", [0.80, 0.84])]
    >>> figure = plot_results({"accuracy": accuracy, "pointing": [("AIM", 0.58, 0.51, 0.65)]}, baseline="plain")
    >>> [axes.get_title() for axes in figure.axes]
    ['accuracy', 'pointing']
    """
    checked = {panel: _check_rows(panel, rows) for panel, rows in results.items()}
    if not checked:
        raise ValueError('results must have at least one panel, got none: {"accuracy": [("AIM", 0.9, 0.8, 1.0)]}.')
    methods = list(dict.fromkeys(row.name for rows in checked.values() for row in rows))
    if baseline is not None and baseline not in methods:
        raise ValueError(f"baseline must be one of the methods {methods}, got {baseline!r}.")
    grid = _arrange(list(checked))
    measures = list(dict.fromkeys(_measure(panel) for panel in checked))
    unknown = [each for each, level in (chance or {}).items() if each not in measures or not math.isfinite(level)]
    if unknown:
        raise ValueError(f"chance must name measures of the results, {measures}, with finite numbers, got {unknown}.")

    labels = [wrap(f"{name} (baseline)" if name == baseline else name, NAMES, TEXT) for name in methods]
    titles = {panel: wrap(_measure(panel), PANEL, TEXT + 1) for panel in checked}
    tall = max(ROW, *(text_height(label, TEXT) for label in labels)) * len(methods) + 0.1
    tall += 0.55 + max(text_height(title, TEXT + 1) for title in titles.values())
    width = 0.7 + max(text_width(label, TEXT) for label in labels) + len(grid[0]) * (PANEL + 0.15)
    explanation = _explain_results(checked, baseline, interval, chance)
    figure = framed_figure(width, 0.3 + len(grid) * tall, title, explanation)
    for row_of_axes, panels in zip(figure.subplots(len(grid), len(grid[0]), squeeze=False), grid, strict=True):
        for j, (axes, panel) in enumerate(zip(row_of_axes, panels, strict=True)):
            if panel is None:
                axes.remove()
                continue
            level = (chance or {}).get(_measure(panel))
            shared = [row for other, rows in checked.items() for row in rows if _measure(other) == _measure(panel)]
            values = [value for row in shared for value in (row.value, row.low, row.high, *row.seeds)]
            values += [] if level is None else [level]
            low, high = min(values), max(values)
            margin = 0.12 * (high - low) or 0.05 * abs(high) or 0.5  # for the numbers at the ends of the axis
            _draw_panel(axes, checked[panel], methods, baseline, level, (low - margin, high + margin))
            axes.set_title(titles[panel], fontsize=TEXT + 1)
            axes.set_yticks(range(len(methods)), labels if j == 0 else [""] * len(methods), fontsize=TEXT)
            if j == 0 and isinstance(panel, tuple):
                axes.set_ylabel(wrap(panel[0], tall, TEXT + 1), fontsize=TEXT + 1)
    return figure


def plot_area_curves(
    curves: AreaCurve | Mapping[str, AreaCurve], *, chance: float | None = None, title: str = "How much is needed?"
) -> Figure:
    """Show accuracy over the share of positions that a decision may use, one line per model.

    Where all curves have groups, a second panel shows the accuracy of the group that does worst.

    Args:
        curves: from :func:`aimwrap.area_curve`: one, or several by name.
        chance: accuracy of guessing; a dotted line.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no curve, there are too many to distinguish, or chance is not in [0, 1].
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
        raise ValueError(f"curves must be 1 to {len(COLOURS)}, so that colours can be distinguished, got {len(named)}.")
    if chance is not None and not 0 <= chance <= 1:
        raise ValueError(f"chance must be an accuracy from 0 to 1, got {chance}.")
    areas = [point.area for curve in named.values() for point in (*curve.points, curve.own) if point.area] or [1.0]
    if wrong := [area for area in areas if not 0 <= area <= 1]:
        raise ValueError(
            f"curves must have areas from 0 to 1, got {wrong}: verify(model, images) says where NaN begins."
        )
    panels: dict[str, Callable[[AreaPoint], float | None]] = {"accuracy": lambda point: point.accuracy}
    if all(curve.own.worst_group is not None for curve in named.values()):
        panels["worst group's accuracy"] = lambda point: point.worst_group

    names = [wrap(name, KEY, TEXT) for name in named]
    key = 0.0 if "" in named else 0.6 + max(text_width(name, TEXT) for name in names)
    width = len(panels) * CURVES[0] + 0.8 + key
    figure = framed_figure(width, 1.1 + CURVES[1], title, _explain_curves(named, len(panels) > 1, chance))
    ends = min(areas) / 1.25, max(areas) * 1.25
    for axes, (name, value_of) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.set_title(name, fontsize=TEXT + 1)
        for index, curve in enumerate(named.values()):
            _draw_curve(axes, curve, value_of, index, ends[0], with_interval=name == "accuracy")
        if chance is not None and name == "accuracy":
            axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
        _finish(axes, ends)
    if key:
        lines = [line for line in figure.axes[0].get_lines() if line.get_gid() == "curve"]
        figure.legend(lines, names, loc="outside right upper", fontsize=TEXT, frameon=False, labelspacing=0.7)
    return figure


def _draw_panel(
    axes: Axes,
    rows: Sequence[Result],
    methods: Sequence[str],
    baseline: str | None,
    level: float | None,
    limits: tuple[float, float],
) -> None:
    decimals = 3 if max(abs(limits[0]), abs(limits[1])) < 10 else 1
    if level is not None:
        axes.axvline(level, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
    for row in rows:
        y, is_baseline = methods.index(row.name), row.name == baseline
        colour = INK if is_baseline else COLOURS[methods.index(row.name) % len(COLOURS)]
        face, marker = ("white", "s") if is_baseline else (colour, "o")
        if is_baseline:
            axes.axvline(row.value, color=colour, linestyle="--", linewidth=0.9, alpha=0.7, zorder=1)
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
        axes.plot([row.value], [y], marker=marker, color=colour, markerfacecolor=face, markersize=6.5, zorder=4)
        seeds = [y + 0.24] * len(row.seeds)
        axes.scatter(list(row.seeds), seeds, s=11, color=colour, alpha=0.4, linewidths=0, zorder=3)
        halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3}
        text = f"{row.value:.{decimals}f}"
        axes.text(row.value, y - 0.2, text, fontsize=SMALL - 0.5, color=INK, ha="center", va="bottom", bbox=halo)
    axes.set_xlim(*limits)
    axes.set_ylim(len(methods) - 0.45, -0.75)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _explain_results(
    results: Mapping[str | tuple[str, str], Sequence[Result]],
    baseline: str | None,
    interval: str,
    chance: Mapping[str, float] | None,
) -> str:
    text = f"Dot: the value written above it. Line: {interval}."
    if any(row.seeds for rows in results.values() for row in rows):
        text += " Faint dots: single seeds."
    if baseline is not None:
        text += f" Square and dashed line: the baseline, {baseline}."
    if chance:
        text += " Dotted line: chance level."
    return text + " Axes need not begin at zero."


def _check_rows(panel: object, rows: Sequence[Row]) -> list[Result]:
    checked = []
    for row in rows:
        if len(row) not in (4, 5) or not isinstance(row[0], str):
            raise ValueError(f"results[{panel!r}] must hold rows of (name, value, low, high), got {row!r}.")
        checked.append(row if isinstance(row, Result) else Result(*row))
    for result in checked:
        numbers = [result.value, result.low, result.high, *result.seeds]
        if not all(math.isfinite(number) for number in numbers) or not result.low <= result.value <= result.high:
            raise ValueError(
                f"results[{panel!r}] must hold finite numbers with low <= value <= high, got {tuple(result)}: leave a "
                "method out that has no value; without an interval, give the value as both ends."
            )
    names = [result.name for result in checked]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"results[{panel!r}] must hold one row per method, each once, got {names}.")
    return checked


def _arrange(panels: Sequence[str | tuple[str, str]]) -> list[list[str | tuple[str, str] | None]]:
    """Rows of panels: pairs as a grid, names one after the other."""
    pairs = [panel for panel in panels if isinstance(panel, tuple)]
    if pairs and (len(pairs) < len(panels) or any(len(pair) != 2 for pair in pairs)):
        raise ValueError(f"results must be keyed by names, or all by pairs such as (tie, measure), got {list(panels)}.")
    if pairs:
        measures = list(dict.fromkeys(pair[1] for pair in pairs))
        groups = list(dict.fromkeys(pair[0] for pair in pairs))
        return [[(group, m) if (group, m) in pairs else None for m in measures] for group in groups]
    per_row = math.ceil(len(panels) / math.ceil(len(panels) / PER_ROW))
    padded = [*panels, *[None] * (-len(panels) % per_row)]
    return [padded[start : start + per_row] for start in range(0, len(padded), per_row)]


def _measure(panel: str | tuple[str, str]) -> str:
    return panel[1] if isinstance(panel, tuple) else panel


def _draw_curve(
    axes: Axes,
    curve: AreaCurve,
    value_of: Callable[[AreaPoint], float | None],
    index: int,
    edge: float,
    with_interval: bool,
) -> None:
    """A line and its star; what has no area is on the left edge, as a logarithm has no zero."""
    colour, marker = COLOURS[index], MARKERS[index]
    points = sorted(curve.points, key=lambda point: point.area)
    areas = [point.area or edge for point in points]
    values = [value_of(point) or 0.0 for point in points]
    axes.plot(areas, values, color=colour, marker=marker, markersize=4.5, linewidth=1.5, zorder=3, gid="curve")
    own, area = curve.own, curve.own.area or edge
    if with_interval:
        axes.fill_between(
            areas, [p.low for p in points], [p.high for p in points], color=colour, alpha=0.15, linewidth=0, zorder=1
        )
        axes.plot([area, area], [own.low, own.high], color=colour, linewidth=1.4, zorder=4)
    star: dict[str, Any] = {"marker": "*", "markeredgecolor": INK, "markersize": 13, "linestyle": "none"}
    axes.plot([area], [value_of(own) or 0.0], color=colour, zorder=5, clip_on=False, **star)


def _finish(axes: Axes, ends: tuple[float, float]) -> None:
    """A logarithmic axis in percent: the small areas are the interesting ones."""
    axes.set_xscale("log")
    axes.set_xlim(*ends)
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if ends[0] <= tick <= ends[1]]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("positions that the decision may use", fontsize=TEXT)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _explain_curves(curves: Mapping[str, AreaCurve], grouped: bool, chance: float | None) -> str:
    counts = sorted({curve.images for curve in curves.values()})
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    text = "Line: masks of exactly that area, the positions of the highest mask logits. Star: the model's own masks."
    text += f" Shading, and the star's bar: 95 % interval (Wilson) of the accuracy of {images} images; all points of a "
    text += "line are of the same images."
    if any(point.area == 1 for curve in curves.values() for point in curve.points):
        text += " At 100 % nothing is masked."
    if any(point.area == 0 for curve in curves.values() for point in (*curve.points, curve.own)):
        text += " On the left edge no position is open: 0 %."
    if grouped:
        text += " The worst group is picked again at each point, and has no interval."
    if chance is not None:
        text += f" Dotted: chance, {chance:.2f}."
    return text + " The vertical axes need not begin at zero."
