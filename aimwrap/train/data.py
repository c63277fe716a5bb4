"""The images of a run: its splits, their order, and random numbers that depend on their purpose alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, Subset

from .._files import parts_of
from ..data import Batch, ReleaseDataset, Sample, collate, transforms
from ..data.doctor.scan import Look, look_at_all
from ..data.registry import read_by_name
from ..data.release import ImageLoader, Record, Release, all_trained, groups_of, read_sample
from ..data.sample import with_object
from ..preprocessing import OR_WINDOW, Preprocessing
from ..taps.copies import unmoved_generators
from .settings import AugmentationName, Settings

# The purposes of random numbers, which `mixed` takes after the run's seed.
OF_IMAGE, OF_ORDER, OF_PROCESS, OF_HOLD_OUT, OF_SECOND_LOOK, OF_EXCHANGE = 1, 2, 3, 4, 5, 6
OLD = "tables"  # all that older versions compare: one fingerprint of all splits, without the files


def mixed(*parts: int) -> int:
    """One number made of many: any two lists that differ give numbers that have nothing in common.

    SplitMix64's last step (Steele, Lea and Flood 2014), once for each part, which is 0 or more. The result is from 0 to
    2^63 - 1, which fits every generator's seed. :mod:`aimwrap.gumbel` has the same for tensors, whose products wrap.

    >>> mixed(0, 1, 2) == mixed(0, 1, 2), mixed(0, 1, 2) == mixed(0, 2, 1)
    (True, False)
    """
    state, mask = 0, 2**64 - 1
    for part in parts:
        state = (state ^ part) + 0x9E3779B97F4A7C15 & mask
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        state ^= state >> 31
    return state >> 1


def seed_of_image(seed: int, epoch: int, image: int) -> int:
    """The number that an image's augmentation and its masks' noise depend on, in one epoch."""
    return mixed(seed, OF_IMAGE, epoch, image)


def seed_generators(seed: int) -> None:
    """Start torch's, CUDA's, Python's and NumPy's generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(mixed(seed) % 2**32)


class Draw(NamedTuple):
    """An image to read, and the number that its augmentation and its masks' noise depend on."""

    image: int
    seed: int


