"""Which images the gallery shows, and their overlays as short texts: bounded, however many images are measured."""

from __future__ import annotations

import base64
import heapq
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def packed_mask(mask: Tensor) -> str:
    """A mask (h, w) as base64 of its bits, row by row, the most significant bit of a byte first.

    >>> packed_mask(torch.tensor([[1.0, 0.0, 1.0]])), base64.b64decode("oA==") == bytes([0b10100000])
    ('oA==', True)
    """
    return _text(np.packbits((mask.flatten() > 0.5).cpu().numpy()))  # numpy has no bfloat16


def packed_contributions(contributions: Tensor) -> dict[str, Any]:
    """Signed values (h, w) as base64 of 8-bit integers, where 127 means ``scale``; 0 stays exactly 0.

    >>> packed_contributions(torch.tensor([[2.0, -1.0, 0.0]]))
    {'scale': 2.0, 'values': 'f8AA'}
    """
    values = contributions.cpu().double()
    scale = float(f"{values.abs().max().item():.4g}")
    if scale == 0 or not math.isfinite(scale):
        return {"scale": 0.0, "values": _text(np.zeros(values.numel(), np.int8))}
    return {"scale": scale, "values": _text((values / scale * 127).round().clamp(-127, 127).to(torch.int8).numpy())}


def _text(values: Any) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


Card = dict[str, Any]
Badness = tuple[float, float]


class Cards:
    """Keeps every image's card where they are few enough; else the worst ones, and others drawn at random.

    So that the gallery does not show failures alone, half of a limited one is drawn from the images that are not among
    the worst.
    """

    def __init__(self, images: int, limit: int, seed: int) -> None:
        self._limit, self._worst_count = limit, limit - limit // 2
        order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
        self._rank: list[int] = order.argsort().tolist()  # low ranks are shown
        self._cards: dict[int, tuple[Badness, Card]] = {}
        self._worst: list[tuple[Badness, int]] = []  # a heap with the mildest on top; indices are negative

    def add(self, index: int, badness: Badness, make: Callable[[], Card]) -> None:
        """Make and keep a card if it may be shown; larger badness comes first, the second number decides ties."""
        heapq.heappush(self._worst, (badness, -index))
        mildest = -heapq.heappop(self._worst)[1] if len(self._worst) > self._worst_count else None
        if mildest != index or self._may_be_drawn(index):
            self._cards[index] = badness, make()
        if mildest is not None and not self._may_be_drawn(mildest):
            self._cards.pop(mildest, None)

    def shown(self) -> list[tuple[int, Card]]:
        """The images that are shown, by index, from the worst on."""
        worst = {-number for _, number in self._worst}
        others = sorted(self._cards.keys() - worst, key=self._rank.__getitem__)
        chosen = [*worst, *others[: self._limit - len(worst)]]
        chosen.sort(key=lambda index: (self._cards[index][0], -index), reverse=True)
        return [(index, self._cards[index][1]) for index in chosen]

    @property
    def counts(self) -> tuple[int, int] | None:
        """How many of the worst and how many at random; None where all are shown."""
        return None if len(self._rank) <= self._limit else (self._worst_count, self._limit - self._worst_count)

    def _may_be_drawn(self, index: int) -> bool:
        # Of the `limit` lowest ranks, the worst ones leave enough for the half that is drawn.
        return self._rank[index] < self._limit
