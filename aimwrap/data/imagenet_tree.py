"""ImageNet as people have it on disk: ``train`` and ``val``, each with a folder per WordNet number."""

from __future__ import annotations

import re
from pathlib import Path

from .listing import list_folder

SPLITS = ("train", "val")
WNID = re.compile("n[0-9]{8}")  # WordNet's number of a noun: the class
TRAIN_STEM = re.compile("(n[0-9]{8})_[0-9]+")  # of a file of ImageNet's training set, which names its class
VAL_STEM = re.compile("ILSVRC2012_val_[0-9]{8}")  # of a file of its validation set, which does not
IMAGENET_STEM = re.compile(f"{TRAIN_STEM.pattern}|{VAL_STEM.pattern}")
BELOW = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # where people have train and val below what they call ImageNet


def split_folders(root: Path, argument: str) -> dict[str, Path]:
    """Find ``train`` and ``val``.

    Args:
        root: a folder with one of them or both, or above ``ILSVRC/Data/CLS-LOC``, as Kaggle's copy has it.
        argument: what the caller calls it, for the message.

    Returns:
        The folder of each split that is there.

    Raises:
        FileNotFoundError: if neither is there.
    """
    for below in BELOW:
        found = {split: root / below / split for split in SPLITS if (root / below / split).is_dir()}
        if found:
            return found
    raise FileNotFoundError(
        f"{argument} must be a folder with train/ or val/ in it, each with a folder per WordNet number "
        f"(n01440764/...), and {root} has neither, nor an ILSVRC/Data/CLS-LOC with them; pass the folder above train/ "
        "and val/"
    )


def wnid_folders(folder: Path) -> list[str]:
    """The WordNet numbers that have a folder.

    Args:
        folder: of a split.

    Returns:
        Their names, sorted; folders with other names are left out.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the pictures lie there unsorted.
    """
    listing = list_folder(folder)
    found = [name for name in listing.folders if WNID.fullmatch(name)]
    if not found and any(VAL_STEM.match(name) for name in listing.pictures):
        raise ValueError(
            f"{folder} must have a folder per WordNet number (n01440764/...), and its {len(listing.pictures)} pictures "
            "lie there unsorted, as in ImageNet's archive. Put each into the folder of its class: "
            "torchvision.datasets.ImageNet(FOLDER, split='val') does so, where FOLDER holds ILSVRC2012_img_val.tar and "
            "ILSVRC2012_devkit_t12.tar.gz; in Kaggle's copy LOC_val_solution.csv names each picture's class"
        )
    if not found:
        raise FileNotFoundError(
            f"{folder} must have a folder per WordNet number (n01440764/...), and has none; pass the folder above "
            "train/ and val/ of an ImageNet tree"
        )
    return found


def class_pictures(folder: Path) -> list[str]:
    """The pictures of one class, none of which says that it is another's.

    Args:
        folder: of the class, named by its WordNet number.

    Returns:
        Names of its pictures, sorted.

    Raises:
        FileNotFoundError: if the folder is not there, or has no picture.
        ValueError: if a picture's name has another class's number.
    """
    pictures = list_folder(folder).pictures
    if not pictures:
        raise FileNotFoundError(
            f"{folder} has no picture, so its class would have none; unpack its archive again, or remove the folder "
            "if the class is meant to be left out"
        )
    for name in pictures:
        named = TRAIN_STEM.match(name)
        if named is not None and named[1] != folder.name:
            raise ValueError(
                f"{folder / name} lies in the folder of {folder.name} and is named as a picture of {named[1]}; its "
                "label would be wrong. Move it to its class, or get the release again"
            )
    return pictures
