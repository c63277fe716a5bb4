"""Listing folders of many pictures in one pass, in the order of torchvision's ``ImageFolder``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS


class Listing(NamedTuple):
    """What lies directly in a folder.

    Attributes:
        folders: names of its folders, sorted.
        pictures: names of its pictures, sorted: files that end as pictures do, in any case.
    """

    folders: list[str]
    pictures: list[str]


def list_folder(folder: Path, meaning: str = "the folder") -> Listing:
    """List a folder; hidden entries, what macOS packs beside files, and files that are no pictures are left out.

    Links count as what they point to; a link to nothing counts as the file that it names, so that opening it says
    that it is missing.

    Args:
        folder: to list.
        meaning: what it is, for the message.

    Returns:
        Its folders and its pictures.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    folders, pictures = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if is_folder(entry):
                    folders.append(entry.name)
                elif entry.name.lower().endswith(IMG_EXTENSIONS):
                    pictures.append(entry.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{meaning} must be a folder, and {folder} is none; see what lies in {_nearest(folder)}, and pass where "
            "the release was unpacked"
        ) from error
    return Listing(sorted(folders), sorted(pictures))


def pictures_below(folder: Path) -> list[str]:
    """List a folder with all below it.

    Args:
        folder: to list.

    Returns:
        Paths of its pictures relative to it, with ``/`` between their parts, ordered as ``ImageFolder`` orders them:
        by folder, then by name.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a link leads back, so that the listing would not end.
    """
    found: list[tuple[str, list[str]]] = []
    waiting: list[tuple[str, tuple[Path, ...]]] = [("", (folder.resolve(),))]
    while waiting:
        prefix, above = waiting.pop()  # above: where the folders really are that led here, itself the last
        here = folder / prefix
        listing = list_folder(here)
        found.append((prefix, listing.pictures))
        for name in listing.folders:
            below, really = here / name, above[-1] / name
            if below.is_symlink():
                really = below.resolve()
                if any(each.is_relative_to(really) for each in above):
                    raise ValueError(
                        f"{below} is a link to a folder above it, or that led to it, so listing it would never end; "
                        "remove it"
                    )
            waiting.append((f"{prefix}{name}/", (*above, really)))
    return [prefix + name for prefix, names in sorted(found, key=_without_slash) for name in names]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _without_slash(part: tuple[str, list[str]]) -> str:
    return part[0].removesuffix("/")


def _nearest(folder: Path) -> Path:
    """The deepest folder above that is there."""
    return next((parent for parent in folder.absolute().parents if parent.is_dir()), Path("/"))
