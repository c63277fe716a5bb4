"""CUB's segmentations, which come apart from its images and fit those of the sets that are made of them, too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .files import folder


def find_segmentations(
    segmentations: str | os.PathLike[str] | None,
    beside: Sequence[Path],
    species: Iterable[str],
    object_masks: bool | None,
) -> Path | None:
    """The folder with a folder of masks for every species.

    Args:
        segmentations: as the user gave it.
        beside: folders to look for ``segmentations`` in if none was given.
        species: names of the folders that it must have.
        object_masks: whether the user demands masks (True), wants none (False) or takes what is there (None).

    Returns:
        The folder, or None if there is none and none was demanded.

    Raises:
        FileNotFoundError: if it was given or demanded and is not there, or is incomplete.
        ValueError: if it was given and none are wanted.
    """
    if object_masks is False:
        if segmentations is not None:
            raise ValueError("segmentations were given and object_masks=False does without; leave one of the two out")
        return None
    if segmentations is not None:
        given = folder(segmentations, "segmentations")
        candidates = [given, given / "segmentations"]
    else:
        candidates = [parent / "segmentations" for parent in beside]
    expected = sorted(set(species))
    for candidate in candidates:
        there = {entry.name for entry in os.scandir(candidate)} if candidate.is_dir() else set()
        missing = [name for name in expected if name not in there]
        if not missing:
            return candidate
        if len(missing) < len(expected):
            raise FileNotFoundError(
                f"the segmentations in {candidate} lack {len(missing)} of {len(expected)} species, the first of them "
                f"{missing[0]}; unpack segmentations.tgz again, or pass object_masks=False to do without masks"
            )
    if object_masks or segmentations is not None:
        raise FileNotFoundError(
            f"CUB's segmentations are not in {' nor in '.join(map(str, candidates))}; they come apart from the images: "
            "get segmentations.tgz (CaltechDATA), and pass segmentations=FOLDER if it is unpacked elsewhere"
        )
    return None


def mask_of(segmentations: Path, name: str) -> Path:
    """The mask of an image: of the same name but for the ending."""
    stem, _, ending = name.rpartition(".")
    return segmentations / f"{stem if stem and '/' not in ending else name}.png"


def masks_note(segmentations: Path | None) -> str:
    """What the notes say of the masks."""
    if segmentations is None:
        return "Without CUB's segmentations, which come apart from the images, there are no object masks."
    return (
        f"Object masks are CUB's segmentations in {segmentations}. They are soft: a value is how much of the pixel the "
        "bird covers, so results depend on the threshold (0.5 here, where one is needed)."
    )
