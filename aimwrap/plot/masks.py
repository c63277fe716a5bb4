"""Which positions the masks leave open, in one model and over the epochs of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from ..taps import Stage
from .canvas import COLOURS, MARKERS, RIGHT, SMALL, TEXT, WRONG
from .inputs import classes_of, images_of, mask_of, second_look_of, titles_of
from .panels import LEFT, Panel, plot_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


CURVE_HEIGHT, ABOVE_CURVE = 1.2, 0.62  # inches, the latter with captions and legend
UNNAMED = "mask"  # the one mask that came without a stage
HOW_TO_READ = (
    "Each mask is drawn over its image: inside the yellow line it is open (1) and the image shows; outside it is "
    "closed (0), and the image is dark and grey. Per cent: share of the positions that are open. "
)


def plot_masks(
    images: Tensor,
    masks: Mapping[Stage, Tensor],
    merged_mask: Tensor,
    *,
    second_look: tuple[Tensor, Tensor] | None = None,
    labels: Tensor | Sequence[int] | None = None,
    predictions: Tensor | Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    row_titles: Sequence[str] | None = None,
    title: str = "Which positions may the decision use?",
) -> Figure:
    """Show each stage's mask and the merged mask of some images, one image a row (paper fig. 6).

    Args:
        images: (N, 3, H, W) in [0, 1], not normalised; up to eight or so fill a page.
        masks: by stage, (N, 1, h, w) of zeros and ones, as in :class:`~aimwrap.Explanation`.
        merged_mask: (N, 1, h, w), of zeros and ones.
        second_look: the pixels that a second look sees, (N, 1, H, W), and the boxes that it enlarges, (N, 4), as
            ``kept`` and ``boxes`` of :class:`~aimwrap.Explanation`: one more column.
        labels: (N,) class numbers, written under the images.
        predictions: (N,) class numbers, written next to the labels, with right or wrong in words.
        class_names: by class number.
        row_titles: one per image.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if shapes or numbers do not fit.
        ImportError: without matplotlib, naming the extra.

    >>> import torch
    >>> masks = {2: torch.ones(1, 1, 4, 4), 3: torch.ones(1, 1, 2, 2)}
    >>> figure = plot_masks(torch.rand(1, 3, 64, 64), masks, torch.ones(1, 1, 4, 4))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['', '100% open', '100% open', '100% open']
    """
    images, count = images_of(images), len(images)
    shown = _masks_of("masks", masks, count)
    merged = mask_of("merged_mask", merged_mask, count)
    names = [classes_of(name, k, count, class_names) for name, k in (("labels", labels), ("predictions", predictions))]
    row_titles = titles_of("row_titles", row_titles, [f"image {i + 1}" for i in range(count)])

    columns = ["image", *(f"mask, {_name_of(stage)}\n({size_of(mask)})" for stage, mask in shown.items())]
    columns.append(f"merged mask\n({size_of(merged)})")
    rows = [
        [
            image_panel(images[i], *(name[i] if name else None for name in names)),
            *(_mask_panel(images[i], mask[i]) for mask in (*shown.values(), merged)),
        ]
        for i in range(count)
    ]
    second = ""
    if second_look is not None:
        columns.append("kept pixels")
        for row, image, kept, box in zip(rows, images, *second_look_of(second_look, images), strict=True):
            row.append(replace(_mask_panel(image, kept), box=box))
        second = " Kept pixels are all that a second look sees; dashed: the box that it enlarges."
    explanation = (
        f"{HOW_TO_READ}A stage's mask selects what that stage's classifier sees. The merged mask is what remains for "
        "the decision: features outside it add nothing to it. A feature sees more of the image than its own square."
        f"{second}"
    )
    return plot_panels(rows, columns, row_titles, title, explanation)


def plot_mask_evolution(
    images: Tensor,
    masks_by_epoch: Sequence[tuple[int | str, Mapping[Stage, Tensor] | Tensor]],
    tau_by_epoch: Sequence[float] | None = None,
    *,
    stages: Sequence[Stage] | None = None,
    row_titles: Sequence[str] | None = None,
    title: str = "How the masks change over training",
) -> Figure:
    """Show how masks change over training, one epoch a column, and their mean area under them (paper fig. 7).

    Result and errors are as for :func:`plot_masks`; all epochs must have the same stages.

    Args:
        images: (N, 3, H, W) in [0, 1], not normalised; the same in all epochs.
        masks_by_epoch: pairs of an epoch, in the order of training, and the masks of these images after it: by stage
            as in :class:`~aimwrap.AIMOutput`, or one tensor, for instance the merged mask; (N, 1, h, w) each.
        tau_by_epoch: the active area asked for, one number per pair; drawn with the mean area.
        stages: which of the masks to show, a row each per image; all of them by default.
        row_titles: one per image.
        title: of the figure.

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
        [Panel(image=images[i]), *(_mask_panel(images[i], mask[i]) for mask in masks)]
        for i in range(count)
        for masks in history.values()
    ]
    titles = [
        row_title if list(history) == [UNNAMED] else f"{row_title}\n{_name_of(stage)}"
        for row_title in row_titles
        for stage in history
    ]
    explanation = (
        f"{HOW_TO_READ}The curve shows the mean area over the {'image' if count == 1 else f'{count} images'} shown"
        + ("." if tau_by_epoch is None else ", with tau, the area that the loss asks for on average over a batch.")
    )
    areas = {_name_of(stage): [float(mask.mean()) for mask in masks] for stage, masks in history.items()}
    figure = plot_panels(rows, columns, titles, title, explanation, room_below=CURVE_HEIGHT + ABOVE_CURVE + 0.2)
    axes = _axes_below(figure, len(columns))
    x = range(len(epochs))
    if tau_by_epoch is not None:
        tau = [float(value) for value in tau_by_epoch]
        axes.plot(x, tau, color="0.8", linewidth=6, solid_capstyle="round", label="tau")
    for number, (name, area) in enumerate(areas.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(x, area, label=name, color=colour, marker=marker, linewidth=1.4, markersize=4.5)
    axes.set_xticks(x, [str(epoch) for epoch in epochs], fontsize=SMALL)
    corner = LEFT / figure.get_size_inches()[0], axes.get_position().y1
    style = {"ncols": len(areas) + 1, "borderaxespad": 0.3, "fontsize": SMALL, "frameon": False}
    figure.legend(loc="lower left", bbox_to_anchor=corner, **style)
    return figure


def image_panel(image: Tensor, label: str | None, prediction: str | None) -> Panel:
    """An image with its label and the model's prediction."""
    if prediction is None:
        return Panel(image=image, caption=label or "")
    if label is None:
        return Panel(image=image, caption=f"predicted {prediction}")
    right = label == prediction
    caption = f"{label}\n" + ("predicted right" if right else f"wrong: predicted {prediction}")
    return Panel(image=image, caption=caption, highlight=RIGHT if right else WRONG)


def _mask_panel(image: Tensor, mask: Tensor) -> Panel:
    """A mask over its image, with its area."""
    area = float(mask.mean())
    per_cent = "<1%" if 0 < area < 0.005 else ">99%" if 0.995 <= area < 1 else f"{area:.0%}"
    return Panel(image=image, mask=mask, caption=f"{per_cent} open")


def _axes_below(figure: Figure, columns: int) -> Axes:
    """Axes for mean areas in the room below the grid, as wide as its columns except the first."""
    first, last = (figure.axes[column].get_position() for column in (min(1, columns - 1), columns - 1))
    lowest = figure.axes[-1].get_position().y0
    height = float(figure.get_size_inches()[1])
    bottom = lowest - (CURVE_HEIGHT + ABOVE_CURVE) / height
    axes = figure.add_axes((first.x0, bottom, last.x1 - first.x0, CURVE_HEIGHT / height))
    steps = columns - 2
    half = steps * first.width / 2 / (last.x0 - first.x0) if steps else 0.5  # a column, in epochs
    axes.set_xlim(-half, steps + half)  # a point is under the middle of its column
    axes.set_ylim(-0.03, 1.05)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"], fontsize=SMALL)
    axes.set_xlabel("epoch", fontsize=TEXT, labelpad=2)
    axes.set_ylabel("mean area", fontsize=TEXT)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _check_history(
    masks_by_epoch: Sequence[tuple[int | str, Mapping[Stage, Tensor] | Tensor]],
    stages: Sequence[Stage] | None,
    count: int,
) -> tuple[list[int | str], dict[Stage, list[Tensor]]]:
    """The epochs, and for each stage its masks over them."""
    if isinstance(masks_by_epoch, Mapping) or not masks_by_epoch:
        raise ValueError(
            "masks_by_epoch must be a list of (epoch, masks) with at least one epoch, got "
            f"{masks_by_epoch.__class__.__name__} of {len(masks_by_epoch)}: list(the_dict.items()) makes one."
        )
    history: dict[Stage, list[Tensor]] = {}
    for epoch, masks in masks_by_epoch:
        by_stage: Mapping[Stage, Tensor] = masks if isinstance(masks, Mapping) else {UNNAMED: masks}
        checked = _masks_of(f"masks_by_epoch (epoch {epoch})", by_stage, count)
        history = history or {stage: [] for stage in checked}
        if set(checked) != set(history):
            raise ValueError(
                f"masks_by_epoch must have the same stages in every epoch, got {list(checked)} at epoch {epoch} and "
                f"{list(history)} at first."
            )
        for stage, kept in history.items():
            kept.append(checked[stage])
    if stages is not None:
        if not stages or any(stage not in history for stage in stages):
            raise ValueError(f"stages must be some of {list(history)}, those of masks_by_epoch, got {list(stages)}.")
        history = {stage: history[stage] for stage in stages}
    return [epoch for epoch, _ in masks_by_epoch], history


def _masks_of(name: str, masks: Mapping[Stage, Tensor], count: int) -> dict[Stage, Tensor]:
    """The masks by stage, checked."""
    if not isinstance(masks, Mapping) or not masks:
        raise ValueError(
            f"{name} must be a dict from stage to mask with at least one stage, got "
            f"{'an empty one' if isinstance(masks, Mapping) else type(masks).__name__}: for instance output.masks."
        )
    return {stage: mask_of(f"{name}[{stage!r}]", mask, count) for stage, mask in masks.items()}


def _name_of(stage: Stage) -> str:
    return f"stage {stage}" if isinstance(stage, int) else stage


def size_of(maps: Tensor) -> str:
    """Rows × columns."""
    return f"{maps.shape[-2]} × {maps.shape[-1]}"
