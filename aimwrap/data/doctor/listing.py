"""What lies in folders, without opening it: names and sizes; links are followed, though never in a circle."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ..listing import is_folder

IMAGE_NAME = re.compile(r"\.(jpe?g|png|bmp|gif|webp|tiff?|ppm)", re.IGNORECASE)  # a.jpg, and a.jpg.part, too


class Listing:
    """Files of folders, each folder read once, when it is first asked about.

    Asking a folder for its names is some hundred times quicker than asking for each file, above all over a network.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, int]] = {}

    def files(self, folder: Path) -> dict[str, int]:
        """Names and sizes in bytes of a folder's files; none if it cannot be read."""
        if folder not in self._folders:
            self._folders[folder] = dict(_files(folder))
        return self._folders[folder]

    def has(self, path: Path) -> bool:
        """Whether a file is there, by exactly this name, letter case included."""
        return path.name in self.files(path.parent)

    def size(self, path: Path) -> int | None:
        """Of a file, in bytes; None if it is not there."""
        return self.files(path.parent).get(path.name)

    def near_miss(self, path: Path) -> str | None:
        """A file that differs from a missing one in letter case or in its suffix only."""
        stem = path.stem.lower()
        return next((name for name in sorted(self.files(path.parent)) if Path(name).stem.lower() == stem), None)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file():
                        yield entry.name, entry.stat().st_size
                except OSError:  # a link in a circle, or one without rights
                    continue
    except OSError:
        return


def subfolders(folder: Path) -> list[Path]:
    """The folders of a folder, sorted, hidden ones left out; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and is_folder(entry)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def folders_below(root: Path, leave_out: Collection[str] = ()) -> Iterator[Path]:
    """A folder and all below it; each real folder once, however many links lead to it, and by its own name if it can.

    Args:
        root: to begin with.
        leave_out: names of folders that are not entered.
    """
    waiting, seen = [root], set()
    links: list[Path] = []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        yield folder
        for child in reversed(subfolders(folder)):
            if child.name not in leave_out:
                (links if child.is_symlink() else waiting).append(child)


def pictures(listing: Listing, folders: Iterable[Path]) -> list[Path]:
    """Files of folders that are named as images, sorted within each folder; hidden ones are left out."""
    return [
        folder / name
        for folder in folders
        for name in sorted(listing.files(folder))
        if IMAGE_NAME.search(name) and not name.startswith(".")
    ]


def first_line(path: Path) -> str:
    """Of a text file, cut after some thousand characters; empty if it cannot be read."""
    try:
        if not path.is_file():  # what waits for a writer, such as a pipe, would be waited for
            return ""
        with path.open("rb") as file:
            return file.readline(1 << 14).decode("utf-8-sig", "replace").strip()
    except OSError:
        return ""
