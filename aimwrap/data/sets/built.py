"""Sets that ``aimwrap data build`` made: a table as Waterbirds has, with the masks and the names beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ..io import inside, integer, read_csv, read_json, written
from ..release import SPLITS, Record, Release, ReleaseDataset
from ..sample import Sample


def read_built(root: Path | str) -> Release:
    """Read the table of a built set; no image is opened.

    Args:
        root: the folder that was built into.

    Returns:
        All splits, with object masks.

    Raises:
        FileNotFoundError: if it is not there or was not built to its end.
        ValueError: if the table is damaged.
    """
    root = written(root)
    manifest_path = root / "build.json"
    if not manifest_path.is_file():
        raise FileNotFoundError(f"{manifest_path} is not there; pass the folder that aimwrap data build wrote, as root")
    if not (root / "metadata.csv").is_file():
        raise FileNotFoundError(
            f"{root} was not built to its end: metadata.csv, which is written last, is not there. Give the same "
            "command again, and it goes on"
        )
    classes, places = _names(manifest_path)
    records, seen = [], set()
    for row in read_csv(root / "metadata.csv", ("img_id", "img_filename", "y", "split", "place")):
        id, name = row.values["img_id"], row.values["img_filename"]
        image, mask = inside(root, name, row.where), inside(root / "segmentations", name, row.where)
        if id in seen or image in seen:
            raise ValueError(
                f"{row.where}: img_id {id} or img_filename {name!r:.80} is there twice. Build the set again"
            )
        seen |= {id, image}
        label, place = integer(row, "y", range(len(classes))), integer(row, "place", range(len(places)))
        split = SPLITS[integer(row, "split", range(len(SPLITS)))]
        records.append(Record(id, image, label, split, place, mask.with_suffix(".png")))
    if not records:
        raise ValueError(f"{root / 'metadata.csv'} has a header and no images. Build the set again")
    return Release(f"the set in {root.name}", root, tuple(records), classes, places)


def _names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    manifest = read_json(path)
    found = [manifest.get(key) if isinstance(manifest, dict) else None for key in ("classes", "places")]
    classes, places = (tuple(names) if isinstance(names, list) else () for names in found)
    if not classes or not places or not all(isinstance(name, str) for name in (*classes, *places)):
        raise ValueError(f"{path} must list the names of classes and places, got {found!r:.80}. Build the set again")
    return classes, places


class Built(ReleaseDataset):
    """A split of a set that ``aimwrap data build`` made.

    Args:
        root: the folder that was built into.
        split: ``"train"``, ``"val"`` or ``"test"``; None takes all.
        transform: called with the whole :class:`Sample`.

    Raises:
        FileNotFoundError: if the set is not there or was not built to its end.
        ValueError: if the table is damaged, or it has no such split.
    """

    def __init__(
        self,
        root: Path | str,
        split: Literal["train", "val", "test"] | None = "train",
        *,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        super().__init__(read_built(root), split, transform)
