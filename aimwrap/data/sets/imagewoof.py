"""ImageWoof: ten breeds of dogs from ImageNet in a new split: most of its validation set is ImageNet's training set.

Howard and others, ``fastai/imagenette``; the labels with noise are by Abraham. The split is that of December 2019.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ..io import Row, expand_path, list_folder, read_csv, safe_join
from ..release import Record, Release
from . import DatasetOnDisk, Expected, Sources
from .imagenet100 import IMAGENET_STEM, SPLITS, TRAIN_STEM, class_pictures, wnids_below

BREEDS = {
    "n02086240": "Shih-Tzu",
    "n02087394": "Rhodesian ridgeback",
    "n02088364": "beagle",
    "n02089973": "English foxhound",
    "n02093754": "Border terrier",
    "n02096294": "Australian terrier",
    "n02099601": "golden retriever",
    "n02105641": "Old English sheepdog",
    "n02111889": "Samoyed",
    "n02115641": "dingo",
}
WNIDS = tuple(BREEDS)  # sorted: the labels, as under ImageFolder
COUNTS = {"train": 9025, "val": 3929}
FOLDERS = ("imagewoof2", "imagewoof2-320", "imagewoof2-160")
TABLE = "noisy_imagewoof.csv"
NoisyLabels = Literal[0, 1, 5, 25, 50]


def read_imagewoof(root: str | Path, *, noisy_labels: NoisyLabels = 0, unseen_only: bool = False) -> Release:
    """Read ImageWoof.

    Args:
        root: ``imagewoof2``, ``imagewoof2-320`` or ``imagewoof2-160``, or the folder above one of them.
        noisy_labels: how many per cent of the training labels are wrong, as ``noisy_imagewoof.csv`` has them.
            Validation labels are always right.
        unseen_only: whether to leave out images of ImageNet's training set, which networks that are pretrained on
            ImageNet have seen: see :func:`seen_in_pretraining`. Of the 3,929 validation images few remain.

    Returns:
        Both splits. Where ``noisy_imagewoof.csv`` is next to them, an image that it lists and that is missing is
        found when it is opened.

    Raises:
        FileNotFoundError: if a folder is missing, a class has no image, or the table is needed and missing.
        ValueError: if there are other classes or images than the release's, or the table contradicts the folders.
    """
    if noisy_labels not in get_args(NoisyLabels):
        raise ValueError(
            f"noisy_labels must be 0, 1, 5, 25 or 50 per cent, the columns of {TABLE}, got {noisy_labels!r}"
        )
    root = _release_folder(expand_path(root))
    records = [record for split in SPLITS for record in _split_records(root, split)]
    notes = []
    if (root / TABLE).exists() or noisy_labels:
        records = _with_table(records, root, noisy_labels)
    else:
        notes.append(f"{root} has no {TABLE}, so it is not known whether images are missing.")
    if noisy_labels:
        notes.append(f"Training labels have {noisy_labels} % noise (column noisy_labels_{noisy_labels} of {TABLE}).")
    notes += _count_notes(records)
    if unseen_only:
        records = [record for record in records if not seen_in_pretraining(record)]
        notes.append(_unseen_note(records, root))
    return Release("ImageWoof", root, tuple(records), tuple(BREEDS.values()), notes=tuple(notes))


def seen_in_pretraining(record: Record) -> bool:
    """Whether a network that is pretrained on ImageNet was trained on the image.

    The file's name shows it: ``n02086240_123.JPEG`` is of ImageNet's training set, ``ILSVRC2012_val_00000123.JPEG`` of
    its validation set.

    Args:
        record: of ImageWoof.

    Returns:
        Whether it is of ImageNet's training set.
    """
    return TRAIN_STEM.fullmatch(record.id) is not None


def _release_folder(root: Path) -> Path:
    if all((root / split).is_dir() for split in SPLITS):
        return root
    found = [name for name in FOLDERS if (root / name).is_dir()]
    if len(found) > 1:
        raise ValueError(f"{root} holds {' and '.join(found)}, the same images in several sizes; pass one as root")
    if not found:
        raise FileNotFoundError(
            "root must be imagewoof2, imagewoof2-320 or imagewoof2-160, with train/ and val/ in it, or the folder "
            f"above one of them, and {root} is neither; unpack imagewoof2.tgz and pass its folder"
        )
    return root / found[0]


def _split_records(root: Path, split: str) -> list[Record]:
    folder = root / split
    names = list_folder(folder, f"ImageWoof's {split}").folders
    others, lacking = sorted(set(names) - set(WNIDS)), sorted(set(WNIDS) - set(names))
    if others:
        raise ValueError(
            f"{folder} must have a folder for each of ImageWoof's ten breeds and no other, and has "
            f"{', '.join(others)}; if this is Imagenette or another set, read it with read_folder"
        )
    if lacking:
        raise FileNotFoundError(f"{folder} lacks the folders of {', '.join(lacking)}; unpack the release again")
    paths = [folder / wnid / name for wnid in WNIDS for name in class_pictures(folder / wnid)]
    unknown = [path for path in paths if not IMAGENET_STEM.fullmatch(path.stem)]
    if unknown:
        raise ValueError(
            f"{unknown[0]} must be named as in ImageNet (n02086240_123 or ILSVRC2012_val_00000123), since the name "
            f"shows whether pretrained networks have seen it; {len(unknown)} images are not. Get the release again"
        )
    return [Record(path.stem, path, WNIDS.index(path.parent.name), split) for path in paths]


def _with_table(records: list[Record], root: Path, noisy_labels: int) -> list[Record]:
    """The table's images in the order of the folders, with its labels."""
    column = f"noisy_labels_{noisy_labels}"
    listed: dict[Path, Record] = {}
    for row in read_csv(root / TABLE, ["path", "noisy_labels_0", column, "is_valid"]):
        record = _table_record(row, root, column)
        if record.path in listed:
            raise ValueError(f"{row.where}: {row.values['path']} is there twice. Get the release again")
        listed[record.path] = record
    others = [record.path for record in records if record.path not in listed]
    if others:
        raise ValueError(
            f"{others[0]} and {len(others) - 1} more images are not in {root / TABLE}, which lists the "
            "release's; this is another version, or images were added. Get the release again, or use read_folder"
        )
    train = [record for record in listed.values() if record.split == "train"]
    wrong = sum(record.label != WNIDS.index(record.path.parent.name) for record in train) / max(len(train), 1)
    if len(train) > COUNTS["train"] / 2 and not 0.6 * noisy_labels <= 100 * wrong <= 1.5 * noisy_labels:
        raise ValueError(
            f"{root / TABLE}: {column} must have {noisy_labels} % wrong training labels, and has {100 * wrong:.1f} %: "
            "its columns were swapped, or it was changed. Get the release again"
        )
    return sorted(listed.values(), key=lambda record: (SPLITS.index(record.split), record.path))


