"""CUB-200-2011: photographs of 200 species of birds, and their segmentations, a separate archive."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..io import Row, folders_below, integer, parse_float, read_space_separated, require_folder, safe_join
from ..release import Box, Record, Release
from . import DatasetOnDisk, Expected, Sources


def find_segmentations(
    segmentations: str | os.PathLike[str] | None,
    homes: Sequence[Path],
    species: Iterable[str],
    object_masks: bool | None,
) -> Path | None:
    """The masks of every species, in a home or next to it; None if they are not there and were not demanded."""
    if object_masks is False:
        if segmentations is not None:
            raise ValueError("segmentations cannot be used with object_masks=False; leave one of the two out")
        return None
    if segmentations is not None:
        given = require_folder(segmentations, "segmentations")
        candidates = [given, given / "segmentations"]
    else:
        candidates = [folder / "segmentations" for home in homes for folder in (home, home.absolute().parent)]
    expected = sorted(set(species))
    for candidate in candidates:
        there = {entry.name for entry in os.scandir(candidate)} if candidate.is_dir() else set()
        missing = [name for name in expected if name not in there]
        if not missing:
            return candidate
        if len(missing) < len(expected):
            raise FileNotFoundError(
                f"the segmentations in {candidate} lack {len(missing)} of {len(expected)} species, the first of them "
                f"{missing[0]}; unpack segmentations.tgz again, or pass object_masks=False to go without masks"
            )
    if object_masks or segmentations is not None:
        raise FileNotFoundError(
            f"CUB's segmentations are not in {' nor in '.join(map(str, candidates))}; they are a separate "
            "archive: get segmentations.tgz (CaltechDATA), and pass segmentations=FOLDER if it is unpacked elsewhere"
        )
    return None


def mask_of(segmentations: Path | None, name: str) -> Path | None:
    """The mask of an image, of the same name except for the ending; None without segmentations."""
    if segmentations is None:
        return None
    stem, _, ending = name.rpartition(".")
    return segmentations / f"{stem if stem and '/' not in ending else name}.png"


def masks_note(segmentations: Path | None) -> str:
    """The note on the masks."""
    if segmentations is None:
        return "Without CUB's segmentations, a separate archive, there are no object masks."
    return (
        f"Object masks are CUB's segmentations in {segmentations}. They are soft: a value is how much of the pixel the "
        "bird covers, so results depend on the threshold (0.5 here, where one is needed)."
    )


TABLES = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
GET_SEGMENTATIONS = (
    "CUB's segmentations are not in the archive of CUB's images: unpack segmentations.tgz next to them, or pass "
    "--cub FOLDER (or --segmentations FOLDER)"
)
SPLIT_SIZES = {"train": 5994, "test": 5794}  # of the official release


class Bird(NamedTuple):
    """An image in CUB's tables."""

    id: int  # from 1
    name: str  # as in ``001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg``
    label: int  # from 0, in the order of ``classes.txt``
    split: str
    box: Box
    where: str  # file and line that name it, for messages


def read_cub(
    root: str | os.PathLike[str], segmentations: str | os.PathLike[str] | None = None, object_masks: bool | None = None
) -> Release:
    """Read the tables of CUB-200-2011.

    Args:
        root: the folder ``CUB_200_2011``, or its parent.
        segmentations: the folder ``segmentations``, if it is neither in ``CUB_200_2011`` nor next to it.
        object_masks: True demands them, False does without, None takes them if they are there.

    Returns:
        The release; labels are the species in the order of ``classes.txt``, from 0, and ids are CUB's numbers.

    Raises:
        FileNotFoundError: if a table, the images or the demanded segmentations are not there.
        ValueError: if the tables do not fit each other.
    """
    cub = find_cub(root)
    classes, birds = read_birds(cub)
    images = require_folder(cub / "images", "the folder of CUB's images")
    masks = find_segmentations(segmentations, [cub], classes, object_masks)
    records = tuple(
        Record(
            str(bird.id),
            safe_join(images, bird.name, bird.where),
            bird.label,
            bird.split,
            mask_path=mask_of(masks, bird.name),
            boxes=(bird.box,),
        )
        for bird in birds.values()
    )
    notes = [
        "CUB has no validation split: take it from the training images, never from the test's.",
        "A few photographs of CUB's test are in ImageNet, too (at least 22 of 5,794, found by checksum), so backbones "
        "pretrained on ImageNet may have seen them.",
        masks_note(masks),
    ]
    sizes = {split: sum(record.split == split for record in records) for split in SPLIT_SIZES}
    if sizes != SPLIT_SIZES:
        notes.append(
            f"The tables have {sizes['train']} images for training and {sizes['test']} for the test, the official "
            f"ones {SPLIT_SIZES['train']} and {SPLIT_SIZES['test']}: this is a part of the release, or another one."
        )
    return Release("CUB-200-2011", cub, records, classes, notes=tuple(notes), boxes_as_stored=True)


def find_cub(root: str | os.PathLike[str], argument: str = "root") -> Path:
    """The folder with CUB's tables: the given one, or ``CUB_200_2011`` in it."""
    given = require_folder(root, argument)
    for candidate in (given, given / "CUB_200_2011"):
        if (candidate / "images.txt").is_file():
            return candidate
    raise FileNotFoundError(
        f"{argument} must be the folder CUB_200_2011, or its parent: {given} has neither images.txt nor "
        "CUB_200_2011/images.txt. Unpack CUB_200_2011.tgz there"
    )


