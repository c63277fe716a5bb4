"""The results of several methods: a dot with an interval each, one panel per measure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .canvas import COLOURS, GREY, INK, SMALL, TEXT, TITLE, new_figure, text_height, text_width, wrap, write_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NAMES, PANEL, ROW = 2.0, 2.3, 0.42  # inches: the methods' names at most, width of a panel, a method's height at least
PER_ROW = 4  # panels, where their order alone is given
GAP = 0.18  # inches between panels


class Result(NamedTuple):
    """What a method reaches in one measure.

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
        chance: by measure, what chance reaches; a dotted line.
        title: above all.

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
    unknown = [measure for measure in chance or {} if measure not in measures]
    if unknown:
        raise ValueError(f"chance must name measures of the results, {measures}, got {unknown}.")

    labels = [wrap(f"{name} (baseline)" if name == baseline else name, NAMES, TEXT) for name in methods]
    columns, tall = len(grid[0]), max(ROW, *(text_height(label, TEXT) for label in labels)) * len(methods) + 0.1
    group_width = 0.45 if any(isinstance(panel, tuple) for panel in checked) else 0.1
    left = group_width + max(text_width(label, TEXT) for label in labels) + 0.12
    width = left + columns * PANEL + (columns - 1) * GAP + 0.15
    title = wrap(title, width - 0.2, TITLE, "bold")
    explanation = wrap(_explain(checked, baseline, interval, chance), width - 0.25, TEXT)
    panel_titles = {panel: wrap(_measure(panel), PANEL, TEXT + 1) for panel in checked}
    panel_head = max(text_height(panel_title, TEXT + 1) for panel_title in panel_titles.values()) + 0.1
    pitch = panel_head + tall + 0.36  # a row of panels: titles, dots, numbers of the axis
    foot = 0.2 + text_height(explanation, TEXT)
    height = 0.15 + text_height(title, TITLE) + len(grid) * pitch + foot
    figure = new_figure(width, height)
    for i, panels in enumerate(grid):
        bottom = foot + 0.32 + (len(grid) - 1 - i) * pitch
        for j, panel in enumerate(panels):
            if panel is None:
                continue
            x = left + j * (PANEL + GAP)
            axes = figure.add_axes((x / width, bottom / height, PANEL / width, tall / height))
            level = (chance or {}).get(_measure(panel))
            shared = [row for other, rows in checked.items() for row in rows if _shares_axis(panel, other)]
            _draw_panel(axes, checked[panel], methods, baseline, level, _limits(shared, level))
            axes.set_title(panel_titles[panel], fontsize=TEXT + 1)
            axes.set_yticks(range(len(methods)), labels if j == 0 else [""] * len(methods), fontsize=TEXT)
            if j == 0 and isinstance(panel, tuple):
                middle = (bottom + tall / 2) / height
                group = wrap(panel[0], tall, TEXT + 1)
                figure.text(0.1 / width, middle, group, fontsize=TEXT + 1, rotation=90, va="center")
    write_frame(figure, title, explanation, 0.1)
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
        if is_baseline:
            axes.axvline(row.value, color=colour, linestyle="--", linewidth=0.9, alpha=0.7, zorder=1)
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
        face = "white" if is_baseline else colour
        marker = "s" if is_baseline else "o"
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


def _limits(rows: Sequence[Result], level: float | None) -> tuple[float, float]:
    """What an axis must span, with room for the numbers at its ends."""
    values = [value for row in rows for value in (row.value, row.low, row.high, *row.seeds)]
    values += [] if level is None else [level]
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def _explain(
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
    rows: list[list[str | tuple[str, str] | None]] = []
    for start in range(0, len(panels), per_row):
        row = list(panels[start : start + per_row])
        rows.append([*row, *[None] * (per_row - len(row))])
    return rows


def _measure(panel: str | tuple[str, str]) -> str:
    return panel[1] if isinstance(panel, tuple) else panel


def _shares_axis(panel: str | tuple[str, str], other: str | tuple[str, str]) -> bool:
    return _measure(panel) == _measure(other)
