"""The scores of two models against each other, one marker per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._text import numbered
from .canvas import COLOURS, GREY, INK, MARKERS, SMALL, TEXT, framed_figure, text_height, text_width, wrap
from .inputs import plain, scores_of, titles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SIDE, LEFT, LEGEND = 4.4, 0.75, 2.35  # inches: of the square, left of it, right of it


def plot_scatter(
    plain_scores: Tensor | Sequence[float],
    aim_scores: Tensor | Sequence[float],
    *,
    groups: Tensor | Sequence[int] | None = None,
    group_names: Sequence[str] | None = None,
    chance: float | Tensor | None = None,
    measure: str = "energy pointing",
    names: tuple[str, str] = ("plain", "AIM"),
    title: str | None = None,
) -> Figure:
    """Plot one score per image of two models against each other, with the diagonal of equal scores (paper fig. 5).

    An image without a score in either model (NaN) is left out, and counted in the text under the figure.

    Args:
        plain_scores: (N,) of the plain model, higher being better, for instance from
            :func:`~aimwrap.metrics.energy_pointing_game`.
        aim_scores: (N,) of AIM, for the same images in the same order.
        groups: (N,) group numbers from 0; each group has its own marker and colour.
        group_names: by group number.
        chance: the chance level, one number, or (N,) whose mean over the images shown is drawn.
        measure: the name of the scores.
        names: the names of the two models.
        title: by default, how often AIM scores higher.

    Returns:
        The figure.

    Raises:
        ValueError: if shapes or numbers do not fit, or no image has both scores.
        ImportError: without matplotlib, naming the extra.

    >>> figure = plot_scatter([0.2, 0.3, 0.4, float("nan")], [0.6, 0.7, 0.3, 0.5])
    >>> figure.get_suptitle()
    'AIM scores higher in 2 of 3 images (66.7%)'
    """
    first = scores_of("plain_scores", plain_scores)
    second = scores_of("aim_scores", aim_scores, count=len(first))
    called = titles_of("names", names, ("plain", "AIM"))
    group_of, group_names = _check_groups(groups, group_names, len(first))
    both = ~(first.isnan() | second.isnan())
    if not bool(both.any()):
        raise ValueError(
            "plain_scores and aim_scores must have an image with both scores, got NaN in either for each of the "
            f"{len(first)} images: an energy pointing score needs an object and a heatmap that is not all zero."
        )
    level = None if chance is None else _check_chance(chance, both)
    x, y, group_of = first[both], second[both], group_of[both]
    legend = {group: _legend_entry(group, group_of, group_names, y > x) for group in group_of.unique().tolist()}

    width = LEFT + SIDE + LEGEND
    higher = int((y > x).sum())
    default = f"{called[1]} scores higher in {higher:,} of {numbered(len(x), 'image')} ({higher / len(x):.1%})"
    labels = [wrap(f"{measure}, {name}", SIDE, TEXT + 1) for name in called]
    explanation = " ".join(_sentences(x, y, len(first) - len(x), level, measure, called))
    key = 0.8 + sum(text_height(entry, SMALL) + 0.08 for entry in legend.values())
    square = max(SIDE + 0.4 + text_height(labels[0], TEXT + 1), key)
    figure = framed_figure(width, square + 0.5, default if title is None else title, explanation, LEFT)
    axes = figure.subplots()
    axes.set_anchor("N")
    _draw_frame(axes, x, y, called, level)
    axes.set_xlabel(labels[0], fontsize=TEXT + 1)
    axes.set_ylabel(labels[1], fontsize=TEXT + 1)
    size = 44 if len(x) <= 100 else 26 if len(x) <= 1000 else 12
    for group, entry in legend.items():
        members = group_of == group
        colour, marker = COLOURS[group % len(COLOURS)], MARKERS[group % len(MARKERS)]
        drawn = axes.scatter(x[members].numpy(), y[members].numpy(), s=size, marker=marker, color=colour, alpha=0.65)
        drawn.set(edgecolor="white", linewidth=0.4)
        axes.scatter([], [], s=40, marker=marker, color=colour, label=entry)
    star = axes.scatter([float(x.mean())], [float(y.mean())], s=150, marker="*", label="mean of all", zorder=4)
    star.set(facecolor="white", edgecolor="black", linewidth=1.2)
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=SMALL, frameon=False, labelspacing=0.7, borderaxespad=0
    )
    return figure


def _legend_entry(group: int, group_of: Tensor, names: Sequence[str], higher: Tensor) -> str:
    members = group_of == group
    if not names:
        return "one image"
    return wrap(f"{names[group]}\n{int(higher[members].sum())} of {int(members.sum())} higher", LEGEND - 0.65, SMALL)


def _draw_frame(axes: Axes, x: Tensor, y: Tensor, names: Sequence[str], level: float | None) -> None:
    """Equal axes, the diagonal, the chance level, and which model scores higher on which side of the diagonal."""
    low, high = min(0.0, float(x.min()), float(y.min())), max(1.0, float(x.max()), float(y.max()))
    margin = 0.03 * (high - low)
    low, high = low - margin, high + margin
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.plot([low, high], [low, high], color=INK, linestyle="--", linewidth=1.1, label="equal scores")
    if level is not None:
        axes.axvline(level, color=GREY, linestyle=":", linewidth=1.4, label=f"chance level, {level:.2f}")
        axes.axhline(level, color=GREY, linestyle=":", linewidth=1.4)
    axes.tick_params(labelsize=SMALL)
    for name, side in ((names[1], "bottom"), (names[0], "top")):  # along the diagonal, under the markers
        text = f"{name} scores higher"
        if text_width(text, SMALL) > SIDE / 2:
            continue  # the explanation says it too
        at = (0.97, 0.985) if side == "bottom" else (0.985, 0.97)
        turned: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "ha": "right", "va": side}
        axes.text(*at, text, transform=axes.transAxes, fontsize=SMALL, color=GREY, zorder=1, **turned)


def _sentences(
    x: Tensor, y: Tensor, dropped: int, level: float | None, measure: str, names: Sequence[str]
) -> list[str]:
    higher, equal = int((y > x).sum()), int((y == x).sum())
    sentences = [
        f"One marker per image. Above the dashed line {names[1]} scores higher ({numbered(higher, 'image')}), below it "
        f"{names[0]} ({numbered(len(x) - higher - equal, 'image')})"
        + (f", on it both are equal ({numbered(equal, 'image')})." if equal else "."),
        f"Mean {measure}: {names[0]} {float(x.mean()):.2f}, {names[1]} {float(y.mean()):.2f} (star).",
    ]
    if level is not None:
        sentences.append(f"Dotted: chance level, {level:.2f}.")
    if dropped:
        sentences.append(f"Left out: {numbered(dropped, 'image')} without a score in at least one of the two (NaN).")
    return sentences


def _check_groups(
    groups: Tensor | Sequence[int] | None, names: Sequence[str] | None, count: int
) -> tuple[Tensor, list[str]]:
    """(N,) group numbers, all 0 without groups, and the groups' names, none without groups."""
    if groups is None:
        if names is not None:
            raise ValueError("group_names needs groups, got None: give one group number per image, (N,).")
        return torch.zeros(count, dtype=torch.long), []
    numbers = torch.as_tensor(groups).detach().cpu()
    if numbers.shape != (count,) or numbers.is_floating_point() or (count and int(numbers.min()) < 0):
        raise ValueError(
            f"groups must be ({count},) group numbers from 0, one per image, got {tuple(numbers.shape)} of "
            f"{numbers.dtype}, the smallest {float(numbers.min()) if numbers.numel() else 0:g}: for instance "
            "2 * labels + places."
        )
    numbers = numbers.long()
    needed = int(numbers.max()) + 1
    if names is not None and len(names) < needed:
        raise ValueError(
            f"group_names must name every group, got {len(names)} names and groups up to {needed - 1}: give them in "
            "the order of the group numbers, from 0."
        )
    return numbers, list(names) if names is not None else [f"group {group}" for group in range(needed)]


def _check_chance(chance: float | Tensor, both: Tensor) -> float:
    values = plain(torch.as_tensor(chance))
    if values.ndim and values.shape != both.shape:
        raise ValueError(
            f"chance must be one number or ({len(both)},), one per image, got {tuple(values.shape)}: chance_level "
            "returns the latter."
        )
    level = float(values[both].mean() if values.ndim else values)
    if not abs(level) < float("inf"):
        raise ValueError(f"chance must be finite for every image that has both scores, got {level:g}.")
    return level
