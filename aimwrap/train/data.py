"""Numbers that depend on what they are for and on nothing that was drawn before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from ..data import (
    Augmentation,
    Batch,
    ReleaseDataset,
    Sample,
    collate,
    crop_and_flip,
    eval_transform,
    jitter_crop_and_flip,
    no_augmentation,
    train_transform,
    trivial_augment,
)
from ..data.registry import read_by_name
from ..data.release import Record, groups_of
from ..preprocessing import Preprocessing
from .settings import AugmentationName, Settings

_MASK = 2**64 - 1


def mixed(*parts: int) -> int:
    """One number of many, well mixed: any two lists that differ give numbers that have nothing in common.

    SplitMix64's last step (Steele, Lea and Flood 2014), once for each part.

    Args:
        *parts: whole numbers, not negative.

    Returns:
        A number from 0 to 2^63 - 1, which fits torch's int64 and every generator's seed.

    >>> mixed(0, 1, 2) == mixed(0, 1, 2), mixed(0, 1, 2) == mixed(0, 2, 1)
    (True, False)
    """
    state = 0
    for part in parts:
        state = (state ^ part) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


def seed_of_image(seed: int, epoch: int, image: int) -> int:
    """What an image's augmentation and its masks' noise are made of, in one epoch.

    Args:
        seed: of the run.
        epoch: from 0.
        image: its number in the data set.
    """
    return mixed(seed, 1, epoch, image)


def seed_of_order(seed: int, epoch: int) -> int:
    """What an epoch's order of images is drawn with."""
    return mixed(seed, 2, epoch)


def seed_of_process(seed: int, rank: int) -> int:
    """What a process's own generators start from, which dropout draws from."""
    return mixed(seed, 3, rank)


def seed_of_hold_out(seed: int) -> int:
    """What decides which training images are held out."""
    return mixed(seed, 4)


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


_AUGMENTATIONS: Mapping[AugmentationName, Callable[[Preprocessing], Augmentation]] = {
    "crop-and-flip": crop_and_flip,
    "jitter-crop-and-flip": jitter_crop_and_flip,
    "trivial-augment": trivial_augment,
    "none": no_augmentation,
}


@dataclass(frozen=True)
class Splits:
    """The splits of a data set, each without a transform until :func:`prepared` gives it one.

    Attributes:
        train: what is trained on.
        val: what the epochs are judged by; None if there is nothing.
        test: what the result is measured on: the test split, or the validation where a release has no test.
        tested_on: the name of that split.
        classes: names, by label.
        group_names: by number of group; the classes where there are no places.
        fingerprint: of every image's name, label and place, to tell another data set.
    """

    train: ReleaseDataset
    val: ReleaseDataset | None
    test: ReleaseDataset
    tested_on: str
    classes: tuple[str, ...]
    group_names: tuple[str, ...]
    fingerprint: str

    @property
    def train_counts(self) -> Tensor:
        """Training images of each group."""
        return torch.bincount(groups_of(self.train), minlength=len(self.group_names))


def read_splits(settings: Settings) -> Splits:
    """Read what a data set's tables say; no image is opened.

    Args:
        settings: of the run.

    Returns:
        Its splits.

    Raises:
        FileNotFoundError: if it is not there.
        TypeError: if its reader needs other arguments.
        ValueError: if the name is unknown, or the data set has nothing to test or to select on.
    """
    train = read_by_name(settings.data, settings.root, "train", settings.reader)
    records = train.release.records
    fingerprint = _fingerprint(records)
    val = _split(train, "val") if "val" in train.splits else None
    if settings.hold_out:
        if val is not None:
            raise ValueError(
                f"hold_out is for data sets without a validation split, and {train.release.name} has one; leave it out"
            )
        train, val = _held_out(train, settings)
    test = _split(train, "test") if "test" in train.splits else val
    if test is None:
        raise ValueError(
            f"{train.release.name} has no images to test on, its splits are {', '.join(train.splits)}; hold_out=0.2 "
            "holds out a fifth of the training images"
        )
    return Splits(
        train,
        val,
        test,
        "test" if "test" in train.splits else "val",
        train.classes,
        train.group_names or train.classes,
        fingerprint,
    )


def prepared(splits: Splits, settings: Settings, preprocessing: Preprocessing) -> Splits:
    """The same splits with the transforms that the settings ask for.

    Args:
        splits: from :func:`read_splits`; they are given their transforms in place.
        settings: of the run.
        preprocessing: of the model.
    """
    splits.train.transform = train_transform(preprocessing, _AUGMENTATIONS[settings.augmentation])
    for part in (splits.val, splits.test):
        if part is not None:
            part.transform = eval_transform(preprocessing)
    return splits


def _split(images: ReleaseDataset, split: str) -> ReleaseDataset:
    """Another split of the same release, whose tables are not read again."""
    return ReleaseDataset(images.release, split)


def _held_out(train: ReleaseDataset, settings: Settings) -> tuple[ReleaseDataset, ReleaseDataset]:
    """A share of each group of the training images, or one image, as validation."""
    generator = torch.Generator().manual_seed(seed_of_hold_out(settings.seed))
    out: set[int] = set()
    groups = groups_of(train)
    for group in groups.unique().tolist():
        members = (groups == group).nonzero().flatten()
        count = round(settings.hold_out * len(members))
        out.update(members[torch.randperm(len(members), generator=generator)[:count]].tolist())
    if not out or len(out) == len(train):
        raise ValueError(f"hold_out={settings.hold_out:g} of {len(train)} training images leaves a split empty")
    records = [record._replace(split="val") if number in out else record for number, record in enumerate(train.records)]
    others = [record for record in train.release.records if record.split != "train"]
    release = replace(train.release, records=(*records, *others))
    return ReleaseDataset(release, "train"), ReleaseDataset(release, "val")


def _fingerprint(records: tuple[Record, ...]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record.id}\t{record.label}\t{record.split}\t{record.place}\n".encode())
    return digest.hexdigest()[:16]
