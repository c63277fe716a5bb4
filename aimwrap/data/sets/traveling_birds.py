"""TravelingBirds: CUB's birds on one background per species, which travels to the next species in the test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from ..._checks import check_choices
from ..io import read_json, require_folder, safe_join
from ..release import Record, Release
from . import DatasetOnDisk, Sources
from .cub import CUB200, GET_SEGMENTATIONS, cub_next_to, find_cub, find_segmentations, mask_of, masks_note, read_birds

Variant = Literal["fixed", "black", "random"]
SplitBy = Literal["cub", "all"]
FOLDERS = {variant: f"CUB_{variant}" for variant in get_args(Variant)}


def read_traveling_birds(
    root: str | os.PathLike[str],
    variant: Variant = "fixed",
    split_by: SplitBy = "cub",
    *,
    cub: str | os.PathLike[str] | None = None,
    segmentations: str | os.PathLike[str] | None = None,
    object_masks: bool | None = None,
) -> Release:
    """Read the folders of TravelingBirds by CUB's tables.

    Args:
        root: the folder with ``CUB_fixed``, ``CUB_black`` and ``CUB_random``, or one of them.
        variant: of the backgrounds. ``"fixed"`` is TravelingBirds proper: each species has its own background,
            and in the test that of another species. ``"black"`` has none, ``"random"`` a random one for each image.
        split_by: ``"cub"`` takes CUB's training images from the folder ``train`` and its test images from ``test``.
            ``"all"`` takes all birds from both, so that a network is tested on birds that it was trained on, on other
            backgrounds: only to compare with numbers that were measured in the same way.
        cub: the folder ``CUB_200_2011`` or its parent, for split, masks and boxes; None looks next to ``root``.
        segmentations: the folder ``segmentations``, if it is neither in CUB's folder nor next to it.
        object_masks: True demands them, False does without, None takes them if they are there.

    Returns:
        The release. Ids are CUB's numbers. Where ``CUB_fixed`` has its two tables of places, ``place`` is the number
        of the background's kind: place p is the one on which species p is trained.

    Raises:
        FileNotFoundError: if a folder, CUB's tables or what was demanded is not there.
        ValueError: if a table is damaged, or an argument is not among those allowed.
    """
    check_choices(variant=(variant, Variant), split_by=(split_by, SplitBy))
    if split_by == "all" and variant != "fixed":
        raise ValueError(f"split_by='all' is for variant='fixed', whose folders hold all birds twice, got {variant!r}")
    home = _find_variant(require_folder(root), variant)
    cub_home = cub_next_to(home) if cub is None else find_cub(cub, "cub")
    if cub_home is None:
        raise FileNotFoundError(
            f"cub must be the folder CUB_200_2011: {home} does not say which birds are for the test (its folders have "
            "all of them), and CUB's train_test_split.txt does. There is no such folder next to it"
        )
    classes, birds = read_birds(cub_home)
    masks = find_segmentations(segmentations, [cub_home], classes, object_masks)
    sources = {split: home / split if variant == "fixed" else home for split in ("train", "test")}
    places, numbers = _read_places(home, classes) if variant == "fixed" else ((), {})
    records = []
    for split, source in sources.items():
        there = {entry.name for entry in os.scandir(require_folder(source, "the folder of images"))}
        if missing := [name for name in classes if name not in there]:
            raise FileNotFoundError(
                f"{source} lacks {len(missing)} of {len(classes)} species, the first of them {missing[0]}; unpack the "
                "release again"
            )
        for bird in birds.values():
            if split_by == "all" or bird.split == split:
                path = safe_join(source, bird.name, bird.where)
                place = numbers[split][bird.label] if places else None
                mask_path = mask_of(masks, bird.name)
                records.append(Record(str(bird.id), path, bird.label, split, place, mask_path, (bird.box,)))
    name = f"TravelingBirds ({home.name}{', all birds in both splits' if split_by == 'all' else ''})"
    notes = (*_notes(variant, split_by, bool(places)), masks_note(masks))
    return Release(name, home, tuple(records), classes, places, notes=notes, boxes_as_stored=True)


def _find_variant(root: Path, variant: str) -> Path:
    """``CUB_<variant>`` in the root, or the root itself if it is not one of the others."""
    name = FOLDERS[variant]
    if (root / name).is_dir():
        return root / name
    has_splits = (root / "train").is_dir() and (root / "test").is_dir()
    if root.name == name or (variant == "fixed" and has_splits and root.name not in FOLDERS.values()):
        return root
    there = [other for other, folder in FOLDERS.items() if (root / folder).is_dir()]
    raise FileNotFoundError(
        f"variant={variant!r} needs the folder {name}, and {root} is not this folder and does not have it"
        + (f"; it has variant {' and '.join(map(repr, there))}" if there else "")
    )


def _read_places(home: Path, classes: Sequence[str]) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """The places' names, and by split each species' place; none without the two tables, which not all copies have."""
    tables = [home / f"{split}_places.json" for split in ("train", "test")]
    if not any(table.is_file() for table in tables):
        return (), {}
    train, test = (_read_place_ids(table, classes) for table in tables)
    same = sum(before == after for before, after in zip(train, test, strict=True))
    if 2 * same > len(classes):
        raise ValueError(
            f"{tables[1]} gives {same} of {len(classes)} species the place of {tables[0].name}, and in the test each "
            "has another's: one table is a copy of the other. Get the release again"
        )
    ids = list(dict.fromkeys([*train, *test]))  # in the order of the species, so that place p is label p's own
    names = tuple(f"Places365 class {id}" for id in ids)
    return names, {"train": [ids.index(id) for id in train], "test": [ids.index(id) for id in test]}


def _read_place_ids(table: Path, classes: Sequence[str]) -> list[int]:
    if not table.is_file():
        raise FileNotFoundError(f"{table} is not there, and the other of the two tables is; get the release again")
    places = read_json(table)
    is_number = isinstance(places, dict) and all(type(value) is int for value in places.values())
    if not is_number or places.keys() != set(classes):
        raise ValueError(
            f"{table} must give the number of a place to each of CUB's {len(classes)} species, by the name of its "
            "folder. Get the file again"
        )
    return [places[name] for name in classes]


def _notes(variant: Variant, split_by: SplitBy, places: bool) -> list[str]:
    notes = []
    if variant == "fixed":
        notes.append(
            "Each of the folders train and test has all birds, and only their backgrounds differ: a folder reader on "
            "train also trains on the test's birds."
        )
    if split_by == "cub":
        notes.append("The split is CUB's (train_test_split.txt), so no bird of the test is trained on.")
    else:
        notes.append(
            "split_by='all' tests on the birds of the training, so these numbers can be compared only with others that "
            "were measured in the same way; mention it where you report them."
        )
    if places:
        notes.append("Place p is the background on which species p is trained; in the test each has another's.")
    return notes


class TravelingBirds(DatasetOnDisk):
    """The images of one split of TravelingBirds: :func:`read_traveling_birds` as a data set.

    Labels are CUB's 200 species; splits are ``"train"`` and ``"test"``.

    Reference: Koh et al., "Concept Bottleneck Models", ICML 2020.
    """

    read = staticmethod(read_traveling_birds)
    title = "TravelingBirds"
    num_classes = 200
    where_masks = GET_SEGMENTATIONS
    owns_folder = False

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """Its folder's name, one level up or down, or the tables of places."""
        there = [name for name in FOLDERS.values() if (folder / name).is_dir()]
        if there:
            return f"it has {' and '.join(there)}"
        if folder.name in FOLDERS.values():
            return f"it is called {folder.name}"
        tables = [name for name in ("train_places.json", "test_places.json") if (folder / name).is_file()]
        return f"it has {' and '.join(tables)}" if tables else None

    @classmethod
    def arguments(cls, root: Path, sources: Sources) -> dict[str, Any]:
        """With the variant, where the folder is not that of TravelingBirds proper."""
        variant = _variant_folder(root).name.removeprefix("CUB_")
        return super().arguments(root, sources) | ({} if variant == "fixed" else {"variant": variant})

    @classmethod
    def missing_source(cls, root: Path, sources: Sources) -> str | None:
        """CUB, for the split."""
        if sources.cub is not None or cub_next_to(_variant_folder(root)) is not None:
            return None
        return (
            "TravelingBirds does not say which birds are for the test, CUB does (train_test_split.txt), and there is "
            "no CUB_200_2011 next to it: pass --cub FOLDER"
        )

    expected = CUB200.expected  # of CUB's own split


def _variant_folder(root: Path) -> Path:
    """The folder itself if it is one, or the first in it, TravelingBirds proper before its controls."""
    if root.name in FOLDERS.values():
        return root
    return next((root / name for name in FOLDERS.values() if (root / name).is_dir()), root / FOLDERS["fixed"])