def batches_of(num_images: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """An epoch's batches, of all processes together: every image once.

    As few batches as the size allows, and as even as possible: they differ by one image at most. So there is no small
    last one, whose few images would weigh as much as a full batch and disturb a BatchNorm.

    >>> [len(batch) for batch in batches_of(10, 4, seed=0, epoch=0)]
    [4, 3, 3]
    """
    generator = torch.Generator().manual_seed(mixed(seed, OF_ORDER, epoch))
    order = torch.randperm(num_images, generator=generator)
    return [batch.tolist() for batch in order.tensor_split(steps_per_epoch(num_images, batch_size))]


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """The number of batches of an epoch."""
    return -(-num_images // batch_size)


class BatchOrder(Sampler[list[Draw]]):
    """A process's batches of one epoch, from a step on: the ``batch_sampler`` of a ``DataLoader``.

    ``batch_size`` counts the images of all processes. Each process splits its images of a step into ``accumulate``
    parts, and each part is a batch here. ``epoch`` is set before each epoch, and ``first_step``, from 0, when a run
    continues within one.

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
            of_parts = f" for each of accumulate={accumulate} parts" if accumulate > 1 else ""
            raise ValueError(
                f"batch_size must leave every process an image{of_parts}: batches of {num_images} images at "
                f"batch_size={batch_size} have {smallest} at least, and there "
                f"{'is 1 process' if processes == 1 else f'are {processes} processes'}. Raise it (it "
                f"counts all processes' images), or {'lower accumulate' if of_parts else 'take fewer processes'}"
            )
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.rank, self.processes, self.accumulate = rank, processes, accumulate
        self.steps_per_epoch = steps_per_epoch(num_images, batch_size)
        self.epoch, self.first_step = 0, 0

    def size_of(self, step: int) -> int:
        """Images of all processes in a step of the epoch, from 0."""
        smallest, larger = divmod(self.num_images, self.steps_per_epoch)
        return smallest + (step < larger)

    def __len__(self) -> int:
        """Batches that are left of the epoch: ``accumulate`` for each step."""
        return (self.steps_per_epoch - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        """The draws of each batch: each process takes every k-th image of a step, and splits these into even parts."""
        for step in batches_of(self.num_images, self.batch_size, self.seed, self.epoch)[self.first_step :]:
            for part in torch.tensor(step[self.rank :: self.processes]).tensor_split(self.accumulate):
                yield [Draw(image, seed_of_image(self.seed, self.epoch, image)) for image in part.tolist()]


class SeededBatch(NamedTuple):
    """A process's part of a training batch."""

    images: Batch
    seeds: Tensor  # int64 (N,), of the draws


class SeededImages(Dataset[tuple[Sample, int]]):
    """A data set whose augmentation, by torch's, Python's or NumPy's generator, depends on the draw's seed alone."""

    def __init__(self, images: Dataset[Sample]) -> None:
        self.images = images

    def __getitem__(self, draw: Draw) -> tuple[Sample, int]:
        """Read and augment an image."""
        with unmoved_generators():
            torch.default_generator.manual_seed(draw.seed)  # the CPU's alone: workers must not touch a GPU
            random.seed(draw.seed)
            np.random.seed(draw.seed % 2**32)
            return self.images[draw.image], draw.seed


def training_loader(images: Dataset[Sample], order: BatchOrder, workers: int, pin: bool) -> Iterable[SeededBatch]:
    """The loader of a process's training batches, which do not depend on the number of workers."""
    return ImageLoader(
        SeededImages(images),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
    )


def evaluation_loader(
    images: Dataset[Sample], batch_size: int, rank: int, processes: int, workers: int, pin: bool
) -> Iterable[Batch]:
    """The loader of a process's part of a split: each image is in one process, once."""
    mine = Subset(images, range(rank, len(images), processes))  # type: ignore[arg-type]  # a Dataset has no len() to mypy
    return ImageLoader(mine, batch_size, num_workers=workers, collate_fn=with_objects, pin_memory=pin)


def with_objects(samples: Sequence[Sample]) -> Batch:
    """A batch whose object masks are boxes, filled, where an image has no mask."""
    return collate([*map(with_object, samples)])


def _collate(samples: Sequence[tuple[Sample, int]]) -> SeededBatch:
    images, seeds = zip(*samples, strict=True)
    return SeededBatch(collate(images), torch.tensor(seeds, dtype=torch.int64))


_AUGMENTATIONS: Mapping[AugmentationName, Callable[[Preprocessing], transforms.Augmentation]] = {
    "crop-and-flip": transforms.crop_and_flip,
    "jitter-crop-and-flip": transforms.jitter_crop_and_flip,
    "trivial-augment": transforms.trivial_augment,
    "none": transforms.no_augmentation,
}


@dataclass(frozen=True)
class Splits:
    """The splits of a data set, each without a transform until :func:`prepared` gives it one."""

    train: ReleaseDataset
    val: ReleaseDataset | None  # by which the epoch is selected
    test: ReleaseDataset  # the validation split where there is no test split
    tested_on: str  # the name of that split
    classes: tuple[str, ...]
    group_names: tuple[str, ...]  # by number of group; the classes where there are no places
    fingerprint: dict[str, str]  # of each split's table and files, and of the names, to notice another data set

    @property
    def train_counts(self) -> Tensor:
        """Training images of each group."""
        return torch.bincount(groups_of(self.train), minlength=len(self.group_names))


def read_splits(settings: Settings) -> Splits:
    """Read the tables of the settings' data set, and parts of its files; no image is decoded.

    Raises:
        FileNotFoundError: if it is not there.
        TypeError: if its reader needs other arguments.
        ValueError: if the name is unknown, or the data set has no images to test or to select on.
    """
    train = read_by_name(settings.data, settings.root, "train", settings.reader)
    release = train.release
    fingerprint = {name: _fingerprint(ReleaseDataset(release, name).records, files=True) for name in train.splits}
    fingerprint[OLD] = _fingerprint(release.records)
    fingerprint["names"] = hashlib.sha256(repr((release.classes, release.places)).encode()).hexdigest()[:16]
    val = ReleaseDataset(release, "val") if "val" in train.splits else None
    if settings.hold_out:
        if val is not None:
            raise ValueError(
                f"hold_out is for data sets without a validation split, and {release.name} has one; leave it out"
            )
        train, val = _held_out(train, settings)
    test = ReleaseDataset(release, "test") if "test" in train.splits else val
    if test is None:
        raise ValueError(
            f"{release.name} has no images to test on, its splits are {', '.join(train.splits)}; hold_out=0.2 "
            "holds out a fifth of the training images"
        )
    return Splits(train, val, test, str(test.split), train.classes, train.group_names or train.classes, fingerprint)


def check_files(splits: Splits, prepared: Preprocessing, rank: int, processes: int, progress: bool) -> str:
    """Open this process's share of all images and masks; a ValueError names the first ones that cannot be read.

    Returns what a window cuts off, or that all images are nearly black, in words.
    """
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    mine = [(record, part.release) for part in parts for record in part.records][rank::processes]
    ends = [(0.0, 0.0, 0.0)]  # of each image: the shares of its values at both ends, and the largest

    def opened(item: tuple[Record, Release]) -> Look:
        try:
            image = read_sample(*item, prepared).image
        except (OSError, ValueError) as error:
            return Look(None, str(error))
        values = image if isinstance(image, Tensor) else torch.tensor(np.asarray(image).max() / 255)
        ends.append(((values <= 0).float().mean().item(), (values >= 1).float().mean().item(), values.max().item()))
        return Look((0, 0))

    looks = look_at_all(opened, mine, None, "checking the files", progress)
    reasons = [look.error for look in looks if look.error is not None]
    if reasons:
        raise ValueError("\n".join([*reasons[:5], f"{len(reasons)} of {len(mine)} images cannot be read"]))
    low, high, most = torch.tensor(ends).T.tolist()
    black, white = prepared.window or (0, 255)
    if mine and max(most) < 1 / 16:
        brightest = black + max(most) * (white - black)
        return f"warning: no pixel is brighter than {brightest:.4g}, and white is {white:g}; {OR_WINDOW}"
    below, above = (sum(shares) / max(1, len(mine)) for shares in (low, high))
    cut = f"{below:.1%} of the values are {black:g} or less, {above:.1%} {white:g} or more"
    return f"window {black:g} to {white:g}: {cut}" if prepared.window else ""


def prepared(splits: Splits, settings: Settings, preprocessing: Preprocessing) -> Splits:
    """The same splits, which are given the transforms that the settings and the model's preprocessing ask for."""
    splits.train.transform = transforms.train_transform(preprocessing, _AUGMENTATIONS[settings.augmentation])
    for part in (splits.val, splits.test):
        if part is not None:
            part.transform = transforms.eval_transform(preprocessing)
    return splits


def _held_out(train: ReleaseDataset, settings: Settings) -> tuple[ReleaseDataset, ReleaseDataset]:
    """The training images without a share of each group, and that share as the validation split."""
    generator = torch.Generator().manual_seed(mixed(settings.seed, OF_HOLD_OUT))
    out: set[int] = set()
    groups = groups_of(train)
    for group in groups.unique().tolist():
        members = (groups == group).nonzero().flatten()
        count = round(settings.hold_out * len(members))
        out.update(members[torch.randperm(len(members), generator=generator)[:count]].tolist())
    if not out or len(out) == len(train):
        raise ValueError(
            f"hold_out={settings.hold_out:g} of {len(train)} training images leaves a split without "
            "images; hold out another share"
        )
    records = [record._replace(split="val") if number in out else record for number, record in enumerate(train.records)]
    others = [record for record in train.release.records if record.split != "train"]
    release = all_trained(replace(train.release, records=(*records, *others)))
    return ReleaseDataset(release, "train"), ReleaseDataset(release, "val")


def _fingerprint(records: Sequence[Record], files: bool = False) -> str:
    digest = hashlib.sha256()
    for one in records:
        digest.update(f"{one.id}\t{one.label}\t{one.split}\t{one.place}\n".encode(errors="surrogateescape"))
        if files:
            digest.update(repr((one.boxes, parts_of(one.path), parts_of(one.mask_path))).encode())
    return digest.hexdigest()[:16]
