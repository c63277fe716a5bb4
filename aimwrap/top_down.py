"""The top-down pathway: what is masked at each stage, and how the masked maps become the one that is classified.

Two heads, one interface. ``evidence`` gives, per stage, what the mask estimator reads; ``forward`` the features that
the masks will select; ``masked`` applies the masks (eq. 3) and ``fuse`` merges the masked maps. ``means`` averages both
over positions, which is all that the classifiers read. All lists run shallow to deep. Shapes: maps (N, C_l, H_l, W_l),
masks (N, 1, H_l, W_l) of zeros and ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ._choices import Head as Head
from ._choices import Pooling as Pooling
from ._numerics import wide_dtype
from .resizing import resize_to, sum_to


def union(a: Tensor, b: Tensor) -> Tensor:
    """Union of two masks of one shape, exact for zeros and ones and differentiable in both."""
    return a + b - a * b


def pool(masked: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Average a masked map over positions.

    Linear in the map, so each position's share of a logit is exact.

    Args:
        masked: features times mask, (N, D, H, W), or on a coarser grid, where each position counts as often as the mask
            opens it.
        mask: 0 or 1, (N, 1, H, W).
        pooling: ``"active"`` divides by the number of open positions, ``"all"`` by the number of positions. An empty
            mask pools to zero in both; in ``"active"`` its gradient, too, is then that of ``"all"``.

    Returns:
        (N, D).

    Example:
        >>> mask = torch.tensor([[[[1.0, 0.0]]]])
        >>> pool(torch.tensor([[[[3.0, 0.0]]]]), mask, "active"), pool(torch.tensor([[[[3.0, 0.0]]]]), mask, "all")
        (tensor([[3.]]), tensor([[1.5000]]))
    """
    wide = wide_dtype(masked)
    return (masked.to(wide).sum(dim=(2, 3)) / positions(mask.to(wide), pooling)).to(masked.dtype)


def positions(mask: Tensor, pooling: Pooling) -> Tensor:
    """How many positions of (N, 1, H, W) an image is averaged over, (N, 1).

    The mask is float32 at least: half precision cannot count past 2048. An empty mask counts as a full one: its zeros
    stay zeros, and the gradient that would open it is not H * W times larger than any other, as with a count of 1.
    """
    active = mask.sum(dim=(2, 3))
    everywhere = torch.full_like(active, mask.shape[2] * mask.shape[3])
    return everywhere if pooling == "all" else torch.where(active > 0, active, everywhere)


def pooling_weights(mask: Tensor, pooling: Pooling) -> Tensor:
    """The factor that :func:`pool` gives every position of an image, (N, 1, 1, 1)."""
    wide = mask.to(wide_dtype(mask))
    return 1 / positions(wide, pooling)[:, :, None, None]


