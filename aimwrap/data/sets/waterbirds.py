"""Waterbirds: CUB's birds pasted on land and water, with the background tied to the label in training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ..io import Row, folders_below, header_of, integer, read_csv, require_folder, safe_join
from ..release import SPLITS, Record, Release
from . import DatasetOnDisk, Expected, Sources
from .cub import GET_SEGMENTATIONS, Bird, cub_next_to, find_cub, find_segmentations, mask_of, masks_note, read_birds

Version = Literal["original", "corrected"]

# Land birds whose names hold "tern", which is what the release's maker looked for to find the water birds.
MISLABELLED = ("Eastern_Towhee", "Western_Meadowlark", "Western_Wood_Pewee")
WATER_BIRDS = {"Albatross", "Auklet", "Cormorant", "Frigatebird", "Fulmar", "Gadwall", "Grebe", "Guillemot", "Gull"} | {
    *("Jaeger", "Kittiwake", "Loon", "Mallard", "Merganser", "Pelican", "Puffin", "Tern")
}  # last words of the species' names; of the loons CUB has the Pacific one alone
# Images of groups 0 to 3 in the official 95 % release with the original labels.
OFFICIAL_COUNTS = {"train": (3498, 184, 56, 1057), "val": (467, 466, 133, 133), "test": (2255, 2255, 642, 642)}
# Of the 100 % release. Its training and validation images together are those of the 95 % release, divided differently.
FULLY_TIED_TRAIN = (3694, 0, 0, 1101)
FULLY_TIED_VAL = (921, 278)
COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
NUM_IMAGES = 11_788  # of every official release, CUB's


def version_of(records: Iterable[Record]) -> Version | None:
    """Which labels these are, by the three land birds that the original has as water birds; None without the three."""
    labels: dict[str, set[int]] = {}
    for record in records:
        species = _species(record)
        if species in MISLABELLED:
            labels.setdefault(species, set()).add(record.label)
    there = {label for found in labels.values() for label in found}
    if len(there) > 1:
        has = ", ".join(f"{name} has {' and '.join(map(str, sorted(found)))}" for name, found in sorted(labels.items()))
        raise ValueError(
            f"the labels mix two versions: {has}; the original labels have 1 for all of them and the corrected ones 0. "
            "Get the table again"
        )
    return None if not there else "original" if there == {1} else "corrected"


def tie_of(records: Iterable[Record]) -> float:
    """The share of the training images on their label's own place (land birds on land, water on water), or NaN.

    Images of the three species whose labels differ between versions are left out where there are others: a corrected
    label does not move a bird that was pasted on water.
    """
    train = [record for record in records if record.split == "train"]
    certain = [record for record in train if _species(record) not in MISLABELLED] or train
    return sum(record.label == record.place for record in certain) / len(certain) if certain else float("nan")


def check_labels(rows: Iterable[tuple[Row, Record]]) -> None:
    """All images of a species have one label, and gulls are water birds: else columns or rows were mixed up."""
    label_of: dict[str, int] = {}
    for row, record in rows:
        species = _species(record)
        if species is None or species in MISLABELLED:
            continue
        known = label_of.setdefault(species, record.label)
        if known != record.label:
            raise ValueError(
                f"{row.where}: {species} has y={record.label} here and y={known} above, and a species has one label; "
                "the rows or columns of the table were mixed up. Get it again"
            )
    wrong = [name for name, label in label_of.items() if name.rpartition("_")[2] in WATER_BIRDS and label == 0]
    if wrong:
        raise ValueError(
            f"the table has {', '.join(wrong[:3])} as land birds (y=0): its labels are inverted, or columns were mixed "
            "up. Get it again"
        )


def _species(record: Record) -> str | None:
    """``Eastern_Towhee`` of ``021.Eastern_Towhee/Eastern_Towhee_0001_22150.jpg``; None of folders of another kind."""
    number, _, species = record.path.parts[-2].partition(".")
    return species if number.isdecimal() and species else None


def described(version: Version | None) -> str:
    """The version, with its evidence."""
    if version is None:
        return f"none of the species that show it ({', '.join(MISLABELLED)})"
    return f"the {version} labels ({', '.join(MISLABELLED)} as {'water' if version == 'original' else 'land'} birds)"


def name_of(records: Sequence[Record], version: Version | None) -> str:
    """``Waterbirds (95 %, original labels)``."""
    trained = any(record.split == "train" for record in records)
    tie = percent(tie_of(records)) if trained else "no training images"
    return f"Waterbirds ({tie}, {version} labels)" if version else f"Waterbirds ({tie}, other birds)"


def percent(share: float) -> str:
    """``95 %``; and 99.9 % stays apart from a perfect tie."""
    return f"{share:.0%}".replace("%", " %") if share in (0, 1) or 0.005 <= share < 0.995 else f"{share * 100:.2f} %"


def notes_on(records: Sequence[Record], version: Version | None) -> list[str]:
    """The notes on tie, version and groups."""
    found = Counter((record.split, 2 * record.label + (record.place or 0)) for record in records)
    counts = {split: tuple(found[split, group] for group in range(4)) for split in SPLITS}
    land, water = sum(counts["train"][:2]), sum(counts["train"][2:])
    tie = tie_of(records)
    notes = []
    if land and water:
        without = ", judged without the three species below, which were pasted by their first label"
        notes.append(
            f"The tie is {percent(tie)}{without if version == 'corrected' else ''}: in training {counts['train'][0]} "
            f"of {land} land birds are on land and {counts['train'][3]} of {water} water birds on water."
        )
    if version is not None:
        kind = "water birds, though they are land birds" if version == "original" else "land birds"
        notes.append(
            f"These are the {version} labels: Eastern Towhee, Western Meadowlark and Western Wood Pewee are "
            f"labelled {kind}. Results with the other labels cannot be compared."
        )
    if counts == OFFICIAL_COUNTS:
        notes.append("The groups are as large as in the official 95 % release.")
    if len(records) != NUM_IMAGES:
        notes.append(
            f"The table has {len(records)} images, and the official ones {NUM_IMAGES}: it was cut off, or is another."
        )
    if tie == 1:
        notes.append(
            "With a perfect tie some groups have no training images (1 and 2, with the original labels), so averages "
            "over groups of the training set must leave them out; and training and validation images are not those of "
            "the 95 % release: do not take its split."
        )
    notes.append(
        "Group is 2 * label + place: 0 land bird on land, 1 land bird on water, 2 water bird on land, 3 water bird on "
        "water. Validation and test are untied, so their plain accuracy is not what a paper reports that weighs the "
        "groups by their share of the training set."
    )
    return notes


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
        root: the folder with ``metadata.csv``, whatever its name, or its parent.
        version: of the labels, ``"original"`` or ``"corrected"``; None takes what is there.
        cub: the folder ``CUB_200_2011`` or its parent, for masks and boxes; None looks in ``root`` and next to it.
        segmentations: the folder ``segmentations``, if it is elsewhere.
        object_masks: True demands them, False does without, None takes them if they are there.

    Returns:
        The release; ids are CUB's numbers. Name and notes give the tie and the version.

    Raises:
        FileNotFoundError: if the table or what was demanded is not there.
        ValueError: if a table is damaged, or the labels are of another version.
    """
    if version not in (None, "original", "corrected"):
        raise ValueError(f"version must be 'original', 'corrected' or None, got {version!r}")
    home = find_waterbirds(root)
    rows = read_rows(home, labels=2, places=2, way_out="Get the file again")
    check_labels(rows)
    found = version_of(record for _, record in rows)
    if version is not None and found != version:
        raise ValueError(
            f"version={version!r} was asked for, and {home / 'metadata.csv'} has {described(found)}. Leave version "
            "out to take what is there, or get the other copy; results of the two cannot be compared"
        )
    cub_home = find_cub(cub, "cub") if cub is not None else cub_next_to(home)
    birds = {} if cub_home is None else read_birds(cub_home)[1]
    names = [row.values["img_filename"] for row, _ in rows]
    if cub is None and not {*names} & {bird.name for bird in birds.values()}:
        cub_home, birds = None, {}  # a set of other birds that happens to be next to CUB
    if cub_home is not None:
        _check_ids(rows, birds, cub_home)
    homes = [home] if cub_home is None else [cub_home, home]
    species = {name.rpartition("/")[0] for name in names}
    masks = find_segmentations(segmentations, homes, species, object_masks)
    joined = tuple(
        record._replace(mask_path=mask_of(masks, name), boxes=(birds[int(record.id)].box,) if birds else None)
        for name, (_, record) in zip(names, rows, strict=True)
    )
    notes = notes_on(joined, found)
    moved = sum((record.split == "test") != (birds[int(record.id)].split == "test") for record in joined if birds)
    if moved:
        notes.append(
            f"{moved} images are in the test here and in the training of CUB, or the reverse; Waterbirds keeps CUB's "
            "test, so this is another division, or the column was changed."
        )
    notes.append(masks_note(masks))
    classes, places = ("land bird", "water bird"), ("land", "water")
    named = name_of(joined, found)
    return Release(named, home, joined, classes, places, notes=tuple(notes), boxes_as_stored=True)


