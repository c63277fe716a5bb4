"""Which label stands on which place how often: the tie, as pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator


def own_place(label: int, num_places: int, shift: int = 0) -> int:
    """The place that a label is tied to: the one of its own number, counted around if there are fewer places.

    Args:
        label: number.
        num_places: how many places there are.
        shift: by how many places the assignment is turned, as in TravelingBirds' test.

    Returns:
        The number of the place.

    >>> [own_place(label, 3) for label in range(4)], [own_place(label, 3, shift=1) for label in range(3)]
    ([0, 1, 2, 0], [1, 2, 0])
    """
    return (label + shift) % num_places


def images_per_group(
    images_per_label: Sequence[int], tie: float, num_places: int, shift: int = 0
) -> tuple[tuple[int, ...], ...]:
    """How many images of each label stand on each place.

    ``round(tie * n)`` of a label's n images stand on its own place; Python rounds a half to the even neighbour. The
    others are spread over the other places as evenly as can be: where they do not divide, the places that follow the
    own one get one more. Hence the share is exactly the tie wherever ``tie * n`` is whole, and never half an image off.

    Args:
        images_per_label: of every label.
        tie: share of each label's images on the label's own place, 0 to 1; ``1 / num_places`` is no tie.
        num_places: how many places there are.
        shift: see :func:`own_place`.

    Returns:
        For each label the number of images on each place.

    >>> images_per_group([100, 40], 0.95, num_places=2)
    ((95, 5), (2, 38))
    >>> images_per_group([10], 1.0, num_places=3, shift=1)
    ((0, 10, 0),)
    >>> images_per_group([30], 1 / 3, num_places=3)
    ((10, 10, 10),)
    """
    sizes = []
    for label, count in enumerate(images_per_label):
        own = own_place(label, num_places, shift)
        row = [0] * num_places
        row[own] = round(tie * count) if num_places > 1 else count
        for step in range(1, num_places):
            share, more = divmod(count - row[own], num_places - 1)
            row[(own + step) % num_places] = share + (step <= more)
        sizes.append(tuple(row))
    return tuple(sizes)


def deal(members: Sequence[np.ndarray], sizes: Sequence[Sequence[int]], shift: int = 0) -> np.ndarray:
    """Deal each label's cut-outs to the places, the own place first; they come again in the same order if they run out.

    Args:
        members: for each label the numbers of its cut-outs, shuffled by the caller.
        sizes: for each label how many images stand on each place.
        shift: see :func:`own_place`.

    Returns:
        (images, 3) int64: label, place and cut-out of every image, label by label.

    >>> deal([np.array([7, 8, 9])], [(1, 3)]).tolist()
    [[0, 0, 7], [0, 1, 8], [0, 1, 9], [0, 1, 7]]
    """
    rows = []
    for label, (cutouts, row) in enumerate(zip(members, sizes, strict=True)):
        own = own_place(label, len(row), shift)
        order = [(own + step) % len(row) for step in range(len(row))]
        places = np.repeat(order, [row[place] for place in order])
        rows.append(np.stack([np.full(len(places), label), places, np.resize(cutouts, len(places))], axis=1))
    return np.concatenate(rows).astype(np.int64)


def evenly(members: np.ndarray, count: int, rng: Generator) -> np.ndarray:
    """Draw ``count`` of the members, each equally often up to one, in random order.

    Args:
        members: numbers, at least one unless ``count`` is 0.
        count: how many to draw.
        rng: draws.

    Returns:
        (count,) of them.

    >>> sorted(evenly(np.array([4, 5]), 4, np.random.default_rng(0)).tolist())
    [4, 4, 5, 5]
    """
    return rng.permutation(np.resize(rng.permutation(members), count))
