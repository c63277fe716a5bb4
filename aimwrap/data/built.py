"""Sets that ``aimwrap data build`` made: a table as Waterbirds has, with the masks and the names beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .files import inside, integer, read_csv, written
from .release import SPLITS, Record, Release, ReleaseDataset
from .sample import Sample


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
    records = []
    for row in read_csv(root / "metadata.csv", ("img_id", "img_filename", "y", "split", "place")):
        name = row.values["img_filename"]
        image, mask = inside(root, name, row.where), inside(root / "segmentations", name, row.where)
        records.append(
            Record(
                row.values["img_id"],
                image,
                integer(row, "y", range(len(classes))),
                SPLITS[integer(row, "split", range(len(SPLITS)))],
                integer(row, "place", range(len(places))),
                mask.with_suffix(".png"),
            )
        )
    return Release(f"the set in {root.name}", root, tuple(records), classes, places)


def _names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        classes, places = (tuple(map(str, manifest[key])) for key in ("classes", "places"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must name classes and places: {error!r}. Build the set again") from error
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
