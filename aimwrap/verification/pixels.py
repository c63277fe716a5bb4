"""What may stand in the place of pixels, and which pixels are kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def strangers(batches: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor | None, ...]:
    """For each image another one, along one random cycle through all of them; none where there is but one."""
    images = torch.cat(batches)
    if len(images) < 2:
        return (None,)
    order = torch.randperm(len(images), generator=generator)
    strangers: tuple[Tensor, ...] = images[order.roll(1)[order.argsort()]].split(len(batches[0]))
    return strangers


def fillings(images: Tensor, others: Tensor | None) -> Mapping[str, Tensor]:
    """What may stand in the place of pixels, each of the images' shape."""
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
    moved = []
    for one in region:
        steps = [
            int(torch.randint(side // 4, side - side // 4 + 1, (), generator=generator)) for side in one.shape[-2:]
        ]
        moved.append(one.roll(steps, (1, 2)))
    return torch.stack(moved)


def highest(heatmap: Tensor, region: Tensor) -> Tensor:
    """The pixels where a heatmap is highest, as many as the region has in each image."""
    wide = F.interpolate(heatmap[:, None].float(), size=region.shape[-2:], mode="bilinear").flatten(1)
    ranks = wide.argsort(1, descending=True).argsort(1)
    return (ranks < region.flatten(1).sum(1, keepdim=True)).to(region.dtype).view_as(region)
