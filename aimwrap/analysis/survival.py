"""What AIM does not guarantee, measured: that the pixels outside the merged mask do not matter either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._numerics import predicted_classes
from .._text import with_progress
from ..backbones.pooled import PooledClassifier
from ..model import AIM
from ..resizing import resize_to
from ..second_look import SecondLook
from .findings import Survival
from .intervals import wilson_interval
from .look import Look

Explained = Callable[[Tensor], tuple[Tensor, Tensor]]  # from images to logits (N, K) and heatmaps (N, h, w)
PlainModel = nn.Module | Explained
Key = tuple[str, str, str]  # of a row: region, filling and masks
_FUNCTION_FORM = "pass a function from images to logits (N, K) and heatmaps (N, h, w) instead"


def other_images(batches: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor | None, ...]:
    """For each image another one, along one random cycle through all of them; none where there is but one."""
    images = torch.cat(batches)
    if len(images) < 2:
        return (None,)
    order = torch.randperm(len(images), generator=generator)
    other_images: tuple[Tensor, ...] = images[order.roll(1)[order.argsort()]].split(len(batches[0]))
    return other_images


def fillings(images: Tensor, others: Tensor | None) -> Mapping[str, Tensor]:
    """What may replace pixels, each of the images' shape."""
    height, width = images.shape[-2:]
    small = F.interpolate(images.float(), (-(-height // 16), -(-width // 16)), mode="bilinear", antialias=True)
    fillings = {
        "mean colour": images.mean((2, 3), keepdim=True).expand_as(images),
        "blur": F.interpolate(small, (height, width), mode="bilinear").to(images.dtype),  # to 1/16 and back
    }
    if others is not None:
        fillings["another image"] = others
    return fillings


def moved(region: Tensor, generator: torch.Generator) -> Tensor:
    """The same shape elsewhere: each image's region rolled by a random step of at least a quarter of each side."""

    def step(side: int) -> int:
        return int(torch.randint(side // 4, side - side // 4 + 1, (), generator=generator))

    return torch.stack([one.roll([step(side) for side in one.shape[-2:]], (1, 2)) for one in region])


def highest(heatmap: Tensor, region: Tensor) -> Tensor:
    """The pixels where a heatmap is highest, as many as the region has in each image."""
    wide = F.interpolate(heatmap[:, None].float(), size=region.shape[-2:], mode="bilinear").flatten(1)
    ranks = wide.argsort(1, descending=True).argsort(1)
    return (ranks < region.flatten(1).sum(1, keepdim=True)).to(region.dtype).view_as(region)


def measure(
    model: AIM | SecondLook,
    batches: tuple[Tensor, ...],
    plain: Explained | None,
    generator: torch.Generator,
    progress: bool,
) -> tuple[tuple[Survival, ...], float, str]:
    """The rows, the area that all regions share, and why there are no rows, where all would say the same."""
    survived: dict[Key, list[bool]] = {}
    areas: list[Tensor] = []
    shown = with_progress(batches, "replacing pixels") if progress else batches
    for images, other in zip(shown, other_images(batches, generator), strict=True):
        fills = fillings(images, other)
        if isinstance(model, SecondLook):
            region, same = _of_second_look(model, images, fills)
        else:
            region, same = _of_aim(model, images, fills, plain, generator)
        areas.append(region.float().mean((1, 2, 3)))
        for key, values in same.items():
            survived.setdefault(key, []).extend(values.tolist())
    area = torch.cat(areas).mean().item()
    if not 0.005 < area < 0.995:
        grown = f" once grown by margin={model.margin}" if isinstance(model, SecondLook) else ""
        state = "empty" if area < 0.5 else f"open everywhere{grown}"
        return (), area, f"the masks are {state}, so every row would say the same; see MaskHealth for the remedy"
    rows = tuple(
        Survival(*key, sum(same) / len(same), *wilson_interval(sum(same), len(same)), len(same))
        for key, same in survived.items()
    )
    return rows, area, ""


@torch.no_grad()
def survive(aim: AIM, images: Tensor, seen: Look) -> Tensor:
    """Which predictions stay the same when the pixels outside the merged mask become their image's mean colour, (N,).

    The masks are made anew. The mean colour depends on the image alone, so the answer is the same in any batch.
    """
    kept = resize_to(cast("Tensor", seen.merged_mask), images)
    again = aim(torch.where(kept > 0, images, fillings(images, None)["mean colour"])).logits
    predicted = predicted_classes(seen.logits)
    return (predicted_classes(again) == predicted) & (predicted >= 0)


def _of_aim(
    aim: AIM, images: Tensor, fills: Mapping[str, Tensor], plain: Explained | None, generator: torch.Generator
) -> tuple[Tensor, dict[Key, Tensor]]:
    """The merged mask on the images, and which predictions stay the same."""
    same: dict[Key, Tensor] = {}
    features = aim.forward_masks(aim.forward_backbone(images))
    predicted = predicted_classes(aim.forward_head(features).logits)
    region = F.interpolate(features.merged_mask.float(), size=images.shape[-2:], mode="nearest")
    for name, kept in (("merged mask", region), ("moved mask", moved(region, generator))):
        for filling, pixels in fills.items():
            maps = aim.forward_backbone(torch.where(kept > 0, images, pixels))
            for how, given in (("fixed", features.masks), ("recomputed", None)):
                again = aim.forward_head(aim.forward_masks(maps, given)).logits
                same[name, filling, how] = (predicted_classes(again) == predicted) & (predicted >= 0)
    if plain is not None:
        result: Any = plain(images)
        shapes = [tuple(part.shape) for part in result] if isinstance(result, tuple) else type(result).__name__
        if not isinstance(result, tuple) or len(result) != 2 or result[0].ndim != 2 or result[1].ndim != 3:
            expected = f"logits ({len(images)}, K) and heatmaps ({len(images)}, h, w)"
            raise ValueError(f"plain must return {expected}, got {shapes}")
        if not all(part.isfinite().all() for part in result):
            raise ValueError("plain's heatmaps must be finite, like its logits, got NaN or infinity; check its weights")
        logits, heatmap = result
        kept = highest(heatmap, region)
        for filling, pixels in fills.items():
            again = plain(torch.where(kept > 0, images, pixels))[0]
            same["plain CAM", filling, "none"] = predicted_classes(again) == predicted_classes(logits)
    return region, same


def _of_second_look(
    second: SecondLook, images: Tensor, fills: Mapping[str, Tensor]
) -> tuple[Tensor, dict[Key, Tensor]]:
    """The same for kept pixels, with the masks recomputed: with fixed masks all predictions survive."""
    output = second(images)
    same: dict[Key, Tensor] = {}
    for filling, pixels in fills.items():
        again = second(torch.where(output.kept > 0, images, pixels)).logits
        same["kept pixels", filling, "recomputed"] = predicted_classes(again) == predicted_classes(output.logits)
    return output.kept, same


def plain_model(plain: PlainModel | None) -> Explained | None:
    """A plain classifier's logits and class activation map, from its last map and its linear layer."""
    if plain is None:
        return None
    if not isinstance(plain, nn.Module):
        if not callable(plain):
            raise TypeError(f"plain must be a classifier, or a function, got {type(plain).__name__}; {_FUNCTION_FORM}")
        return plain
    try:
        return PooledClassifier(plain, "plain").explained
    except ValueError as error:
        raise ValueError(f"{error}; {_FUNCTION_FORM}") from error
