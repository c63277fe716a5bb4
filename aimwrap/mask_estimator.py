"""The paper's M (eq. 1): one feature map in, one mask logit per position out."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from ._checks import check_choices, check_logit_bounds
from ._choices import MaskContext as MaskContext
from ._choices import MaskNorm as MaskNorm
from ._choices import MaskPadding as MaskPadding
from ._numerics import wide_dtype, without_autocast
from .resizing import resize_to


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution, (N, C, H, W) to (N, D, H, W), with a choice of what is outside the border."""

    def __init__(self, in_channels: int, out_channels: int, padding: MaskPadding = "replicate") -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, padding_mode=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return F.conv2d(with_border(x, self.padding_mode), self.weight, self.bias)


class ProjectedConv3x3(Conv3x3):
    """A 3x3 convolution of several maps, each resized to the first and concatenated.

    Each of the nine kernel positions is a 1x1 convolution, and that commutes with resizing and padding. So every map is
    projected at its own size, and only the few projected channels are resized, padded and shifted: wide maps are never
    copied. Same parameters as ``nn.Conv2d`` on the concatenation, and the same result except for rounding.
    ``in_channels`` are those of all maps together.
    """

    def forward(self, features: Tensor, *deeper: Tensor) -> Tensor:
        """Convolve (N, C_1, H, W), (N, C_2, h, w), ... to (N, D, H, W)."""
        maps = (features, *deeper)
        weights = self.weight.split([x.shape[1] for x in maps], dim=1)
        projected, *others = (
            F.conv2d(x, rearrange(weight, "d c kh kw -> (kh kw d) c 1 1"))
            for x, weight in zip(maps, weights, strict=True)
        )
        for other in others:
            projected = projected + resize_to(other, features)
        height, width = features.shape[-2:]
        projected = projected.to(wide_dtype(projected))  # half precision rounds the nine summands, not each sum
        assert self.bias is not None
        convolved = self.bias.to(projected.dtype)[:, None, None]
        for k, part in enumerate(with_border(projected, self.padding_mode).chunk(9, dim=1)):
            row, column = divmod(k, 3)
            convolved = convolved + part[..., row : row + height, column : column + width]
        return convolved.to(self.weight.dtype)


def with_border(x: Tensor, padding: str) -> Tensor:
    """Zeros around a map, or its first and last row and column again: (N, C, H, W) to (N, C, H + 2, W + 2).

    ``F.pad(mode="replicate")`` is twice as fast, but torch 2.15 cannot compile its gradient for CPUs: compiled code
    concatenates.
    """
    if padding == "zeros":
        return F.pad(x, (1, 1, 1, 1))
    if not torch.compiler.is_compiling():
        return F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = torch.cat([x[..., :1, :], x, x[..., -1:, :]], dim=-2)
    return torch.cat([x[..., :1], x, x[..., -1:]], dim=-1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, with a norm after each, around a skip connection; (N, C, H, W) in and out."""

    def __init__(self, channels: int, norm: MaskNorm, padding: MaskPadding) -> None:
        super().__init__()
        self.conv1 = Conv3x3(channels, channels, padding)
        self.norm1 = _norm(norm, channels)
        self.conv2 = Conv3x3(channels, channels, padding)
        self.norm2 = _norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine a map without changing its shape."""
        refined = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(refined)))


