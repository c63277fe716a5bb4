"""Sets of ImageNet's images: Hard-ImageNet, ImageNet-100, ImageWoof."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from ..hard_imagenet import NUM_CLASSES as HARD_CLASSES
from ..hard_imagenet import read_hard_imagenet
from ..imagenet100 import NUM_CLASSES as LISTED_CLASSES
from ..imagenet100 import read_imagenet100
from ..imagenet_tree import WNID
from ..imagewoof import BREEDS, COUNTS, TABLE, read_imagewoof
from ..release import Release
from .counts import Expected
from .kind import Kind, Sources, call
from .listing import Listing, folders_below, subfolders

FLAT_MASK = re.compile(r"n\d{8}_(n\d{8}_\d+|ILSVRC2012_val_\d{8})\.\w+")
CLASS_LIST = "imagenet100.txt"
VAL_IMAGES_PER_CLASS = 50  # in all of ImageNet's classes


def hard_imagenet_evidence(folder: Path, sources: Sources) -> str | None:
    """Flat masks, its list of classes, or its name."""
    for split in ("train", "val"):
        names = list(islice(Listing().files(folder / split), 1000))
        if any(FLAT_MASK.fullmatch(name) for name in names):
            return f"{split} has files named <wnid>_<ImageNet's file name>"
    if (folder / "meta" / "hard_imagenet_idx.pkl").is_file():
        return "it has meta/hard_imagenet_idx.pkl"
    return "it is called hardImageNet" if folder.name.lower() == "hardimagenet" else None


def imagenet100_evidence(folder: Path, sources: Sources) -> str | None:
    """A hundred classes of ImageNet, or any number with a list."""
    wnids = _wnids(folder)
    if not wnids:
        return None
    chosen = _class_list(folder, sources)
    if chosen is not None:
        return f"it has {len(wnids):,} folders named by WordNet numbers, and {chosen} is a list of classes"
    close = abs(len(wnids) - LISTED_CLASSES) <= 5
    return f"it has {len(wnids):,} folders named by WordNet numbers" if close else None


def imagewoof_evidence(folder: Path, sources: Sources) -> str | None:
    """Its table, its breeds, or its name."""
    if (folder / TABLE).is_file():
        return f"it has {TABLE}"
    wnids = _wnids(folder)
    if len(wnids & BREEDS.keys()) > len(BREEDS) // 2 and len(wnids) <= len(BREEDS) + 1:
        return "its folders are the WordNet numbers of ImageWoof's breeds"
    return f"it is called {folder.name}" if folder.name.lower().startswith("imagewoof") else None


def _wnids(folder: Path) -> set[str]:
    return {
        child.name for split in ("train", "val") for child in subfolders(folder / split) if WNID.fullmatch(child.name)
    }


def _class_list(root: Path, sources: Sources) -> Path | None:
    if sources.class_list is not None:
        return sources.class_list
    return next((path for path in (root / CLASS_LIST, root.parent / CLASS_LIST) if path.is_file()), None)


def _imagenet100_lacks(root: Path, sources: Sources) -> str | None:
    if _class_list(root, sources) is not None:
        return None
    return (
        f"ImageNet-100 is told by its list of classes, and there is no {CLASS_LIST} in {root} or beside it: pass "
        "--class-list FILE (imagenet100.txt of the code of Contrastive Multiview Coding), or --as folder to take the "
        "folders as they are"
    )


def _hard_imagenet_lacks(root: Path, sources: Sources) -> str | None:
    if sources.imagenet is not None:
        return None
    return "Hard-ImageNet is masks alone; the images are ImageNet's: pass --imagenet FOLDER, with train/ and val/ in it"


def _read_hard_imagenet(root: Path, sources: Sources) -> Release:
    return read_hard_imagenet(root, sources.imagenet or root)


def _read_imagenet100(root: Path, sources: Sources) -> Release:
    return read_imagenet100(root, _class_list(root, sources) or root / CLASS_LIST, sources.annotations)


def imagenet100_expected(release: Release) -> Mapping[str, Expected]:
    """Fifty validation images of each class; training images are between 732 and 1,300."""
    number = len(release.classes)
    return {
        "train": Expected(None),
        "val": Expected(VAL_IMAGES_PER_CLASS * number, (VAL_IMAGES_PER_CLASS,) * number),
    }


def imagewoof_expected(release: Release) -> Mapping[str, Expected]:
    """Of the release of December 2019."""
    return {split: Expected(size) for split, size in COUNTS.items()}


def _all_folders(release: Release) -> Iterable[Path]:
    return folders_below(release.root)


HARD_IMAGENET = Kind(
    "hard-imagenet",
    "Hard-ImageNet",
    hard_imagenet_evidence,
    _read_hard_imagenet,
    lambda root, sources: call("HardImageNet", root, imagenet=sources.imagenet),
    lacks=_hard_imagenet_lacks,
    own_folders=lambda release: [release.root / split for split in ("train", "val")],
    num_classes=HARD_CLASSES,
    some_masks_are_empty=True,
    duplicates="warning",
)
IMAGENET100 = Kind(
    "imagenet-100",
    "ImageNet-100",
    imagenet100_evidence,
    _read_imagenet100,
    lambda root, sources: call(
        "ImageNet100", root, class_list=_class_list(root, sources), annotations=sources.annotations
    ),
    lacks=_imagenet100_lacks,
    expected=imagenet100_expected,
    num_classes=LISTED_CLASSES,
    duplicates="warning",
)
IMAGEWOOF = Kind(
    "imagewoof",
    "ImageWoof",
    imagewoof_evidence,
    lambda root, sources: read_imagewoof(root),
    lambda root, sources: call("ImageWoof", root),
    expected=imagewoof_expected,
    num_classes=len(BREEDS),
    own_folders=_all_folders,
    duplicates="warning",
)
