"""Compare an exported artefact with the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Runnable = Callable[[Tensor], dict[str, Tensor]]

LEAST_AGREEMENT = 0.995  # a logit within rounding of 0 may fall on either side; anything else moves more than that


class Parity(NamedTuple):
    """The difference between one output of an artefact and the model's, over all images tried.

    Attributes:
        output: its name.
        difference: largest absolute difference by the largest absolute value, over the images whose masks are all the
            same; None for masks.
        agreement: share of positions at which a mask is the same; None for what is not a mask.
    """

    output: str
    difference: float | None
    agreement: float | None

    def holds(self, tolerance: float) -> bool:
        """Whether the difference is within the tolerance, or at least 99.5 % of a mask's positions agree."""
        if self.agreement is not None:
            return self.agreement >= LEAST_AGREEMENT
        return self.difference is not None and self.difference <= tolerance

    def __str__(self) -> str:
        if self.agreement is not None:
            return f"{self.output}: {self.agreement:.2%} of the positions agree"
        return f"{self.output}: largest relative difference {self.difference:.1e}"


class ParityError(RuntimeError):
    """The exported artefact does not compute what the model does; nothing was written.

    Attributes:
        parity: of all outputs.
    """

    def __init__(self, message: str, parity: tuple[Parity, ...]) -> None:
        super().__init__(message)
        self.parity = parity


def seeded_images(shape: Sequence[int]) -> Tensor:
    """Images of blobs and grain, the same for every call: white noise alone gives nearly constant deep maps."""
    generator = torch.Generator().manual_seed(0)
    count, channels, height, width = shape
    blobs = torch.randn(count, channels, 4, 4, generator=generator)
    grain = torch.randn(count, channels, height, width, generator=generator)
    return F.interpolate(blobs, size=(height, width), mode="bilinear") + 0.3 * grain


@torch.no_grad()
def measure_parity(model: Runnable, artefact: Runnable, batches: Sequence[Tensor]) -> tuple[Parity, ...]:
    """Compare an artefact with the model.

    A mask position that flips, its logit being within rounding of 0, moves the whole image's logits. So logits and
    contributions are compared on images whose masks agree, and the masks by themselves; see :func:`is_mask`.

    ``batches`` are images (N, C, H, W), of whatever sizes both take. A row per output; a ValueError if a shape differs.
    """
    largest: dict[str, float] = {}
    apart: dict[str, float] = {}
    same, positions = Counter[str](), Counter[str]()
    for images in batches:
        expected, got = model(images), artefact(images)
        alike = torch.ones(len(images), dtype=torch.bool)
        for name, value in expected.items():
            if value.shape != got[name].shape:
                raise ValueError(f"{name} must be {tuple(value.shape)}, the artefact gives {tuple(got[name].shape)}")
            if is_mask(name):
                equal = (value == got[name]).cpu().flatten(1)
                alike &= equal.all(1)
                same[name] += int(equal.sum())
                positions[name] += equal.numel()
        for name, value in expected.items():
            if not is_mask(name) and alike.any():
                a, b = value.cpu()[alike].double(), got[name].cpu()[alike].double()
                apart[name] = max(apart.get(name, 0.0), _largest(a - b))
                largest[name] = max(largest.get(name, 0.0), _largest(a))
    return tuple(
        Parity(name, None, same[name] / positions[name])
        if is_mask(name)
        else Parity(name, _ratio(apart.get(name, math.inf), largest.get(name, 0.0)), None)
        for name in expected
    )


def is_mask(output: str) -> bool:
    """Whether an output of :class:`~aimwrap.export.ServingModel` is a mask, by its name."""
    return output.startswith("mask_") or output in ("merged_mask", "kept")


def _largest(values: Tensor) -> float:
    """Largest absolute value; infinite where one is not a number, so that no comparison lets it pass."""
    largest = values.abs().max().item()
    return math.inf if math.isnan(largest) else largest


def _ratio(difference: float, largest: float) -> float:
    if difference == 0:
        return 0.0
    return difference / largest if 0 < largest < math.inf else math.inf