class Transform(nn.Module):
    """The paper's T: 1x1 convolution to the common width, 3x3 convolution, LayerNorm over channels, GELU.

    Args:
        in_channels: C of the stage's map.
        width: D, common to all stages.

    Example:
        >>> Transform(64, 256)(torch.randn(2, 64, 14, 14)).shape
        torch.Size([2, 256, 14, 14])
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.align = nn.Conv2d(in_channels, width, 1)
        self.refine = nn.Conv2d(width, width, 3, padding=1)
        self.norm = LayerNorm2d(width)
        self.act = nn.GELU()

    def forward(self, features: Tensor) -> Tensor:
        """Transform (N, C, H, W) to (N, D, H, W)."""
        transformed: Tensor = self.act(self.norm(self.refine(self.align(features))))
        return transformed


class PaperTopDown(nn.Module):
    """The paper's pathway: a new transform per stage, masked maps summed coarse to fine.

    Args:
        channels: C of each stage's map, shallow to deep.
        width: D, the transforms' common width.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.evidence_channels = tuple(channels)
        self.transforms = nn.ModuleList(Transform(c, width) for c in channels)

    def evidence(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """What each stage's mask estimator reads: the stage's own map S_l(x_l), (N, C_l, H_l, W_l)."""
        return [(x,) for x in maps]

    def forward(self, maps: Sequence[Tensor], final: Tensor | None) -> list[Tensor]:
        """What the masks select from: T_l(S_l(x_l)) per stage, (N, D, H_l, W_l). The final map is not used."""
        return [transform(x) for transform, x in zip(self.transforms, maps, strict=True)]

    def masked(self, features: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """O_l per stage, (N, D, H_l, W_l), from :meth:`forward`'s features and B_l, (N, 1, H_l, W_l)."""
        return [x * mask.to(x.dtype) for x, mask in zip(features, masks, strict=True)]  # O_l, eq. 3

    def means(
        self, features: Sequence[Tensor], masks: Sequence[Tensor], pooling: Pooling
    ) -> tuple[list[Tensor], Tensor]:
        """The averages of O_l per stage and of O_final, (N, D) each, as the classifiers read them."""
        masked = self.masked(features, masks)
        stages = [pool(x, mask, pooling) for x, mask in zip(masked, masks, strict=True)]
        return stages, pool(*self.fuse(masked, masks), pooling)

    def fuse(self, masked: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Merge coarse to fine: resize to the finer partner, add ("Top-Down Sparse Feature Fusion").

        Gives O_final, (N, D, H, W), and its support, the union of the masks resized along the same chain, (N, 1, H, W).
        """
        fused, merged = masked[-1], masks[-1]
        for finer, finer_mask in zip(reversed(masked[:-1]), reversed(masks[:-1]), strict=True):
            fused = finer + resize_to(fused, finer)
            merged = union(finer_mask, resize_to(merged, finer_mask))
        return fused, merged

    def parts(self, masked: Sequence[Tensor]) -> list[Tensor]:
        """What each stage brings to O_final, (N, D, H, W) each: its O_l, resized along the chain of :meth:`fuse`."""
        brought: list[Tensor] = []
        for finer in reversed(masked):
            brought = [finer, *(resize_to(part, finer) for part in brought)]
        return brought


class FeaturePreservingTopDown(nn.Module):
    """Our pathway: the classified features stay the pretrained ones, and the finest mask alone decides.

    Each stage's mask selects positions of the backbone's own final map. A finer stage's mask is estimated from that
    stage's map together with the resized deeper map, not the deeper mask. Deeper masks have only their own stages'
    classifiers and losses. Reason: newly initialised transforms, and early features too, learn the background first.

    Args:
        channels: C of each stage's map, shallow to deep.
        final_channels: C of the backbone's final map, which are the classified features' channels.
    """

    def __init__(self, channels: Sequence[int], final_channels: int) -> None:
        super().__init__()
        self.out_channels = final_channels
        deeper = (*channels[1:], 0)
        self.evidence_channels = tuple(own + below for own, below in zip(channels, deeper, strict=True))

    def evidence(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """What each stage's mask estimator reads: the stage's map and the next deeper one, still of its own size."""
        return [(x, *maps[below : below + 1]) for below, x in enumerate(maps, start=1)]

    def forward(self, maps: Sequence[Tensor], final: Tensor | None) -> list[Tensor]:
        """What the masks select from: the backbone's final map, (N, D, h, w), once per stage."""
        assert final is not None
        return [final for _ in maps]

    def masked(self, features: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """The final map resized along the chain of stages, times B_l: (N, D, H_l, W_l) per stage."""
        masked = []
        for depth, (x, mask) in enumerate(zip(features, masks, strict=True)):
            for partner in reversed(masks[depth:]):
                x = resize_to(x, partner)
            masked.append(x * mask.to(x.dtype))  # O_l, eq. 3
        return masked

    def means(
        self, features: Sequence[Tensor], masks: Sequence[Tensor], pooling: Pooling
    ) -> tuple[list[Tensor], Tensor]:
        """The averages of :meth:`masked` per stage and of the finest, (N, D) each, made on the final map's own grid.

        The wide map is not resized up to the mask; the narrow mask is summed down to the map, which saves memory.
        """
        stages = []
        for depth, final in enumerate(features):
            mask, *deeper = (mask.to(wide_dtype(mask)) for mask in masks[depth:])
            counts = mask  # how many open positions read each position of the final map
            for partner in (*deeper, final):
                counts = sum_to(counts, partner)
            masked = final.to(counts.dtype) * counts  # O_l, eq. 3, summed over the positions that read one cell
            stages.append(pool(masked, mask, pooling).to(final.dtype))
        return stages, stages[0]

    def fuse(self, masked: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The finest stage's masked map and its mask."""
        return masked[0], masks[0]

    def parts(self, masked: Sequence[Tensor]) -> list[Tensor]:
        """What each stage brings to the classified map: the finest all of it, the others zeros."""
        return [masked[0], *(torch.zeros_like(masked[0]) for _ in masked[1:])]
