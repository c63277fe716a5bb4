"""The top-down pathway: what is masked at each stage, and how the masked maps become the one that is classified.

Two heads, one interface. ``forward`` gives, per stage, the features that the mask will select and the evidence that the
mask estimator reads; ``fuse`` merges the masked maps. All lists run shallow to deep, as the backbone computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

Pooling = Literal["active", "all"]


def resize_to(x: Tensor, partner: Tensor) -> Tensor:
    """Resize a map to its partner's height and width, nearest neighbour: (N, C, h, w) -> (N, C, H, W)."""
    # Of one size, too: to ask for it would tie torch.export's dynamic sizes to the answer.
    return F.interpolate(x, size=partner.shape[-2:], mode="nearest")


def union(a: Tensor, b: Tensor) -> Tensor:
    """Union of two masks of one shape, exact for zeros and ones and differentiable in both."""
    return a + b - a * b


def pool(masked: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Average a masked map over positions.

    Linear in the map, so that each position's share of a logit behind it is exact.

    Args:
        masked: features times mask, (N, D, H, W).
        mask: 0 or 1, (N, 1, H, W); zero wherever ``masked`` is.
        pooling: ``"active"`` divides by the number of open positions, ``"all"`` by the number of positions. An empty
            mask pools to zero in both; in ``"active"`` its gradient, too, is then that of ``"all"``.

    Returns:
        (N, D).

    Example:
        >>> mask = torch.tensor([[[[1.0, 0.0]]]])
        >>> pool(torch.tensor([[[[3.0, 0.0]]]]), mask, "active"), pool(torch.tensor([[[[3.0, 0.0]]]]), mask, "all")
        (tensor([[3.]]), tensor([[1.5000]]))
    """
    if pooling == "all":
        return masked.mean(dim=(2, 3))
    wide = wide_dtype(masked)
    return (masked.to(wide).sum(dim=(2, 3)) / active_positions(mask.to(wide))).to(masked.dtype)


def wide_dtype(x: Tensor) -> torch.dtype:
    """float32 at least, for sums; torch.promote_types would become part of an exported graph, which torch 2.6 fails."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def active_positions(mask: Tensor) -> Tensor:
    """Count the open positions of (N, 1, H, W), which is float32 at least: half precision cannot count past 2048.

    An empty mask counts as a full one: its zeros stay zeros, and the gradient that would open it is not H * W times
    larger than any other, as it would be for a count of 1.
    """
    active = mask.sum(dim=(2, 3))
    return torch.where(active > 0, active, mask.shape[2] * mask.shape[3])


def pooling_weights(mask: Tensor, pooling: Pooling) -> Tensor:
    """The factor that :func:`pool` gives every position of an image, (N, 1, 1, 1)."""
    wide = mask.to(wide_dtype(mask))
    if pooling == "all":
        return torch.full_like(wide[:, :, :1, :1], 1 / (mask.shape[2] * mask.shape[3]))
    return 1 / active_positions(wide)[:, :, None, None]


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
    """The paper's pathway: a fresh transform per stage, masked maps summed coarse to fine.

    Args:
        channels: C of each stage's map, shallow to deep.
        width: D, the transforms' common width.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.evidence_channels = tuple(channels)
        self.transforms = nn.ModuleList(Transform(c, width) for c in channels)

    def forward(self, maps: Sequence[Tensor], final: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Give what is masked and what the estimators read.

        Args:
            maps: each stage's map S_l(x_l), (N, C_l, H_l, W_l).
            final: unused here.

        Returns:
            T_l(S_l(x_l)) per stage, (N, D, H_l, W_l), and the maps themselves.
        """
        return [transform(x) for transform, x in zip(self.transforms, maps, strict=True)], list(maps)

    def fuse(self, masked: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Merge coarse to fine: resize to the finer partner, add ("Top-Down Sparse Feature Fusion").

        Args:
            masked: O_l per stage, (N, D, H_l, W_l).
            masks: B_l per stage, (N, 1, H_l, W_l).

        Returns:
            O_final, (N, D, H, W), and its support, the union of the masks resized along the same chain, (N, 1, H, W).
        """
        fused, merged = masked[-1], masks[-1]
        for finer, finer_mask in zip(reversed(masked[:-1]), reversed(masks[:-1]), strict=True):
            fused = finer + resize_to(fused, finer)
            merged = union(finer_mask, resize_to(merged, finer_mask))
        return fused, merged

    def parts(self, masked: Sequence[Tensor]) -> list[Tensor]:
        """What each stage brings to O_final: its masked map, resized along the chain of :meth:`fuse`.

        Args:
            masked: O_l per stage, (N, D, H_l, W_l).

        Returns:
            Per stage, (N, D, H, W); they sum to O_final.
        """
        brought: list[Tensor] = []
        for finer in reversed(masked):
            brought = [finer, *(resize_to(part, finer) for part in brought)]
        return brought


class FeaturePreservingTopDown(nn.Module):
    """Our pathway: the classified features stay the pretrained ones, and what is refined top-down is the mask.

    Each stage's mask selects positions of the backbone's own final map. A finer stage's mask is estimated from that
    stage's map together with the resized deeper one, and the finest mask decides: freshly initialised transforms, and
    early features too, learn the background first.

    Args:
        channels: C of each stage's map, shallow to deep.
        final_channels: C of the backbone's final map, which are the classified features' channels.
    """

    def __init__(self, channels: Sequence[int], final_channels: int) -> None:
        super().__init__()
        self.out_channels = final_channels
        deeper = (*channels[1:], 0)
        self.evidence_channels = tuple(own + below for own, below in zip(channels, deeper, strict=True))

    def forward(self, maps: Sequence[Tensor], final: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Give what is masked and what the estimators read.

        Args:
            maps: each stage's map, (N, C_l, H_l, W_l).
            final: the backbone's final map, (N, D, h, w).

        Returns:
            The final map at each stage's size, (N, D, H_l, W_l), and each stage's map beside the resized deeper one.
        """
        assert final is not None
        features, evidence = [resize_to(final, maps[-1])], [maps[-1]]
        for finer, deeper in zip(reversed(maps[:-1]), reversed(maps[1:]), strict=True):
            features.insert(0, resize_to(features[0], finer))
            evidence.insert(0, torch.cat([finer, resize_to(deeper, finer)], dim=1))
        return features, evidence

    def fuse(self, masked: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The finest stage's masked map and its mask: it was refined from the deeper ones.

        Args:
            masked: per stage, (N, D, H_l, W_l).
            masks: per stage, (N, 1, H_l, W_l).

        Returns:
            The masked map that is classified, (N, D, H, W), and its support, (N, 1, H, W).
        """
        return masked[0], masks[0]

    def parts(self, masked: Sequence[Tensor]) -> list[Tensor]:
        """What each stage brings to the classified map: the finest all of it, the others zeros.

        Args:
            masked: per stage, (N, D, H_l, W_l).

        Returns:
            Per stage, (N, D, H, W).
        """
        return [masked[0], *(torch.zeros_like(masked[0]) for _ in masked[1:])]
