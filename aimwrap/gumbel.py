"""Binary Gumbel-softmax with a straight-through gradient: from mask logits to masks, as pure functions.

The paper's G (eq. 2) after Verelst and Tuytelaars (CVPR 2020), where the two Gumbel draws per position only appear
as their difference, which is one draw of logistic noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# SplitMix64's (Steele, Lea and Flood 2014), as the signed numbers that torch has.
_STEP, _FIRST, _SECOND = (x - 2**64 for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


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
    return _logistic(uniform)


def logistic_noise_of(seeds: Tensor, logits: Tensor, *, stream: int = 0) -> Tensor:
    """The same noise made from one number per image only: no generator's state, no other images.

    However a batch is split over processes, each image keeps its noise, and a resumed run has no state to restore. Each
    element hashes its image's number and its own position, so the order does not matter and any device may do it.

    Args:
        seeds: int64 (N,), one number per image; use another one in every epoch.
        logits: (N, ...), gives shape and device.
        stream: another number for each map of an image, so that their noise differs.

    Returns:
        float32 noise of the logits' shape, as :func:`logistic_noise_like`.

    Example:
        >>> seeds, logits = torch.tensor([7, 8]), torch.zeros(2, 1, 3, 3)
        >>> torch.equal(logistic_noise_of(seeds, logits)[1:], logistic_noise_of(seeds[1:], logits[1:]))
        True
    """
    positions = torch.arange(logits[0].numel(), device=logits.device)
    # Hashed before each sum: otherwise the noise of number 7 would be that of number 6, shifted by one map or position.
    states = _hashed(_hashed(seeds.to(logits.device)) + stream)
    uniform = _shifted(_hashed(states[:, None] + positions), 40).float() / 2**24
    return _logistic(uniform).view(logits.shape)


def _hashed(state: Tensor) -> Tensor:
    """SplitMix64's step, of int64 of any shape; products wrap around."""
    state = state + _STEP
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros: torch's own shift repeats the sign."""
    shifted: Tensor = (state >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _logistic(uniform: Tensor) -> Tensor:
    rounding = torch.finfo(torch.float32).eps
    uniform = uniform.clamp(rounding, 1 - rounding)
    noise: Tensor = uniform.log() - (-uniform).log1p()
    return noise


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


def perturb(
    logits: Tensor,
    *,
    training: bool,
    generator: torch.Generator | None = None,
    seeds: Tensor | None = None,
    stream: int = 0,
) -> Tensor:
    """Add the noise, in training; in float32 whatever autocast says. With ``seeds``, each image's own."""
    attention = logits.float()
    if not training:
        return attention
    if seeds is not None:
        return attention + logistic_noise_of(seeds, attention, stream=stream)
    return attention + logistic_noise_like(attention, generator=generator)


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


def budgeted_mask(scores: Tensor, area: float) -> Tensor:
    """Open an exact share of each image's positions, those of the highest scores.

    Args:
        scores: mask logits, or other values that rank the positions, (N, 1, H, W).
        area: share of the positions, in (0, 1]; it is rounded to a number of positions, at least one.

    Returns:
        The mask, exactly 0 or 1, of the shape and dtype of ``scores``. Of equal scores the first in reading order are
        taken; NaN, which has no rank, stays NaN.

    Example:
        >>> budgeted_mask(torch.tensor([[[[0.3, -2.0], [7.0, 0.1]]]]), 0.5)
        tensor([[[[1., 0.],
                  [1., 0.]]]])
    """
    ranked = scores.flatten(1).argsort(dim=1, descending=True, stable=True)
    kept = ranked[:, : max(1, round(area * ranked.shape[1]))]
    return torch.zeros_like(scores).flatten(1).scatter_(1, kept, 1.0).view_as(scores).where(~scores.isnan(), scores)