class MaskEstimator(nn.Module):
    """Estimate mask logits from a feature map (paper eq. 1, section 3 "Mask Estimation" and Figure 2).

    As in the paper: a 3x3 convolution, three residual blocks, then the identity concatenated with its global average,
    and a 1x1 convolution of both to one channel. That convolution is written as the sum of two: ``where`` reads the
    identity and ranks the positions, ``how_much`` reads the average and says how open the image is.

    The defaults differ from the paper in five things, because without them masks die (docs: "Why masks die"). The
    arguments in brackets, as :data:`~aimwrap.PAPER` has them, undo all but the first, about which the paper is silent:

    - a norm after each convolution;
    - no zero padding (``padding="zeros"``): its border is the first thing that a mask on a small map sees;
    - ``where`` is standardised over each image's positions (``logit_spread=None``). Otherwise all logits of an image
      move together, and a training mask has the target area by noise alone and is all off in evaluation;
    - ``how_much`` reads a normalised average and does not train what is below it (``context="raw"``): the area loss
      pulls at all logits at once, hard enough that hidden units die;
    - logits are kept in ``[-logit_range, logit_range]`` and the gradient goes through, so that a mask pushed fully open
      while tau was near 1 can close again (``logit_range=math.inf``).

    Args:
        in_channels: C of the map, or of all maps together.
        width: hidden channels.
        norm: ``"layer"`` (over channels), ``"batch"`` or ``"none"``, about which the paper says nothing.
        logit_spread: standard deviation of an image's logits over its positions; ``None`` leaves them free.
        logit_range: bound on the logits' size; ``math.inf`` leaves them free.
        padding: outside the border, ``"replicate"`` repeats the map's edge and ``"zeros"`` is the paper's.
        context: ``how_much`` reads the global average ``"normalised"`` and without gradient, or ``"raw"`` as in the
            paper.

    Raises:
        ValueError: if an argument is not one of those, or not positive.

    Example:
        >>> import torch
        >>> MaskEstimator(64)(torch.randn(2, 64, 14, 14)).shape
        torch.Size([2, 1, 14, 14])
        >>> MaskEstimator(64 + 128)(torch.randn(2, 64, 14, 14), torch.randn(2, 128, 7, 7)).shape
        torch.Size([2, 1, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        width: int = 32,
        norm: MaskNorm = "layer",
        logit_spread: float | None = 4.0,
        logit_range: float = 6.0,
        padding: MaskPadding = "replicate",
        context: MaskContext = "normalised",
    ) -> None:
        super().__init__()
        check_choices(
            mask_norm=(norm, MaskNorm), mask_padding=(padding, MaskPadding), mask_context=(context, MaskContext)
        )
        check_logit_bounds(logit_spread, logit_range)
        self.logit_spread, self.logit_range = logit_spread, logit_range
        self.padding, self.context = padding, context
        self.stem = ProjectedConv3x3(in_channels, width, padding)
        self.stem_norm = _norm(norm, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, norm, padding) for _ in range(3)))
        self.where = nn.Conv2d(width, 1, 1, bias=False)
        self.how_much = nn.Linear(width, 1)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.how_much.weight, std=0.02)

    def forward(self, features: Tensor, *deeper: Tensor) -> Tensor:
        """Estimate the logits.

        Args:
            features: (N, C, H, W).
            deeper: further maps of the same images, which are resized to ``features`` and concatenated with it; all
                channels together are ``in_channels``.

        Returns:
            Mask logits A, (N, 1, H, W).
        """
        return _clamp_passing_gradients(self.score(features, *deeper), self.logit_range)

    def score(self, features: Tensor, *deeper: Tensor) -> Tensor:
        """The logits before ``logit_range`` bounds them: they still order the positions beyond it."""
        projected = self.stem(features, *deeper)
        # A mask is a sign, and rounding turns those near 0: only the stem, which reads wide maps, follows autocast.
        with without_autocast(projected):
            local = self.blocks(torch.relu(self.stem_norm(projected.to(self.where.weight.dtype))))
            where = self.where(local)  # one logit per position, standardised over each image
            if self.logit_spread is not None:
                where = self.logit_spread * F.layer_norm(where, where.shape[-2:])
            context = reduce(local, "n c h w -> n c", "mean")
            if self.context == "normalised":
                context = F.layer_norm(context.detach(), context.shape[-1:])
            how_much = self.how_much(context)  # one logit per image
            scores: Tensor = where + rearrange(how_much, "n 1 -> n 1 1 1")  # the last 1x1 convolution, eq. 1
        return scores

    def extra_repr(self) -> str:
        """The arguments that keep the logits alive."""
        return f"logit_spread={self.logit_spread}, logit_range={self.logit_range:g}"


def _clamp_passing_gradients(logits: Tensor, bound: float) -> Tensor:
    """Clamp to [-bound, bound] with the gradient of the identity: a logit outside the range can come back.

    Written as a sum: an autograd.Function would need its own rules for forward mode and torch.func's transforms.
    """
    largest = torch.finfo(logits.dtype).max
    finite = logits.clamp(-largest, largest)  # infinity minus itself would be NaN
    return logits.clamp(-bound, bound).detach() + (finite - finite.detach())  # the bracket is exactly zero


def _norm(norm: MaskNorm, channels: int) -> nn.Module:
    kinds: dict[str, type[nn.Module]] = {"layer": LayerNorm2d, "batch": nn.BatchNorm2d, "none": nn.Identity}
    return kinds[norm](channels)


def _initialise(module: nn.Module) -> None:
    """Images start about half open: ``where`` ranks at random, ``how_much`` starts near zero (torch's own bias)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
