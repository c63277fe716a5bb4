"""Sets that are no release: images by a table, or in a folder per class."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..folder import read_folder
from ..release import Release
from ..table import read_table
from .kind import Kind, Sources, call
from .listing import Listing, first_line, folders_below, pictures, subfolders


def table_evidence(folder: Path, sources: Sources) -> str | None:
    """The one table with a column of images and one of labels."""
    tables = _tables(folder)
    return f"{tables[0].name} has the columns image and label" if len(tables) == 1 else None


def folder_evidence(folder: Path, sources: Sources) -> str | None:
    """Folders with images, below folders of splits or not."""
    listing = Listing()
    for child in subfolders(folder):
        if pictures(listing, [child]):
            return f"its folders hold images, such as {child.name}"
        grandchild = next((each for each in subfolders(child) if pictures(listing, [each])), None)
        if grandchild is not None:
            return f"its folders hold folders of images, such as {child.name}/{grandchild.name}"
    return None


def _tables(folder: Path) -> list[Path]:
    names = sorted(name for name in Listing().files(folder) if name.lower().endswith(".csv"))
    return [folder / name for name in names if {"image", "label"} <= set(first_line(folder / name).split(","))]


def _read_table(root: Path, sources: Sources) -> Release:
    tables = _tables(root)
    return read_table(tables[0] if tables else root / "metadata.csv")


def _all_folders(release: Release) -> Iterable[Path]:
    return folders_below(release.root)


TABLE = Kind(
    "table",
    "images listed in a table",
    table_evidence,
    _read_table,
    lambda root, sources: call("LabelledTable", (_tables(root) or [root / "metadata.csv"])[0]),
    own_folders=_all_folders,
)
FOLDER = Kind(
    "folder",
    "a folder per class",
    folder_evidence,
    lambda root, sources: read_folder(root, masks=sources.masks),
    lambda root, sources: call("LabelledFolder", root, masks=sources.masks),
    own_folders=_all_folders,
)
