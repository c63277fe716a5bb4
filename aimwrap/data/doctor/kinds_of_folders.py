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
    tables = _tables(folder, sources)
    columns = " and ".join(_needed_columns(sources))
    return f"{tables[0].name} has the columns {columns}" if len(tables) == 1 else None


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


def _needed_columns(sources: Sources) -> list[str]:
    return [sources.columns.get(name, name) for name in ("image", "label")]


def _tables(folder: Path, sources: Sources) -> list[Path]:
    if sources.table is not None:
        return [sources.table]
    names = sorted(name for name in Listing().files(folder) if name.lower().endswith(".csv"))
    needed = set(_needed_columns(sources))
    return [folder / name for name in names if needed <= set(first_line(folder / name).split(","))]


def _table(root: Path, sources: Sources) -> Path:
    return (_tables(root, sources) or [root / "metadata.csv"])[0]


def _read_table(root: Path, sources: Sources) -> Release:
    columns = sources.columns
    return read_table(
        _table(root, sources),
        image=columns.get("image", "image"),
        label=columns.get("label", "label"),
        place=columns.get("place", "place"),
        group=columns.get("group", "group"),
        split_column=columns.get("split_column", "split"),
        mask=columns.get("mask", "mask"),
        any_value_is_object=sources.any_value_is_object,
    )


def _all_folders(release: Release) -> Iterable[Path]:
    return folders_below(release.root)


TABLE = Kind(
    "table",
    "images listed in a table",
    table_evidence,
    _read_table,
    lambda root, sources: call(
        "LabelledTable", _table(root, sources), **sources.columns, any_value_is_object=sources.any_value_is_object
    ),
    own_folders=_all_folders,
)
FOLDER = Kind(
    "folder",
    "a folder per class",
    folder_evidence,
    lambda root, sources: read_folder(root, masks=sources.masks, any_value_is_object=sources.any_value_is_object),
    lambda root, sources: call(
        "LabelledFolder", root, masks=sources.masks, any_value_is_object=sources.any_value_is_object
    ),
    own_folders=_all_folders,
)
