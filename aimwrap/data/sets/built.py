"""Sets that ``aimwrap data build`` made: a table as Waterbirds has, with the masks and the names next to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io import expand_path, read_json
from ..release import SPLITS, Release
from ..sample import images_per_group
from . import DatasetOnDisk, Expected, Sources
from .waterbirds import read_rows

MANIFEST = "build.json"


def read_built(root: Path | str) -> Release:
    """Read the table of a built set; no image is opened.

    Args:
        root: the folder that was built into.

    Returns:
        All splits, with object masks.

    Raises:
        FileNotFoundError: if it is not there or is not complete.
        ValueError: if the table is damaged.
    """
    root = expand_path(root)
    manifest_path = root / MANIFEST
    if not manifest_path.is_file():
        raise FileNotFoundError(f"{manifest_path} is not there; pass the folder that aimwrap data build wrote, as root")
    if not (root / "metadata.csv").is_file():
        raise FileNotFoundError(
            f"{root} is not complete: metadata.csv, which is written last, is not there. Run the same command "
            "again to continue"
        )
    classes, places = _names(manifest_path)
    rows = read_rows(root, len(classes), len(places), way_out="Build the set again")
    masks = [(root / "segmentations" / row.values["img_filename"]).with_suffix(".png") for row, _ in rows]
    records = tuple(record._replace(mask_path=mask) for (_, record), mask in zip(rows, masks, strict=True))
    return Release(f"the set in {root.name}", root, records, classes, places)


def _names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    manifest = read_json(path)
    found = [manifest.get(key) if isinstance(manifest, dict) else None for key in ("classes", "places")]
    classes, places = (tuple(names) if isinstance(names, list) else () for names in found)
    if not classes or not places or not all(isinstance(name, str) for name in (*classes, *places)):
        raise ValueError(f"{path} must list the names of classes and places, got {found!r:.80}. Build the set again")
    return classes, places


class Built(DatasetOnDisk):
    """One split of a set that ``aimwrap data build`` wrote: :func:`read_built` as a data set."""

    read = staticmethod(read_built)
    title = "a set that aimwrap data build wrote"
    authority = MANIFEST

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """The file that the builder writes first."""
        return f"it has {MANIFEST}, which aimwrap data build writes" if (folder / MANIFEST).is_file() else None

    @classmethod
    def expected(cls, release: Release) -> Mapping[str, Expected] | None:
        """The numbers that were asked for at the build, and how each label's images are spread over the places."""
        manifest = read_json(release.root / MANIFEST)
        found = Counter((record.split, record.label) for record in release.records)
        try:
            sizes = {split: int(manifest["num_images"][split]) for split in SPLITS}
            tyings = manifest.get("tyings", {})
            return {
                split: Expected(size, groups=_groups(release, split, tyings[split], found))
                if split in tyings and any(row[0] == split for row in found)
                else Expected(size)
                for split, size in sizes.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError):  # edited by hand; the reader needs only the names
            return None


def _groups(release: Release, split: str, tying: Mapping[str, Any], found: Counter[tuple[str, int]]) -> tuple[int, ...]:
    num_places = len(release.places)
    labels = [found[split, label] for label in range(len(release.classes))]
    tie = 1 / num_places if tying["tie"] is None else float(tying["tie"])
    return tuple(number for row in images_per_group(labels, tie, num_places, int(tying["shift"])) for number in row)