def find_waterbirds(root: str | os.PathLike[str]) -> Path:
    """The folder with ``metadata.csv``: the given one, or the only one in it (or in ``waterbirds`` in it)."""
    given = require_folder(root)
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
            f"waterbird_1.0_forest2water2 or waterbirds_v1.0) or its parent: {given} has none"
        )
    return named[0].parent


def read_rows(home: Path, labels: int, places: int, way_out: str) -> list[tuple[Row, Record]]:
    """The rows of ``metadata.csv``, as built sets have it too, with their images."""
    rows: list[tuple[Row, Record]] = []
    seen: set[int | Path] = set()
    for row in read_csv(home / "metadata.csv", ("img_id", "img_filename", "y", "split", "place")):
        id, name = integer(row, "img_id", range(1, 10**9)), row.values["img_filename"]
        path = safe_join(home, name, row.where)
        if id in seen or path in seen:
            raise ValueError(f"{row.where}: img_id {id} or img_filename {name!r:.80} is there twice. {way_out}")
        seen |= {id, path}
        label, place = integer(row, "y", range(labels)), integer(row, "place", range(places))
        rows.append((row, Record(str(id), path, label, SPLITS[integer(row, "split", range(len(SPLITS)))], place)))
    if not rows:
        raise ValueError(f"{home / 'metadata.csv'} has a header and no images. {way_out}")
    return rows


