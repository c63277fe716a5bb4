"""Images as training reads them: each with randomness of its own, and loaders that begin where they are told to."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..data import Batch, Sample, collate
from .order import BatchOrder, Draw


class SeededBatch(NamedTuple):
    """A process's part of a training batch.

    Attributes:
        images: with what is known of them.
        seeds: int64 (N,), what each image's randomness is made of.
    """

    images: Batch
    seeds: Tensor


class SeededImages(Dataset[tuple[Sample, int]]):
    """A data set whose augmentation draws from a number that comes with the index, and from nothing else.

    Args:
        images: with a transform that draws from the generators of torch, Python or NumPy.
    """

    def __init__(self, images: Dataset[Sample]) -> None:
        self.images = images

    def __getitem__(self, draw: Draw) -> tuple[Sample, int]:
        """Read and augment an image."""
        with _generators_at(draw.seed):
            return self.images[draw.image], draw.seed


def training_loader(images: Dataset[Sample], order: BatchOrder, workers: int, pin: bool) -> Iterable[SeededBatch]:
    """The loader of a process's training batches.

    Args:
        images: the training set, with its transform.
        order: which images when; its ``epoch`` and ``first_step`` may be set before each iteration.
        workers: processes that read images; what they read does not depend on their number.
        pin: whether to pin memory, for a GPU.
    """
    loader = DataLoader(
        SeededImages(images),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # of its own: the global one would otherwise move with each iteration
    )
    return cast("Iterable[SeededBatch]", loader)


def evaluation_loader(
    images: Dataset[Sample], batch_size: int, rank: int, processes: int, workers: int, pin: bool
) -> Iterable[Batch]:
    """The loader of a process's part of a split: each image in one process, and none twice.

    Args:
        images: the split, with its transform.
        batch_size: of this process.
        rank: of this process.
        processes: how many there are.
        workers: processes that read images.
        pin: whether to pin memory, for a GPU.
    """
    mine = Subset(images, range(rank, len(images), processes))  # type: ignore[arg-type]  # a Dataset has no len() to mypy
    loader = DataLoader(
        mine, batch_size, num_workers=workers, collate_fn=collate, pin_memory=pin, generator=torch.Generator()
    )
    return cast("Iterable[Batch]", loader)


def _collate(samples: Sequence[tuple[Sample, int]]) -> SeededBatch:
    images, seeds = zip(*samples, strict=True)
    return SeededBatch(collate(images), torch.tensor(seeds, dtype=torch.int64))


@contextmanager
def _generators_at(seed: int) -> Iterator[None]:
    """Torch's, Python's and NumPy's generators at a seed, and afterwards as they were."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)  # the CPU's alone: workers must not touch a GPU
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