def _table_record(row: Row, root: Path, column: str) -> Record:
    relative = row.values["path"]
    path = safe_join(root, relative, row.where)
    split, _, rest = relative.partition("/")
    wnid, _, name = rest.partition("/")
    is_valid = {"True": "val", "False": "train"}.get(row.values["is_valid"])
    clean, noisy = row.values["noisy_labels_0"], row.values[column]
    if split not in SPLITS or "/" in name or not IMAGENET_STEM.fullmatch(Path(name).stem):
        raise ValueError(
            f"{row.where}: path must be train/ or val/, a WordNet number and an image of ImageNet, got "
            f"{relative!r:.80}. Get the release again"
        )
    if is_valid != split:
        raise ValueError(
            f"{row.where}: is_valid must be True for val/ and False for train/, got {row.values['is_valid']!r:.20} for "
            f"{relative}. Get the release again"
        )
    if clean not in BREEDS or noisy not in BREEDS or clean != wnid or (split == "val" and noisy != clean):
        raise ValueError(
            f"{row.where}: noisy_labels_0 must be the folder's WordNet number, {wnid}, and {column} one of the ten "
            f"breeds' (in val/ the same), got {clean!r:.20} and {noisy!r:.20}. Get the release again"
        )
    return Record(path.stem, path, WNIDS.index(noisy), split)


def _unseen_note(records: list[Record], root: Path) -> str:
    if not records:
        raise ValueError(
            f"unseen_only=True leaves no image of {root}: all are named as ImageNet's training images. Pass "
            "unseen_only=False, or get the release again"
        )
    count = sum(record.split == "val" for record in records)
    error = 100 * 1.96 * math.sqrt(0.9 * 0.1 / max(count, 1))
    return (
        f"Images of ImageNet's training set were left out (unseen_only=True). {len(records) - count} training "
        f"images remain, and {count} validation images are few: "
        f"the 95 % interval of an accuracy of 90 % on them is {error:.1f} points to each side."
    )


def _count_notes(records: list[Record]) -> list[str]:
    counts = Counter(record.split for record in records)
    seen = Counter(record.split for record in records if seen_in_pretraining(record))
    notes = [
        f"Networks pretrained on ImageNet were trained on {seen['val']} of the {counts['val']} validation images, "
        f"and not on the other {counts['val'] - seen['val']} (seen_in_pretraining; unseen_only=True keeps these). "
        f"{counts['train'] - seen['train']} of the {counts['train']} training images are of ImageNet's validation "
        "set."
    ]
    if dict(counts) != COUNTS:
        notes.append(
            f"The release of December 2019 has {COUNTS['train']} training and {COUNTS['val']} validation images; "
            f"here are {counts['train']} and {counts['val']}. The older one is split differently."
        )
    return notes


class ImageWoof(DatasetOnDisk):
    """ImageWoof: :func:`read_imagewoof` as a data set. Splits are ``"train"`` and ``"val"``."""

    read = staticmethod(read_imagewoof)
    title = "ImageWoof"
    num_classes = len(BREEDS)
    duplicates = "warning"

    @property
    def seen_in_pretraining(self) -> Tensor:
        """(len,) bool: whether networks that are pretrained on ImageNet were trained on the image."""
        return torch.tensor([seen_in_pretraining(record) for record in self.records], dtype=torch.bool)

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """Its table, its breeds, or its name."""
        if (folder / TABLE).is_file():
            return f"it has {TABLE}"
        wnids = wnids_below(folder)
        if len(wnids & BREEDS.keys()) > len(BREEDS) // 2 and len(wnids) <= len(BREEDS) + 1:
            return "its folders are the WordNet numbers of ImageWoof's breeds"
        return f"it is called {folder.name}" if folder.name.lower().startswith("imagewoof") else None

    @classmethod
    def expected(cls, release: Release) -> Mapping[str, Expected]:
        """Of the release of December 2019."""
        return {split: Expected(size) for split, size in COUNTS.items()}
