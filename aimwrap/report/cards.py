"""Which images the gallery shows, and what of each: bounded, however many are measured."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import torch

Card = dict[str, Any]
Badness = tuple[float, float]


class Cards:
    """Keeps every image's card where they are few enough; else the worst ones, and others drawn by lot.

    So that the gallery does not show failures alone, half of a limited one is drawn from the images that are not among
    the worst.

    Args:
        images: how many there are in all.
        limit: how many cards to keep.
        seed: of the lot.
    """

    def __init__(self, images: int, limit: int, seed: int) -> None:
        self._limit, self._all = limit, images <= limit
        self._worst_count = limit - limit // 2
        order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
        self._rank: list[int] = order.argsort().tolist()  # who draws a low number is shown
        self._cards: dict[int, Card] = {}
        self._badness: dict[int, Badness] = {}
        self._worst: list[tuple[Badness, int]] = []  # a heap with the mildest on top

    def add(self, index: int, badness: Badness, make: Callable[[], Card]) -> None:
        """Keep an image's card if it may be shown in the end.

        Args:
            index: of the image.
            badness: the larger the sooner it is shown; the second number decides ties.
            make: makes the card.
        """
        dropped = None
        entry = (badness, -index)
        if len(self._worst) < self._worst_count:
            heapq.heappush(self._worst, entry)
        else:
            dropped = -heapq.heappushpop(self._worst, entry)[1]
        if dropped != index or self._may_be_drawn(index):
            self._cards[index], self._badness[index] = make(), badness
        if dropped is not None and not self._may_be_drawn(dropped):
            self._cards.pop(dropped, None)
            self._badness.pop(dropped, None)

    def shown(self) -> list[tuple[int, Card]]:
        """The images that are shown, by index, from the worst on."""
        worst = {-number for _, number in self._worst}
        others = sorted((index for index in self._cards if index not in worst), key=self._rank.__getitem__)
        chosen = [*worst, *others[: self._limit - len(worst)]]
        chosen.sort(key=lambda index: (self._badness[index], -index), reverse=True)
        return [(index, self._cards[index]) for index in chosen]

    @property
    def counts(self) -> tuple[int, int] | None:
        """How many of the worst and how many by lot; None where all are shown."""
        return None if self._all else (self._worst_count, self._limit - self._worst_count)

    def _may_be_drawn(self, index: int) -> bool:
        # Of the `limit` lowest numbers, the worst ones leave enough for the half that is drawn.
        return self._all or self._rank[index] < self._limit
