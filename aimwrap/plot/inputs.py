"""The users' inputs, checked and copied into plain tensors: without gradient, on the CPU, in float32.

A wrong shape or value raises a ``ValueError`` that names the argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDING = 0.01  # of half precision, and of a resize that overshoots a little


def images_of(images: Tensor) -> Tensor:
    """Images to show, (N, 3, H, W) in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(
            f"images must be (N, 3, H, W) with at least one image, got {tuple(images.shape)}: image[None] makes a "
            "batch of one image, images.expand(-1, 3, -1, -1) three channels of one."
        )
    images = plain(images)
    low, high = float(images.min()), float(images.max())
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:
        raise ValueError(
            f"images must stay from 0 to 1, got {low:g} to {high:g}: undo the normalisation, images * std + mean with "
            "both as (3, 1, 1), or divide 8-bit images by 255."
        )
    return images.clamp(0, 1)


def mask_of(name: str, mask: Tensor, count: int) -> Tensor:
    """A mask per image, (N, 1, h, w) of zeros and ones."""
    if mask.ndim != 4 or mask.shape[:2] != (count, 1) or mask.numel() == 0:
        raise ValueError(
            f"{name} must be ({count}, 1, h, w), one mask per image, got {tuple(mask.shape)}: take as many masks as "
            "images, mask[:len(images)]; mask[:, None] adds the channel."
        )
    mask = plain(mask)
    rounded = mask.round().clamp(0, 1)
    wrong = mask[((mask - rounded).abs() <= ROUNDING).logical_not()]  # also where it is not a number
    if len(wrong):
        raise ValueError(
            f"{name} must hold zeros and ones, got {wrong[0]:g}: take the masks of a model's output or of explain(); "
            "for probabilities, mask >= 0.5."
        )
    return rounded


def heatmaps_of(name: str, heatmaps: Tensor, count: int) -> Tensor:
    """A heatmap per image, (N, h, w)."""
    if heatmaps.ndim != 3 or len(heatmaps) != count or heatmaps.numel() == 0:
        raise ValueError(
            f"{name} must be ({count}, h, w), one heatmap per image, got {tuple(heatmaps.shape)}: add channels up, "
            "heatmaps.sum(dim=1), and take as many as images."
        )
    heatmaps = plain(heatmaps)
    wrong = [i for i, values in enumerate(heatmaps) if not bool(values.isfinite().all())]
    if wrong:
        raise ValueError(
            f"{name} must be finite, got NaN or infinity for images {wrong}: leave them out, or use torch.nan_to_num."
        )
    return heatmaps


def second_look_of(second_look: tuple[Tensor, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """The kept pixels and the boxes of a second look at these images."""
    expected = [(len(images), 1, *images.shape[-2:]), (len(images), 4)]
    got = [tuple(part.shape) if isinstance(part, Tensor) else part for part in second_look]
    if got != expected:
        where = "take explanation.kept, explanation.boxes of a second look"
        raise ValueError(f"second_look must be kept pixels and boxes, here {expected}, got {got}: {where}.")
    return mask_of("second_look[0]", second_look[0], len(images)), plain(second_look[1])


def scores_of(name: str, scores: Tensor | Sequence[float], count: int | None = None) -> Tensor:
    """One score per image, (N,) float32; NaN where there is none."""
    values = plain(torch.as_tensor(scores))
    expected = "(N,)" if count is None else f"({count},)"
    if values.ndim != 1 or len(values) == 0 or (count is not None and len(values) != count):
        raise ValueError(
            f"{name} must be {expected}, one score per image, got {tuple(values.shape)}: metrics return them before "
            "any mean; for data sets, see their per_image()."
        )
    if bool(values.isinf().any()):
        raise ValueError(f"{name} must be finite, or NaN where an image has no score, got infinity.")
    return values


def classes_of(name: str, classes: Tensor | Sequence[int] | None, count: int, names: Sequence[str] | None) -> list[str]:
    """The name of each image's class, with its number where names repeat; empty where no classes are given."""
    if classes is None:
        return []
    numbers = torch.as_tensor(classes).detach().cpu()
    if numbers.shape != (count,) or numbers.is_floating_point():
        raise ValueError(
            f"{name} must be ({count},) class numbers, one per image, got {tuple(numbers.shape)} of {numbers.dtype}: "
            "logits.argmax(dim=1) turns logits into them, (logits[:, 0] > 0).long() a single one."
        )
    if names is None:
        return [str(int(number)) for number in numbers]
    wrong = sorted({int(number) for number in numbers if not 0 <= int(number) < len(names)})
    if wrong:
        raise ValueError(
            f"class_names must name every class of {name}, got {len(names)} names and the classes {wrong}: "
            "give them in the order of the class numbers, from 0."
        )
    if len(set(names)) < len(names):  # a caption compares them
        names = [f"{name} ({number})" for number, name in enumerate(names)]
    return [names[int(number)] for number in numbers]


def titles_of(name: str, titles: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """As many titles as there are defaults."""
    if titles is None:
        return list(default)
    if isinstance(titles, str) or len(titles) != len(default):
        raise ValueError(f"{name} must be {len(default)} texts, got {titles!r}: leave it out for {list(default)}.")
    return list(titles)


def plain(values: Tensor) -> Tensor:
    """Without gradient, on the CPU, in float32."""
    return values.detach().to(device="cpu", dtype=torch.float32)