def _check_ids(rows: Iterable[tuple[Row, Record]], birds: Mapping[int, Bird], cub: Path) -> None:
    """Boxes are joined by id; joining by row would be right only while no table is sorted."""
    for row, record in rows:
        bird, name = birds.get(int(record.id)), row.values["img_filename"]
        if bird is None or bird.name != name:
            known = "does not know this id" if bird is None else f"has {bird.name} under this id"
            raise ValueError(
                f"{row.where}: img_id {record.id} is {name}, and {cub / 'images.txt'} {known}: they are of "
                "different releases, or ids were mixed up. Get both again, or pass another folder as cub"
            )


class Waterbirds(DatasetOnDisk):
    """The images of one split of Waterbirds: :func:`read_waterbirds` as a data set.

    Label 0 is land bird, 1 water bird; place 0 is land, 1 water. Splits are ``"train"``, ``"val"`` and ``"test"``.

    Reference: Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020 (tie of 95 %);
    Petryk et al., "On Guiding Visual Attention with Language Specification", CVPR 2022 (100 %).
    """

    read = staticmethod(read_waterbirds)
    title = "Waterbirds"
    where_masks = GET_SEGMENTATIONS

    @property
    def version(self) -> Version | None:
        """Version of the labels: ``"original"``, ``"corrected"``, or None if none of the three species is there."""
        return version_of(self.release.records)

    @property
    def tie(self) -> float:
        """Share of the training images on their label's own place; see :func:`tie_of`."""
        return tie_of(self.release.records)

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """A table of images and places; the folder's name helps where its columns are damaged."""
        _, header = header_of(folder / "metadata.csv")
        there = [name for name in COLUMNS if name in header]
        if "img_filename" in there and len(there) >= 3:
            return f"metadata.csv has the columns {', '.join(there)}"
        return f"it is called {folder.name}" if folder.name.lower().startswith("waterbird") else None

    @classmethod
    def expected(cls, release: Release) -> Mapping[str, Expected]:
        """The official counts: by group at 95 %, by label at 100 %, and only the sizes for other ties or labels."""
        sizes = {split: sum(groups) for split, groups in OFFICIAL_COUNTS.items()}
        tie = tie_of(release.records)
        if version_of(release.records) != "original":
            return {split: Expected(size) for split, size in sizes.items()}
        if tie > 0.995:  # not exactly 1, so that a row that was changed is found
            return {
                "train": Expected(sizes["train"], groups=FULLY_TIED_TRAIN),
                "val": Expected(sizes["val"], FULLY_TIED_VAL, balanced=True),
                "test": Expected(sizes["test"], groups=OFFICIAL_COUNTS["test"]),
            }
        if 0.94 < tie < 0.96:
            return {split: Expected(size, groups=OFFICIAL_COUNTS[split]) for split, size in sizes.items()}
        return {split: Expected(size, balanced=split != "train") for split, size in sizes.items()}

    @classmethod
    def own_folders(cls, release: Release) -> Iterable[Path]:
        """All but those of CUB."""
        return folders_below(release.root, leave_out=("CUB_200_2011", "segmentations"))
