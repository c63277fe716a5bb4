"""Where a heatmap points: the energy pointing game with its chance level, and the pointing game of the maximum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_choices, class_numbers
from .._numerics import both_sides, wide_dtype, without_autocast
from .masks import object_weights


def class_activation_map(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """How much each position of a pooled map adds to one class (Zhou et al. 2016).

    For any network that averages ``features`` over the positions and ends in a linear layer: the map is the layer's
    weights of the class, applied at every position.

    Args:
        features: (N, D, H, W), the map that is averaged. For AIM, ``forward_masks(...).fused``.
        weight: (K, D), the linear layer's; of a single logit (1, D), for two classes.
        classes: (N,), the class to explain in each image, usually the predicted one; 0 to K - 1.

    Returns:
        (N, H, W), float32 at least, not clamped: negative values are evidence against the class.

    Raises:
        TypeError: if the classes are not integers.
        ValueError: if the shapes do not fit, or a class does not exist.

    >>> features = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # one image, two channels, 1 x 2 positions
    >>> class_activation_map(features, torch.tensor([[1.0, 0.0], [2.0, -1.0]]), torch.tensor([1]))
    tensor([[[-1.,  4.]]])
    """
    if features.ndim != 4:
        raise ValueError(f"features must be (N, D, H, W), got {tuple(features.shape)}.")
    if weight.ndim != 2 or weight.shape[1] != features.shape[1]:
        raise ValueError(f"weight must be (K, {features.shape[1]}), like features, got {tuple(weight.shape)}.")
    weight = both_sides(weight, 0)
    classes = class_numbers(classes, len(features), len(weight), weight.device)
    with without_autocast(features):
        wide = wide_dtype(features)
        return torch.einsum("nd,ndhw->nhw", weight[classes].to(wide), features.to(wide))


Negatives = Literal["clamp", "abs", "keep"]
Interpolation = Literal["bilinear", "nearest"]


def energy_pointing_game(
    attribution: Tensor,
    object_mask: Tensor,
    *,
    negatives: Negatives = "clamp",
    threshold: float | None = 0.5,
    empty_object: float = math.nan,
    zero_energy: float = math.nan,
    resolution: tuple[int, int] | None = None,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Share of an attribution's energy that falls on the object.

    Score-CAM (Wang et al. 2020, sec. 4.3) defines it for bounding boxes; the paper (sec. 4, details in its A.5) uses
    the object's binary mask, as here. 1 means that all evidence is on the object. A map of equal values scores
    :func:`chance_level`: report that with it.

    The attribution is resized to the object mask, and its values become energy before that. A finer map scores better
    for its resolution alone, so compare two methods at the same ``resolution`` too.

    Args:
        attribution: (N, h, w), for instance from :func:`class_activation_map`, of any model and any scale.
        object_mask: (N, H, W) or (N, 1, H, W), after the same crop as the image; for boxes, see
            :func:`boxes_to_masks`.
        negatives: how values below zero count: as zero (``"clamp"``), like positive ones (``"abs"``), or against the
            positive ones, in the object and in total (``"keep"``; the share can then leave 0 to 1).
        threshold: a position belongs to the object where ``object_mask`` is above it; None weighs each position by
            the mask's value, 0 to 1.
        empty_object: the score where no position belongs to the object, whatever the map. NaN by default, so that it
            cannot slip into a mean unnoticed (``torch.nanmean`` leaves it out); 0 counts it as a miss.
        zero_energy: the score where the energies add up to nothing (or, with ``"keep"``, to less): the share is
            undefined. NaN or 0, as above.
        resolution: a common grid (rows, columns) on which to compare, such as (7, 7). Energy and object, the latter
            after its threshold, are both averaged over the grid's cells, a pixel on a border counting for both by
            its area; each cell's energy then counts by the share of the cell that is object. Without it, the
            attribution is resized to the mask and the mask stays as it is.
        interpolation: how, without ``resolution``, the attribution is enlarged to the mask: ``"bilinear"`` (corners
            not aligned) or ``"nearest"``, where each pixel takes the cell that its centre is in. Where the mask is
            the coarser of the two, the attribution is averaged over the mask's cells instead.

    Returns:
        (N,) float32 scores from 0 to 1.

    Raises:
        ValueError: if the shapes do not fit, a value is not finite, a choice is unknown, or ``resolution`` is finer
            than what is to be averaged.

    >>> attribution = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]]])
    >>> energy_pointing_game(attribution, torch.tensor([[[1, 0], [1, 0]]]))
    tensor([0.7500])
    """
    check_choices(negatives=(negatives, Negatives), interpolation=(interpolation, Interpolation))
    _check_attribution(attribution)
    on_object = object_weights(object_mask, threshold, count=len(attribution))
    empty = on_object.sum(dim=(1, 2)) == 0

    energy = attribution.detach().to(wide_dtype(attribution))
    if negatives == "clamp":
        energy = energy.clamp(min=0)
    elif negatives == "abs":
        energy = energy.abs()
    # Divided by a power of two near the largest, so that sums in float32 neither overflow nor vanish.
    largest = energy.abs().amax(dim=(1, 2), keepdim=True) / 2
    energy = (energy / largest.clamp(min=torch.finfo(energy.dtype).tiny).log2().floor().exp2()).float()
    if resolution is None:
        energy = _resize(energy, on_object.shape[-2:], interpolation)
    else:
        _check_resolution(resolution, attribution=energy, object_mask=on_object)
        energy, on_object = _area_average(energy, resolution), _area_average(on_object, resolution)

    total = energy.sum(dim=(1, 2))
    share = (energy * on_object).sum(dim=(1, 2)) / total
    share = torch.where(total > 0, share, zero_energy)
    return torch.where(empty, empty_object, share)


