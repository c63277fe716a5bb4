"""Data sets by name, with the splits that a run needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data import (
    Augmentation,
    ReleaseDataset,
    crop_and_flip,
    eval_transform,
    jitter_crop_and_flip,
    no_augmentation,
    train_transform,
    trivial_augment,
)
from ..data.by_name import read_by_name
from ..data.release import Record, groups_of
from ..preprocessing import Preprocessing
from .seeding import seed_of_hold_out
from .settings import AugmentationName, Settings

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
