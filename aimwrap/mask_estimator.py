"""The paper's M (eq. 1): one feature map in, one mask logit per position out."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from einops import reduce
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

MaskNorm = Literal["layer", "batch", "none"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection; (N, C, H, W) in and out.

    Args:
        channels: C.
        norm: normalisation behind each convolution.
    """

    def __init__(self, channels: int, norm: MaskNorm) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, channels)
        self.norm1 = _norm(norm, channels)
        self.conv2 = _conv3x3(channels, channels)
        self.norm2 = _norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine a map without changing its shape."""
        refined = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(refined)))


class MaskEstimator(nn.Module):
    """Estimate mask logits from a feature map (paper eq. 1, section 3 "Mask Estimation" and Figure 2).

    As in the paper: a 3x3 convolution, three residual blocks, then the identity beside its global average, and a 1x1
    convolution of the two to one channel. That convolution is written as the sum of its halves: ``where`` reads the
    identity and says which positions matter, ``how_much`` reads the average and says how open the image is.

    Four things are ours, because without them masks die (docs: "Why masks die"): a norm behind each convolution; no
    zero padding, whose border is the first thing that a mask on a small map sees; the standardised ``where``; and
    logits kept in ``(-logit_range, logit_range)``, so that a mask pushed fully open while tau was near 1 can close again.

    Args:
        in_channels: C of the map.
        width: hidden channels.
        norm: ``"layer"`` (over channels), ``"batch"`` or ``"none"``, the paper being silent about it.
        logit_spread: standard deviation of an image's logits over its positions, before they are bounded. Without it
            all logits of an image move together: a training mask then has the target area by noise alone, and is all
            off in evaluation. ``None`` leaves them free.
        logit_range: bound on the logits' size; ``math.inf`` leaves them free.

    Raises:
        ValueError: if an argument is not one of those, or not positive.

    Example:
        >>> import torch
        >>> MaskEstimator(64)(torch.randn(2, 64, 14, 14)).shape
        torch.Size([2, 1, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        width: int = 32,
        norm: MaskNorm = "layer",
        logit_spread: float | None = 3.0,
        logit_range: float = 6.0,
    ) -> None:
        super().__init__()
        if norm not in get_args(MaskNorm):
            raise ValueError(f"mask_norm must be one of {', '.join(map(repr, get_args(MaskNorm)))}, got {norm!r}")
        if logit_spread is not None and not logit_spread > 0:
            raise ValueError(f"logit_spread must be positive (None to leave the logits free), got {logit_spread}")
        if not logit_range > 0:
            raise ValueError(f"logit_range must be positive (math.inf for no bound), got {logit_range}")
        self.logit_spread = logit_spread
        self.logit_range = logit_range
        self.stem = _conv3x3(in_channels, width)
        self.stem_norm = _norm(norm, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, norm) for _ in range(3)))
        self.where = nn.Conv2d(width, 1, 1, bias=False)
        self.how_much = nn.Conv2d(width, 1, 1)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.how_much.weight, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Estimate the logits.

        Args:
            features: (N, C, H, W).

        Returns:
            Mask logits A, (N, 1, H, W).
        """
        local = self.blocks(torch.relu(self.stem_norm(self.stem(features))))
        context = reduce(local, "n c h w -> n c 1 1", "mean")
        logits = self._spread(self.where(local)) + self.how_much(context)  # the 1x1 convolution, eq. 1
        return logits if math.isinf(self.logit_range) else self.logit_range * torch.tanh(logits / self.logit_range)

    def _spread(self, logits: Tensor) -> Tensor:
        """Standardise each image's logits over its positions."""
        if self.logit_spread is None:
            return logits
        return self.logit_spread * F.layer_norm(logits, logits.shape[-2:])

    def extra_repr(self) -> str:
        """What keeps the logits alive."""
        return f"logit_spread={self.logit_spread}, logit_range={self.logit_range:g}"


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")


def _norm(norm: MaskNorm, channels: int) -> nn.Module:
    kinds = {"layer": LayerNorm2d, "batch": nn.BatchNorm2d, "none": nn.Identity}
    module: nn.Module = kinds[norm](channels)
    return module


def _initialise(module: nn.Module) -> None:
    """Images start about half open: ``how_much`` near zero, and ``where`` at random."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