def chance_level(object_mask: Tensor, *, threshold: float | None = 0.5) -> Tensor:
    """The energy pointing game's chance level: the object's share of the image, which any map of equal values scores.

    It is the same at every ``resolution``, since averaging keeps the share.

    Args:
        object_mask: (N, H, W) or (N, 1, H, W), as for :func:`energy_pointing_game`.
        threshold: as there.

    Returns:
        (N,) float32, 0 for an empty object, 1 for one that fills the image.

    Raises:
        ValueError: if the shape does not fit, or a soft mask leaves 0 to 1.

    >>> chance_level(torch.tensor([[[1, 0], [0, 0]]]))
    tensor([0.2500])
    """
    return object_weights(object_mask, threshold).mean(dim=(1, 2))


def area_corrected(scores: Tensor, chance: Tensor) -> Tensor:
    """How far a score is from chance towards perfect: (score - chance) / (1 - chance).

    The definition is ours, in the form of Cohen's kappa (1960): 1 is perfect, 0 is what a map of equal values gets,
    below 0 the map avoids the object. It makes images with small and large objects comparable, which the raw share
    is not. It corrects for the object's area only, not for the map's resolution.

    Args:
        scores: (N,) from :func:`energy_pointing_game`; or from :func:`~aimwrap.metrics.mask_precision`, whose chance
            level is the same.
        chance: (N,) from :func:`chance_level`.

    Returns:
        (N,), float32 at least; at most 1. NaN where the score is, and where the object fills the image and leaves
        nothing to miss.

    Raises:
        ValueError: if the shapes differ.

    >>> area_corrected(torch.tensor([1.0, 0.25, 0.0]), torch.tensor([0.25, 0.25, 0.25]))
    tensor([ 1.0000,  0.0000, -0.3333])
    """
    if scores.shape != chance.shape:
        raise ValueError(
            f"scores and chance must have one value per image each, got {tuple(scores.shape)} and "
            f"{tuple(chance.shape)}: average after the correction, not before."
        )
    scores, chance = scores.to(wide_dtype(scores)), chance.to(wide_dtype(chance))
    return torch.where(chance < 1, (scores - chance) / (1 - chance), math.nan)


