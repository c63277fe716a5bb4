"""Sets that are no release: built ones, images by a table, images in a folder per class."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..builder.tying import images_per_group
from ..built import read_built
from ..folder import read_folder
from ..release import SPLITS, Release
from ..table import read_table
from .counts import Expected, count
from .kind import Kind, Sources, call
from .listing import Listing, first_line, folders_below, pictures, subfolders

MANIFEST = "build.json"


def built_evidence(folder: Path, sources: Sources) -> str | None:
    """What the builder leaves from its first second on."""
    return f"it has {MANIFEST}, which aimwrap data build writes" if (folder / MANIFEST).is_file() else None


def built_expected(release: Release) -> Mapping[str, Expected] | None:
    """What was asked for when it was built: how many images, and how each label's are spread over the places."""
    manifest = json.loads((release.root / MANIFEST).read_text(encoding="utf-8"))
    found = {row.split: row.labels for row in count(release)}
    try:
        sizes = {split: int(manifest["num_images"][split]) for split in SPLITS}
        tyings = manifest.get("tyings", {})
        return {
            split: _as_tied(size, tyings[split], found[split], len(release.places))
            if split in tyings and split in found
            else Expected(size)
            for split, size in sizes.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):  # edited by hand; the reader needs the names alone
        return None


def _as_tied(size: int, tying: Mapping[str, Any], labels: tuple[int, ...], num_places: int) -> Expected:
    tie = 1 / num_places if tying["tie"] is None else float(tying["tie"])
    rows = images_per_group(labels, tie, num_places, int(tying["shift"]))
    return Expected(size, groups=tuple(number for row in rows for number in row))


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


BUILT = Kind(
    "built",
    "a set that aimwrap data build wrote",
    built_evidence,
    lambda root, sources: read_built(root),
    lambda root, sources: call("Built", root),
    expected=built_expected,
    authority=MANIFEST,
    own_folders=_all_folders,
)
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