def cub_next_to(home: Path) -> Path | None:
    """``CUB_200_2011`` in a folder that was made of its birds, next to it, or one further up."""
    here = home.absolute()
    folders = (parent / "CUB_200_2011" for parent in (here, here.parent, here.parent.parent))
    return next((folder for folder in folders if (folder / "images.txt").is_file()), None)


def read_birds(cub: Path) -> tuple[tuple[str, ...], dict[int, Bird]]:
    """Join CUB's five tables by their ids; the order of their rows means nothing."""
    names = _by_id(cub / "images.txt", ("id", "name"))
    classes = _classes(cub / "classes.txt")
    labels = _for_each(cub / "image_class_labels.txt", ("id", "class"), names)
    splits = _for_each(cub / "train_test_split.txt", ("id", "is_training_image"), names)
    boxes = _for_each(cub / "bounding_boxes.txt", ("id", "x", "y", "width", "height"), names)
    corners = [tuple(parse_float(row, column) for column in ("x", "y", "width", "height")) for row in boxes.values()]
    if len(corners) > 200 and all(width > x and height > y for x, y, width, height in corners):
        raise ValueError(
            f"{cub / 'bounding_boxes.txt'} has a width above x and a height above y in every row: these are the right "
            "and the bottom edge, and must be width and height. Get the table again"
        )
    birds, seen = {}, set()
    for id, row in names.items():
        name = row.values["name"]
        label = integer(labels[id], "class", range(1, len(classes) + 1)) - 1
        species = name.rpartition("/")[0]
        if species != classes[label]:
            raise ValueError(
                f"{labels[id].where}: image {id} has class {label + 1}, {classes[label]}, and its file, {name}, is of "
                f"{species}: the tables are in different orders or of different releases. Get them again"
            )
        if name in seen:
            raise ValueError(f"{row.where}: {name} is there twice, with different ids. Get the table again")
        seen.add(name)
        training = integer(splits[id], "is_training_image", range(2))
        birds[id] = Bird(id, name, label, "train" if training else "test", _box(boxes[id]), row.where)
    return classes, birds


def _by_id(path: Path, columns: Sequence[str]) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    for row in read_space_separated(path, columns):
        id = integer(row, "id", range(1, 10**9))
        if id in rows:
            raise ValueError(f"{row.where}: id {id} is there twice, first at {rows[id].where}. Get the table again")
        rows[id] = row
    if not rows:
        raise ValueError(f"{path} is empty. Get the file again")
    return rows


def _for_each(path: Path, columns: Sequence[str], names: dict[int, Row]) -> dict[int, Row]:
    rows = _by_id(path, columns)
    if rows.keys() != names.keys():
        missing, unknown = sorted(names.keys() - rows.keys()), sorted(rows.keys() - names.keys())
        raise ValueError(
            f"{path} must have one row for each id in images.txt; it lacks {len(missing)} (such as {missing[:3]}) and "
            f"has {len(unknown)} that images.txt does not have (such as {unknown[:3]}): they are of different "
            "releases, or one was cut off. Get both again"
        )
    return rows


def _classes(path: Path) -> tuple[str, ...]:
    rows = _by_id(path, ("id", "name"))
    if sorted(rows) != list(range(1, len(rows) + 1)):
        raise ValueError(f"{path} must number its classes from 1 to {len(rows)}, without gaps. Get the file again")
    return tuple(rows[number].values["name"] for number in sorted(rows))


def _box(row: Row) -> Box:
    left, top, width, height = (parse_float(row, column) for column in ("x", "y", "width", "height"))
    if width <= 0 or height <= 0:
        raise ValueError(f"{row.where}: a box must have a width and a height, got {width} and {height}. Get it again")
    return left, top, left + width, top + height


class CUB200(DatasetOnDisk):
    """The images of one split of CUB-200-2011: :func:`read_cub` as a data set.

    Splits are ``"train"`` and ``"test"``, CUB's own; it has no validation split.

    Reference: Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011; segmentations by Farrell, CaltechDATA 2022.
    """

    read = staticmethod(read_cub)
    title = "CUB-200-2011"
    num_classes = 200
    where_masks = GET_SEGMENTATIONS

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """Most of CUB's tables, or its name."""
        there = [name for name in TABLES if (folder / name).is_file()]
        if len(there) >= 3:
            return f"it has {', '.join(there)}"
        return "it is called CUB_200_2011" if folder.name == "CUB_200_2011" else None

    @classmethod
    def expected(cls, release: Release) -> Mapping[str, Expected]:
        """Of CUB's own split."""
        return {split: Expected(size) for split, size in SPLIT_SIZES.items()}

    @classmethod
    def own_folders(cls, release: Release) -> Iterable[Path]:
        """Of the images and of the masks."""
        yield from folders_below(release.root / "images")
        masks = {record.mask_path.parent.parent for record in release.records if record.mask_path is not None}
        for mask_folder in sorted(masks):
            yield from folders_below(mask_folder)