def pointing_game(
    attribution: Tensor,
    object_mask: Tensor,
    *,
    tolerance: float = 15,
    threshold: float = 0.5,
    empty_object: float = math.nan,
    constant_map: float = math.nan,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Whether an attribution's maximum falls on the object, or close to it (Zhang et al. 2018, Excitation Backprop).

    The attribution is resized to the object mask; it hits if any pixel of the object is within ``tolerance`` pixels
    of the position of the maximum. Of several equal maxima the first in reading order counts: rows from the top,
    each from the left. The source averages hits per class and then over the classes; here each image has its score.

    Args:
        attribution: (N, h, w); negative values need no treatment.
        object_mask: (N, H, W) or (N, 1, H, W); for boxes, see :func:`boxes_to_masks`.
        tolerance: radius, in pixels of ``object_mask``, between pixel centres, border included. The source's
            15 pixels are measured on images at their original size (in its released code those of COCO, mostly
            640 × 480); at 224 pixels the same radius forgives more, 5 is about as strict. With 0 the maximum must
            be on the object itself.
        threshold: a position belongs to the object where ``object_mask`` is above it.
        empty_object: the score where no position belongs to the object. NaN by default; 0 counts it as a miss.
        constant_map: the score where all values of the map are equal, so that it points nowhere. NaN or 0, as above.
        interpolation: how the attribution is resized, as for :func:`energy_pointing_game`.

    Returns:
        (N,) float32: 1 for a hit, 0 for a miss.

    Raises:
        ValueError: if the shapes do not fit, a value is not finite, ``tolerance`` is negative, or a choice is unknown.

    >>> attribution = torch.tensor([[[0.0, 9.0, 0.0, 0.0]]])
    >>> object_mask = torch.tensor([[[0, 0, 0, 1]]])
    >>> pointing_game(attribution, object_mask, tolerance=1), pointing_game(attribution, object_mask, tolerance=2)
    (tensor([0.]), tensor([1.]))
    """
    check_choices(interpolation=(interpolation, Interpolation))
    _check_attribution(attribution)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a radius of 0 or more pixels, got {tolerance}.")
    on_object = object_weights(object_mask, threshold, count=len(attribution)) > 0
    height, width = on_object.shape[-2:]
    values = attribution.detach() + 0  # also of booleans
    constant = values.amax(dim=(1, 2)) == values.amin(dim=(1, 2))

    if values.shape[1:] != on_object.shape[1:]:  # float64, and one value for what differs by rounding only: ties stay
        wide = values.double() if values.device.type != "mps" else values.float()
        resized = _resize(wide, (height, width), interpolation)
        rounding = 256 * torch.finfo(wide.dtype).eps * resized.abs().amax(dim=(1, 2), keepdim=True)
        values = resized.clamp(max=resized.amax(dim=(1, 2), keepdim=True) - rounding)
    position = values.flatten(1).argmax(dim=1)
    row, column = position // width, position % width
    y = torch.arange(height, device=position.device)[None] - row[:, None]
    x = torch.arange(width, device=position.device)[None] - column[:, None]
    near = y[:, :, None] ** 2 + x[:, None, :] ** 2 <= tolerance**2
    hit = (on_object & near).any(dim=2).any(dim=1).float()
    hit = torch.where(constant, constant_map, hit)
    return torch.where(on_object.any(dim=2).any(dim=1), hit, empty_object)


def _resize(maps: Tensor, size: Sequence[int], interpolation: Interpolation) -> Tensor:
    """Resize (N, h, w) maps to a height and width."""
    height, width = size
    if maps.shape[-2] > height or maps.shape[-1] > width:  # interpolation would skip over most values
        maps = _area_average(maps, (min(height, maps.shape[-2]), min(width, maps.shape[-1])))
    if tuple(maps.shape[-2:]) == (height, width):
        return maps
    mode = "nearest-exact" if interpolation == "nearest" else interpolation
    return F.interpolate(maps[:, None], size=(height, width), mode=mode)[:, 0]


def _area_average(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average (N, h, w) maps over the cells of a grid, exactly: adaptive pooling would count border pixels twice."""
    rows, columns = (_cell_shares(length, cells).to(maps) for length, cells in zip(maps.shape[-2:], grid, strict=True))
    with without_autocast(maps):
        return rows @ maps @ columns.T


def _cell_shares(length: int, cells: int) -> Tensor:
    """What share of each cell every pixel fills, along one axis: (cells, length), rows adding up to 1."""
    pixel, cell = torch.arange(length)[None] * cells, torch.arange(cells)[:, None] * length  # starts, in 1/cells pixels
    overlap = torch.minimum(pixel + cells, cell + length) - torch.maximum(pixel, cell)
    return overlap.clamp(min=0) / length


def _check_attribution(attribution: Tensor) -> None:
    if attribution.ndim != 3 or 0 in attribution.shape[1:]:
        raise ValueError(
            f"attribution must be (N, h, w), got {tuple(attribution.shape)}: add channels up, attribution.sum(dim=1)."
        )
    if not bool(attribution.isfinite().all()):
        images = [i for i, values in enumerate(attribution) if not bool(values.isfinite().all())]
        raise ValueError(
            f"attribution must be finite, got NaN or infinity in images {images} of the batch: leave them out, or use "
            "torch.nan_to_num."
        )


def _check_resolution(resolution: tuple[int, int], **maps: Tensor) -> None:
    if len(resolution) != 2 or min(resolution) < 1:
        raise ValueError(f"resolution must be (rows, columns) of at least 1 each, got {resolution}.")
    for name, values in maps.items():
        height, width = values.shape[-2:]
        if resolution[0] > height or resolution[1] > width:
            raise ValueError(
                f"resolution must not be finer than {name}, which has {height} x {width} positions, got "
                f"{resolution}: take the coarsest of the maps that you compare."
            )
