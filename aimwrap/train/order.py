"""Which image is seen when: one order for all processes, of which each takes its part, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from .seeding import seed_of_image, seed_of_order


class Draw(NamedTuple):
    """An image to be read, and the number that its randomness is made of.

    Attributes:
        image: its number in the data set.
        seed: of its augmentation and of its masks' noise.
    """

    image: int
    seed: int


def batches_of(num_images: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """An epoch's batches, of all processes together: every image once.

    As few batches as the size allows, and as even as can be: they differ by one image at most, so there is no small
    last one, whose few images would weigh as much as a whole batch and upset a BatchNorm.

    Args:
        num_images: in the training set.
        batch_size: the largest batch.
        seed: of the run.
        epoch: from 0.

    Returns:
        Numbers of images.

    >>> [len(batch) for batch in batches_of(10, 4, seed=0, epoch=0)]
    [4, 3, 3]
    """
    generator = torch.Generator().manual_seed(seed_of_order(seed, epoch))
    order = torch.randperm(num_images, generator=generator)
    return [batch.tolist() for batch in order.tensor_split(steps_per_epoch(num_images, batch_size))]


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """How many batches an epoch has.

    >>> steps_per_epoch(10, 4)
    3
    """
    return -(-num_images // batch_size)


def share_of(batch: list[int], rank: int, processes: int) -> list[int]:
    """A process's part of a batch: every so manieth image, so that parts differ by one image at most.

    >>> share_of([5, 6, 7, 8, 9], 0, 2), share_of([5, 6, 7, 8, 9], 1, 2)
    ([5, 7, 9], [6, 8])
    """
    return batch[rank::processes]


def parts_of(share: list[int], count: int) -> list[list[int]]:
    """A process's part of a batch in parts that are seen one after the other, as even as can be.

    >>> parts_of([5, 6, 7, 8, 9], 2)
    [[5, 6, 7], [8, 9]]
    """
    return [part.tolist() for part in torch.tensor(share).tensor_split(count)]


class BatchOrder(Sampler[list[Draw]]):
    """A process's batches of one epoch, from a step on: the ``batch_sampler`` of a ``DataLoader``.

    Args:
        num_images: in the training set.
        batch_size: of all processes together.
        seed: of the run.
        rank: of this process.
        processes: how many there are.
        accumulate: parts of its images of a step that each process sees one after the other; each is a batch here.

    Attributes:
        epoch: to be set before each.
        first_step: of the epoch, from 0: where a resumed run goes on.

    Raises:
        ValueError: if a batch would leave a process, or a part of its batch, without an image.

    Example:
        >>> order = BatchOrder(10, 4, seed=0, rank=1, processes=2)
        >>> [len(draws) for draws in order]
        [2, 1, 1]
        >>> order.first_step = 2
        >>> len(list(order))
        1
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1, accumulate: int = 1
    ) -> None:
        smallest = num_images // steps_per_epoch(num_images, batch_size)
        if smallest // processes < accumulate:
            if accumulate == 1:
                ask, way_out = "every process an image", "take fewer processes"
            else:
                ask, way_out = f"every process an image for each of accumulate={accumulate} parts", "lower accumulate"
            raise ValueError(
                f"batch_size must leave {ask}: batches of {num_images} images at batch_size={batch_size} have "
                f"{smallest} at least, and there {'is 1 process' if processes == 1 else f'are {processes} processes'}. "
                f"Raise batch_size, which counts all processes' images, or {way_out}"
            )
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.rank, self.processes, self.accumulate = rank, processes, accumulate
        self.epoch, self.first_step = 0, 0

    @property
    def steps_per_epoch(self) -> int:
        """How many steps an epoch has."""
        return steps_per_epoch(self.num_images, self.batch_size)

    def size_of(self, step: int) -> int:
        """Images of all processes in a step of the epoch, from 0."""
        smallest, larger = divmod(self.num_images, self.steps_per_epoch)
        return smallest + (step < larger)

    def __len__(self) -> int:
        """Batches that are left of the epoch: ``accumulate`` for each step."""
        return (self.steps_per_epoch - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        """The draws of each batch."""
        for batch in batches_of(self.num_images, self.batch_size, self.seed, self.epoch)[self.first_step :]:
            mine = share_of(batch, self.rank, self.processes)
            for part in parts_of(mine, self.accumulate):
                yield [Draw(image, seed_of_image(self.seed, self.epoch, image)) for image in part]
