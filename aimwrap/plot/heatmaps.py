"""The heatmaps of two models side by side, each with a score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..metrics.pointing import chance_level, energy_pointing_game
from ..second_look import on_the_image
from .canvas import INK, RIGHT, WRONG
from .inputs import classes_of, heatmaps_of, images_of, mask_of, scores_of, second_look_of, titles_of
from .masks import image_panel, size_of
from .panels import Panel, plot_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_heatmaps(
    images: Tensor,
    plain_heatmaps: Tensor,
    aim_heatmaps: Tensor,
    object_masks: Tensor | None = None,
    *,
    second_look: tuple[Tensor, Tensor] | None = None,
    resolution: tuple[int, int] | None = None,
    scores: tuple[Tensor | Sequence[float], Tensor | Sequence[float]] | None = None,
    measure: str = "energy pointing",
    labels: Tensor | Sequence[int] | None = None,
    predictions: tuple[Tensor | Sequence[int], Tensor | Sequence[int]] | None = None,
    class_names: Sequence[str] | None = None,
    names: tuple[str, str] = ("plain", "AIM"),
    row_titles: Sequence[str] | None = None,
    title: str = "What does each network look at?",
) -> Figure:
    """Show the heatmaps of two models side by side, one image a row, each with a score (paper fig. 3).

    Result and errors are as for :func:`~aimwrap.plot.plot_masks`.

    Args:
        images: (N, 3, H, W) in [0, 1], not normalised; up to eight or so fill a page.
        plain_heatmaps: (N, h, w), of any scale; what is below zero is not shown.
        aim_heatmaps: the same for AIM; h and w may differ from the plain model's.
        object_masks: (N, 1, H, W) of zeros and ones, in the images' size. Outlined; and each heatmap gets its score
            from :func:`~aimwrap.metrics.energy_pointing_game`.
        second_look: ``kept`` and ``boxes`` of :class:`~aimwrap.Explanation`, where ``aim_heatmaps`` are contributions
            of a second look, over its boxes: they are placed on the images, 0 where no pixel is kept.
        resolution: rows and columns of a common grid for that score, such as (7, 7): a finer map scores better for its
            resolution alone.
        scores: (N,) of the plain model and (N,) of AIM, to be written instead, higher being better; NaN where there is
            none.
        measure: what the scores are called.
        labels: (N,) class numbers, written under the images.
        predictions: (N,) class numbers of the plain model and of AIM, written under their heatmaps.
        class_names: by class number.
        names: what the two models are called.
        row_titles: one per image.
        title: of the figure.

    >>> import torch
    >>> object_mask = torch.zeros(1, 1, 64, 64)
    >>> object_mask[..., :32, :] = 1
    >>> above = torch.tensor([[[1.0], [0.0]]])
    >>> figure = plot_heatmaps(torch.rand(1, 3, 64, 64), above.flip(1), above, object_mask, resolution=(2, 1))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['', 'energy pointing 0.00', '▲ energy pointing 1.00']
    """
    images, count = images_of(images), len(images)
    heatmaps = heatmaps_of("plain_heatmaps", plain_heatmaps, count), heatmaps_of("aim_heatmaps", aim_heatmaps, count)
    grids = [size_of(maps) for maps in heatmaps]
    boxes = None
    if second_look is not None:
        kept, boxes = second_look_of(second_look, images)
        heatmaps = heatmaps[0], on_the_image(heatmaps[1], kept, boxes)
        grids[1] += " on the box"
    called = titles_of("names", names, ("plain", "AIM"))
    if object_masks is not None:
        object_masks = mask_of("object_masks", object_masks, count)
        if object_masks.shape[-2:] != images.shape[-2:]:
            raise ValueError(
                f"object_masks must be as large as the images, {size_of(images)}, got {size_of(object_masks)}: crop "
                "and resize them together."
            )
    shown: list[Tensor] = []
    if scores is not None:
        if len(scores) != 2:
            raise ValueError(f"scores must be a pair, of the plain model and of AIM, got {len(scores)} of them.")
        shown = [scores_of(f"scores[{model}]", values, count) for model, values in enumerate(scores)]
    elif object_masks is not None:
        shown = [energy_pointing_game(maps, object_masks, resolution=resolution) for maps in heatmaps]
    truth = classes_of("labels", labels, count, class_names)
    said = [classes_of("predictions", classes, count, class_names) for classes in predictions or (None, None)]
    row_titles = titles_of("row_titles", row_titles, [f"image {i + 1}" for i in range(count)])

    rows = [[image_panel(images[i], truth[i] if truth else None, None)] for i in range(count)]
    for model, other in ((0, 1), (1, 0)):
        for i, row in enumerate(rows):
            verdict, highlight = _verdict(said[model][i] if said[model] else None, truth[i] if truth else None)
            score = _score_line(measure, float(shown[model][i]), float(shown[other][i])) if shown else ""
            caption = "\n".join(line for line in (verdict, score) if line)
            outlined = None if object_masks is None else object_masks[i]
            box = None if boxes is None or model == 0 else boxes[i]
            row.append(Panel(images[i], None, heatmaps[model][i], outlined, caption, highlight, box))
    columns = ["image", *(f"{name}\n({grid})" for name, grid in zip(called, grids, strict=True))]
    explanation = " ".join(_sentences(heatmaps, object_masks, resolution, scores is not None, measure))
    if boxes is not None:
        explanation += " Dashed: the box that the second look sees enlarged; its heatmap is 0 where no pixel is kept."
    return plot_panels(rows, columns, row_titles, title, explanation)


def _verdict(prediction: str | None, label: str | None) -> tuple[str, str]:
    """A model's prediction in words, and their colour."""
    if prediction is None or label is None:
        return (f"predicted {prediction}" if prediction is not None else ""), INK
    return (f"{prediction}: right", RIGHT) if prediction == label else (f"{prediction}: wrong", WRONG)


def _sentences(
    heatmaps: tuple[Tensor, Tensor],
    object_masks: Tensor | None,
    resolution: tuple[int, int] | None,
    given: bool,
    measure: str,
) -> list[str]:
    sentences = [
        "Heatmaps: the positive part over the image in grey, dark = nothing, bright yellow = the most; each is scaled "
        "to its own maximum, so that the strengths of two of them cannot be compared."
    ]
    if object_masks is not None:
        sentences.append("White line: the object's outline.")
    if given:
        sentences.append(f"The {measure} is as given; ▲ is the higher of the two.")
    elif object_masks is not None:
        chance = float(chance_level(object_masks).mean())
        sentences.append(
            f"{measure[:1].upper()}{measure[1:]}: share of the heatmap that is on the object, 0 to 1, undefined "
            f"without object or heat; ▲ is the higher of the two. A map of equal values scores the object's share "
            f"of the image, here {chance:.2f} on average."
        )
        if resolution is not None:
            sentences.append(f"Scores are taken on a common grid of {resolution[0]} × {resolution[1]}.")
        elif heatmaps[0].shape != heatmaps[1].shape:
            sentences.append("The grids differ, and a finer one scores higher for that alone.")
    return sentences


def _score_line(measure: str, score: float, other: float) -> str:
    """A score to two digits, marked where it is the higher one in those digits."""
    if math.isnan(score):
        return f"{measure} undefined"
    return f"{'▲ ' if round(score, 2) > round(other, 2) else ''}{measure} {score:.2f}"
