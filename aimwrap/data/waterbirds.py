"""Waterbirds: CUB's birds pasted on land and water, with the background tied to the label in training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .cub import Bird, cub_beside, find_cub, read_birds
from .files import folder, inside, integer, read_csv
from .release import SPLITS, Record, Release, ReleaseDataset
from .sample import Sample
from .segmentations import find_segmentations, mask_of, masks_note
from .waterbirds_labels import Version, check_labels, described, name_of, notes_on, tie_of, version_of


class Waterbirds(ReleaseDataset):
    """The images of one split of Waterbirds: label 0 land bird, 1 water bird; place 0 land, 1 water.

    Reference: Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020 (tie of 95 %);
    Petryk et al., "On Guiding Visual Attention with Language Specification", CVPR 2022 (100 %).

    Args:
        root: the folder with ``metadata.csv``, whatever its name, or the one that it lies in.
        split: ``"train"``, ``"val"`` or ``"test"``; None takes all.
        transform: see :class:`~aimwrap.data.ReleaseDataset`.
        version: of the labels, ``"original"`` or ``"corrected"``; None takes what is there.
        cub: the folder ``CUB_200_2011`` or its parent, for masks and boxes; None looks in ``root`` and beside it.
        segmentations: the folder ``segmentations``, if it lies elsewhere.
        object_masks: True demands them, False does without, None takes them if they are there.

    Attributes:
        version: of the labels: ``"original"``, ``"corrected"``, or None if none of the three species is there.
        tie: share of the training images that stand on their label's own place; see :func:`tie_of`.

    Raises:
        FileNotFoundError: if the table or what was demanded is not there.
        ValueError: if a table is damaged, or the labels are of another version.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | None = "train",
        *,
        transform: Callable[[Sample], Sample] | None = None,
        version: Version | None = None,
        cub: str | os.PathLike[str] | None = None,
        segmentations: str | os.PathLike[str] | None = None,
        object_masks: bool | None = None,
    ) -> None:
        release = read_waterbirds(root, version, cub, segmentations=segmentations, object_masks=object_masks)
        super().__init__(release, split, transform)
        self.version = version_of(release.records)
        self.tie = tie_of(release.records)


class _Row(NamedTuple):
    where: str
    name: str
    record: Record


def read_waterbirds(
    root: str | os.PathLike[str],
    version: Version | None = None,
    cub: str | os.PathLike[str] | None = None,
    *,
    segmentations: str | os.PathLike[str] | None = None,
    object_masks: bool | None = None,
) -> Release:
    """Read the table of Waterbirds, of any tie.

    Args:
        root: the folder with ``metadata.csv``, whatever its name, or the one that it lies in.
        version: of the labels, ``"original"`` or ``"corrected"``; None takes what is there.
        cub: the folder ``CUB_200_2011`` or its parent, for masks and boxes; None looks in ``root`` and beside it.
        segmentations: the folder ``segmentations``, if it lies elsewhere.
        object_masks: True demands them, False does without, None takes them if they are there.

    Returns:
        The release; ids are CUB's numbers. Name and notes tell the tie and the version.

    Raises:
        FileNotFoundError: if the table or what was demanded is not there.
        ValueError: if a table is damaged, or the labels are of another version.
    """
    if version not in (None, "original", "corrected"):
        raise ValueError(f"version must be 'original', 'corrected' or None, got {version!r}")
    home = find_waterbirds(root)
    rows = _read_rows(home)
    records = [row.record for row in rows]
    found = version_of(records)
    if version is not None and found != version:
        raise ValueError(
            f"version={version!r} was asked for, and {home / 'metadata.csv'} has {described(found)}. Leave version "
            "out to take what is there, or get the other copy; results of the two cannot be compared"
        )
    cub_home = find_cub(cub, "cub") if cub is not None else cub_beside(home)
    birds = {} if cub_home is None else read_birds(cub_home)[1]
    if cub is None and not {row.name for row in rows} & {bird.name for bird in birds.values()}:
        cub_home, birds = None, {}  # a set of other birds that happens to lie beside CUB
    if cub_home is not None:
        _check_ids(rows, birds, cub_home)
    homes = [home] if cub_home is None else [cub_home, home]
    beside = [folder for here in homes for folder in (here, here.absolute().parent)]
    species = {row.name.rpartition("/")[0] for row in rows}
    masks = find_segmentations(segmentations, beside, species, object_masks)
    joined = tuple(
        row.record._replace(
            mask_path=None if masks is None else mask_of(masks, row.name),
            boxes=(birds[int(row.record.id)].box,) if birds else None,
        )
        for row in rows
    )
    notes = notes_on(joined, found)
    moved = sum((record.split == "test") != (birds[int(record.id)].split == "test") for record in joined if birds)
    if moved:
        notes.append(
            f"{moved} images are in the test here and in the training of CUB, or the other way round; Waterbirds keeps "
            "CUB's test, so this is another division, or the column was changed."
        )
    notes.append(masks_note(masks))
    classes, places = ("land bird", "water bird"), ("land", "water")
    return Release(name_of(joined, found), home, joined, classes, places, notes=tuple(notes))


def find_waterbirds(root: str | os.PathLike[str]) -> Path:
    """The folder with ``metadata.csv``: the given one, or the only one in it (or in ``waterbirds`` in it).

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several.
    """
    given = folder(root)
    if (given / "metadata.csv").is_file():
        return given
    tables = sorted([*given.glob("*/metadata.csv"), *given.glob("waterbirds/*/metadata.csv")])
    named = [table for table in tables if table.parent.name.lower().startswith("waterbird")] or tables
    if len(named) > 1:
        raise ValueError(
            f"root must be one folder with a metadata.csv, and {given} has several: "
            f"{', '.join(str(table.parent) for table in named[:5])}. Pass one of them"
        )
    if not named:
        raise FileNotFoundError(
            f"root must be the folder with Waterbirds' metadata.csv (waterbird_complete95_forest2water2, "
            f"waterbird_1.0_forest2water2 or waterbirds_v1.0) or the one that it lies in: {given} has none"
        )
    return named[0].parent


def _read_rows(home: Path) -> list[_Row]:
    table = home / "metadata.csv"
    rows, ids, names = [], set(), set()
    for row in read_csv(table, ("img_id", "img_filename", "y", "split", "place")):
        id, name = integer(row, "img_id", range(1, 10**9)), row.values["img_filename"]
        label, place = integer(row, "y", range(2)), integer(row, "place", range(2))
        split = SPLITS[integer(row, "split", range(3))]
        if id in ids or name in names:
            raise ValueError(f"{row.where}: img_id {id} or img_filename {name!r:.80} is there twice. Get it again")
        ids.add(id)
        names.add(name)
        rows.append(_Row(row.where, name, Record(str(id), inside(home, name, row.where), label, split, place)))
    if not rows:
        raise ValueError(f"{table} has a header and no images. Get the file again")
    check_labels([(row.record, row.where) for row in rows])
    return rows


def _check_ids(rows: Sequence[_Row], birds: Mapping[int, Bird], cub: Path) -> None:
    """Boxes are joined by id: others join by row, which is right only while nobody sorts a table."""
    for row in rows:
        bird = birds.get(int(row.record.id))
        if bird is None or bird.name != row.name:
            known = "does not know this id" if bird is None else f"has {bird.name} under this id"
            raise ValueError(
                f"{row.where}: img_id {row.record.id} is {row.name}, and {cub / 'images.txt'} {known}: they are of "
                "different releases, or ids were mixed up. Get both again, or pass another folder as cub"
            )
