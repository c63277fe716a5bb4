"""Binary Gumbel-softmax with a straight-through gradient: from mask logits to masks, as pure functions.

The paper's G (eq. 2) after Verelst and Tuytelaars (CVPR 2020), whose two Gumbel draws per position only ever appear as
their difference, which is one draw of logistic noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def logistic_noise_like(logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw the difference of two independent standard Gumbel variables, one per element.

    Args:
        logits: gives shape and device.
        generator: source of randomness; torch's default generator if None.

    Returns:
        float32 noise of the same shape, always finite: the uniform draw is kept one rounding step away from 0 and 1, so
        that the noise stays within about +-16.
    """
    # Where the batch size is free, a generator cannot be compiled, not even None.
    source: dict[str, Any] = {} if generator is None else {"generator": generator}
    uniform: Tensor = torch.rand(logits.shape, device=logits.device, dtype=torch.float32, **source)
    rounding = torch.finfo(torch.float32).eps
    uniform = uniform.clamp(rounding, 1 - rounding)
    return uniform.log() - (-uniform).log1p()


def binary_gumbel_softmax(
    logits: Tensor, *, training: bool, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Turn mask logits A into a mask B of exact zeros and ones (paper eq. 2).

    In training a position is open with probability sigmoid(A); the value is hard, the gradient is that of the soft
    sigmoid((A + noise) / temperature). In evaluation there is no noise: the mask is 1 where A >= 0.

    Args:
        logits: mask logits A of any shape and floating dtype, such as (N, 1, H, W).
        training: whether to draw noise.
        temperature: of the Gumbel-softmax; lower makes the soft gradient steeper and more local. Not the area tau.
        generator: source of the noise; torch's default generator if None.

    Returns:
        The mask, of the shape and dtype of ``logits``.

    Example:
        >>> binary_gumbel_softmax(torch.tensor([-3.0, 0.0, 0.1]), training=False)
        tensor([0., 1., 1.])
    """
    return straight_through(perturb(logits, training=training, generator=generator), temperature).to(logits.dtype)


def perturb(logits: Tensor, *, training: bool, generator: torch.Generator | None = None) -> Tensor:
    """Add the noise, in training; in float32 whatever autocast says."""
    attention = logits.float()
    return attention + logistic_noise_like(attention, generator=generator) if training else attention


def straight_through(attention: Tensor, temperature: float = 1.0) -> Tensor:
    """Exactly 1 where the perturbed logits are at least 0, else exactly 0, with the gradient of the soft sigmoid."""
    soft = torch.sigmoid(attention / temperature)
    hard = (attention >= 0).float()
    # In this order the sum is exactly 0 or 1; hard + soft - soft.detach() misses by a rounding error.
    return hard - soft.detach() + soft


def rank_only(attention: Tensor) -> Tensor:
    """The same values with a gradient that sums to zero over an image's positions, (N, 1, H, W) in and out.

    What trains through it orders an image's positions, but cannot open or close all of them together.
    """
    ranks = attention - attention.mean(dim=(2, 3), keepdim=True)
    return attention.detach() + (ranks - ranks.detach())  # the bracket is exactly zero
