"""How the masks change over the epochs of training, with their mean area beside tau."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..taps import Stage
from .canvas import COLOURS, MARKERS, SMALL, TEXT
from .inputs import images_of, titles_of
from .masks import HOW_TO_READ, mask_panel, masks_of, name_of
from .panels import LEFT, Panel, plot_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


CURVE_HEIGHT, ABOVE_CURVE = 1.2, 0.62  # inches, the latter with captions and legend
UNNAMED = "mask"  # the one mask that came without a stage


def plot_mask_evolution(
    images: Tensor,
    masks_by_epoch: Sequence[tuple[int | str, Mapping[Stage, Tensor] | Tensor]],
    tau_by_epoch: Sequence[float] | None = None,
    *,
    stages: Sequence[Stage] | None = None,
    row_titles: Sequence[str] | None = None,
    title: str = "How the masks change over training",
) -> Figure:
    """Show how masks change over training, one epoch a column, and their mean area beneath (paper fig. 7).

    Args:
        images: (N, 3, H, W) in [0, 1], not normalised; the same in all epochs.
        masks_by_epoch: pairs of an epoch, in the order of training, and the masks of these images after it: by stage
            as in :class:`~aimwrap.AIMOutput`, or one tensor, for instance the merged mask; (N, 1, h, w) each.
        tau_by_epoch: the active area asked for, one number per pair; drawn beside the mean area.
        stages: which of the masks to show, a row each per image; all of them by default.
        row_titles: one per image.
        title: above all.

    Returns:
        The figure.

    Raises:
        ValueError: if shapes or numbers do not fit, or epochs have different stages.
        ImportError: without matplotlib, naming the extra.

    >>> import torch
    >>> masks_by_epoch = [(0, torch.ones(1, 1, 2, 2)), (5, torch.eye(2)[None, None])]
    >>> figure = plot_mask_evolution(torch.rand(1, 3, 64, 64), masks_by_epoch, tau_by_epoch=[1.0, 0.5])
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['', '100% open', '50% open', 'epoch']
    """
    images, count = images_of(images), len(images)
    epochs, history = _check_history(masks_by_epoch, stages, count)
    if tau_by_epoch is not None and len(tau_by_epoch) != len(epochs):
        raise ValueError(
            f"tau_by_epoch must be {len(epochs)} numbers, one per epoch shown, got {len(tau_by_epoch)}: take tau at "
            f"the epochs {epochs}."
        )
    row_titles = titles_of("row_titles", row_titles, [f"image {i + 1}" for i in range(count)])

    columns = ["image", *(epoch if isinstance(epoch, str) else f"epoch {epoch}" for epoch in epochs)]
    rows = [
        [Panel(image=images[i]), *(mask_panel(images[i], mask[i]) for mask in masks)]
        for i in range(count)
        for masks in history.values()
    ]
    titles = [
        row_title if list(history) == [UNNAMED] else f"{row_title}\n{name_of(stage)}"
        for row_title in row_titles
        for stage in history
    ]
    explanation = (
        f"{HOW_TO_READ}The curve beneath shows the mean area over "
        + ("the image shown" if count == 1 else f"the {count} images shown")
        + (
            ", beside tau, the area that the loss asks for on average over a batch."
            if tau_by_epoch is not None
            else "."
        )
    )
    areas = {name_of(stage): [float(mask.mean()) for mask in masks] for stage, masks in history.items()}
    figure = plot_panels(rows, columns, titles, title, explanation, room_below=CURVE_HEIGHT + ABOVE_CURVE + 0.2)
    _draw_areas(figure, _axes_below(figure, len(columns)), epochs, areas, tau_by_epoch)
    return figure


def _axes_below(figure: Figure, columns: int) -> Axes:
    """Axes in the room below the grid, as wide as its columns but the first."""
    first, last = (figure.axes[column].get_position() for column in (min(1, columns - 1), columns - 1))
    lowest = figure.axes[-1].get_position().y0
    height = float(figure.get_size_inches()[1])
    axes = figure.add_axes(
        (first.x0, lowest - (CURVE_HEIGHT + ABOVE_CURVE) / height, last.x1 - first.x0, CURVE_HEIGHT / height)
    )
    side, step = first.width / (last.x1 - first.x0), columns - 2
    if step:  # a point stands under the middle of its column
        per_epoch = (1 - side) / step
        axes.set_xlim(-side / 2 / per_epoch, step + side / 2 / per_epoch)
    else:
        axes.set_xlim(-0.5, 0.5)
    return axes


def _draw_areas(
    figure: Figure,
    axes: Axes,
    epochs: Sequence[int | str],
    areas: Mapping[str, Sequence[float]],
    tau: Sequence[float] | None,
) -> None:
    x = range(len(epochs))
    if tau is not None:
        axes.plot(x, [float(value) for value in tau], color="0.8", linewidth=6, solid_capstyle="round", label="tau")
    for number, (name, area) in enumerate(areas.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(x, area, label=name, color=colour, marker=marker, linewidth=1.4, markersize=4.5)
    axes.set_ylim(-0.03, 1.05)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"], fontsize=SMALL)
    axes.set_xticks(x, [str(epoch) for epoch in epochs], fontsize=SMALL)
    axes.set_xlabel("epoch", fontsize=TEXT, labelpad=2)
    axes.set_ylabel("mean area", fontsize=TEXT)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        loc="lower left",
        bbox_to_anchor=(LEFT / figure.get_size_inches()[0], axes.get_position().y1),
        ncols=len(areas) + 1,
        borderaxespad=0.3,
        fontsize=SMALL,
        frameon=False,
    )


def _check_history(
    masks_by_epoch: Sequence[tuple[int | str, Mapping[Stage, Tensor] | Tensor]],
    stages: Sequence[Stage] | None,
    count: int,
) -> tuple[list[int | str], dict[Stage, list[Tensor]]]:
    """The epochs, and for each stage its masks over them."""
    if isinstance(masks_by_epoch, Mapping) or not masks_by_epoch:
        raise ValueError(
            "masks_by_epoch must be a list of (epoch, masks) with at least one epoch, got "
            f"{masks_by_epoch.__class__.__name__} of {len(masks_by_epoch)}: of a dict, list(masks_by_epoch.items())."
        )
    history: dict[Stage, list[Tensor]] = {}
    known: list[Stage] = []
    for epoch, masks in masks_by_epoch:
        by_stage: Mapping[Stage, Tensor] = masks if isinstance(masks, Mapping) else {UNNAMED: masks}
        checked = masks_of(f"masks_by_epoch (epoch {epoch})", by_stage, count)
        known = known or list(checked)
        if set(checked) != set(known):
            raise ValueError(
                f"masks_by_epoch must have the same stages in every epoch, got {list(checked)} at epoch {epoch} and "
                f"{known} at first."
            )
        for stage in known:
            history.setdefault(stage, []).append(checked[stage])
    if stages is not None:
        if not stages or any(stage not in history for stage in stages):
            raise ValueError(f"stages must be some of {known}, the stages of masks_by_epoch, got {list(stages)}.")
        history = {stage: history[stage] for stage in stages}
    return [epoch for epoch, _ in masks_by_epoch], history
