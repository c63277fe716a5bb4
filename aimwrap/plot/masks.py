"""Which positions the masks leave open: every stage's, and the merged mask's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..taps import Stage
from .canvas import RIGHT, WRONG
from .inputs import classes_of, images_of, mask_of, titles_of
from .panels import Panel, plot_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


HOW_TO_READ = (
    "A mask lies over its image: inside the yellow line it is open (1) and the image shows; outside it is closed (0), "
    "and the image is dark and grey. Per cent: share of the positions that are open. "
)


def plot_masks(
    images: Tensor,
    masks: Mapping[Stage, Tensor],
    merged_mask: Tensor,
    *,
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
        merged_mask: (N, 1, h, w), likewise.
        labels: (N,) class numbers, written beneath the images.
        predictions: (N,) class numbers, written beside the labels; right and wrong are told in words.
        class_names: by class number.
        row_titles: one per image.
        title: above all.

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
    shown = masks_of("masks", masks, count)
    merged = mask_of("merged_mask", merged_mask, count)
    names = [classes_of(name, k, count, class_names) for name, k in (("labels", labels), ("predictions", predictions))]
    row_titles = titles_of("row_titles", row_titles, [f"image {i + 1}" for i in range(count)])

    columns = ["image", *(f"mask, {name_of(stage)}\n({_grid(mask)})" for stage, mask in shown.items())]
    columns.append(f"merged mask\n({_grid(merged)})")
    rows = [
        [
            image_panel(images[i], *(name[i] if name else None for name in names)),
            *(mask_panel(images[i], mask[i]) for mask in (*shown.values(), merged)),
        ]
        for i in range(count)
    ]
    explanation = (
        f"{HOW_TO_READ}A stage's mask selects what that stage's classifier sees. The merged mask is what remains for "
        "the decision: features outside it add nothing to it. A feature sees more of the image than its own square."
    )
    return plot_panels(rows, columns, row_titles, title, explanation)


def image_panel(image: Tensor, label: str | None, prediction: str | None) -> Panel:
    """An image with what it shows and what the model says."""
    if prediction is None:
        return Panel(image=image, caption=label or "")
    if label is None:
        return Panel(image=image, caption=f"predicted {prediction}")
    right = label == prediction
    caption = f"{label}\n" + ("predicted right" if right else f"wrong: predicted {prediction}")
    return Panel(image=image, caption=caption, highlight=RIGHT if right else WRONG)


def mask_panel(image: Tensor, mask: Tensor) -> Panel:
    """A mask over its image, with its area."""
    area = float(mask.mean())
    per_cent = "<1%" if 0 < area < 0.005 else ">99%" if 0.995 <= area < 1 else f"{area:.0%}"
    return Panel(image=image, mask=mask, caption=f"{per_cent} open")


def masks_of(name: str, masks: Mapping[Stage, Tensor], count: int) -> dict[Stage, Tensor]:
    """The masks of some stages, checked.

    Raises:
        ValueError: if there is no stage, or a mask does not fit.
    """
    if not isinstance(masks, Mapping) or not masks:
        raise ValueError(
            f"{name} must be a dict from stage to mask with at least one stage, got "
            f"{'an empty one' if isinstance(masks, Mapping) else type(masks).__name__}: output.masks is one."
        )
    return {stage: mask_of(f"{name}[{stage!r}]", mask, count) for stage, mask in masks.items()}


def name_of(stage: Stage) -> str:
    """What a stage is called in a figure."""
    return f"stage {stage}" if isinstance(stage, int) else stage


def _grid(mask: Tensor) -> str:
    return f"{mask.shape[-2]} × {mask.shape[-1]}"
