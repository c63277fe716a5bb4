"""The paper's M (eq. 1): one feature map in, one mask logit per position out."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from einops import reduce
from timm.layers import LayerNorm2d
from torch import Tensor, nn

MaskNorm = Literal["layer", "batch", "none"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection; (N, C, H, W) in and out.

    Args:
        channels: C.
        norm: normalisation behind each convolution.
    """

    def __init__(self, channels: int, norm: MaskNorm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = _norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = _norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine a map without changing its shape."""
        refined = self.norm1(self.conv1(x)).relu()
        return (x + self.norm2(self.conv2(refined))).relu()


class MaskEstimator(nn.Module):
    """Estimate mask logits from a feature map (paper eq. 1, section 3 "Mask Estimation" and Figure 2).

    A 3x3 convolution, three residual blocks, then the identity beside its global average, expanded and concatenated,
    and a 1x1 convolution to one channel. Two things are ours, because without them masks die (docs: "Why masks die"): a
    norm behind each convolution, and logits kept in ``(-logit_range, logit_range)``, so that the sigmoid of a mask that
    was pushed fully open while tau was near 1 is never so flat that it cannot close again.

    Args:
        in_channels: C of the map.
        width: hidden channels.
        norm: ``"layer"`` (over channels), ``"batch"`` or ``"none"``, the paper being silent about it.
        logit_range: bound on the logits' size; ``math.inf`` leaves them free.

    Raises:
        ValueError: if ``norm`` or ``logit_range`` is not one of those.

    Example:
        >>> MaskEstimator(64)(torch.randn(2, 64, 14, 14)).shape
        torch.Size([2, 1, 14, 14])
    """

    def __init__(self, in_channels: int, width: int = 32, norm: MaskNorm = "layer", logit_range: float = 4.0) -> None:
        super().__init__()
        if norm not in get_args(MaskNorm):
            raise ValueError(f"mask_norm must be one of {', '.join(map(repr, get_args(MaskNorm)))}, got {norm!r}")
        if not logit_range > 0:
            raise ValueError(f"logit_range must be positive (math.inf for no bound), got {logit_range}")
        self.logit_range = logit_range
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.stem_norm = _norm(norm, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, norm) for _ in range(3)))
        self.to_logit = nn.Conv2d(2 * width, 1, 1)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.to_logit.weight, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Estimate the logits.

        Args:
            features: (N, C, H, W).

        Returns:
            Mask logits A, (N, 1, H, W).
        """
        local = self.blocks(self.stem_norm(self.stem(features)).relu())
        context = reduce(local, "n c h w -> n c 1 1", "mean").expand_as(local)
        logits = self.to_logit(torch.cat([local, context], dim=1))
        return self.logit_range * torch.tanh(logits / self.logit_range) if self.logit_range < float("inf") else logits

    def extra_repr(self) -> str:
        """The bound on the logits."""
        return f"logit_range={self.logit_range:g}"


def _norm(norm: MaskNorm, channels: int) -> nn.Module:
    kinds = {"layer": LayerNorm2d, "batch": nn.BatchNorm2d, "none": nn.Identity}
    module: nn.Module = kinds[norm](channels)
    return module


def _initialise(module: nn.Module) -> None:
    """Logits start within a few tenths of zero: about half of the positions are open, and not the same half twice."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)
