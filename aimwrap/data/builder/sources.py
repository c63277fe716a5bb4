"""What a set is built of: cut-outs with their opacity, and backgrounds in folders of places."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..io import SUFFIXES, expand_path, left_out, list_folder, pictures_below, require_folder
from ..release import SPLITS, Release, counts_stored, split_of
from ..sets.folder import check_level
from ..sets.waterbirds import WATER_BIRDS

ENDINGS = ", ".join(sorted(SUFFIXES))


class Cutout(NamedTuple):
    """An object and which pixels of its image it covers.

    Attributes:
        name: of the image, with ``/`` between its parts; no two cut-outs have the same.
        path: of the image.
        class_name: what it shows.
        opacity_path: of a second image, bright where the object is, as CUB's segmentations; None if the image has
            an alpha channel.
        any_value: whether every value of the second image above zero means the object.
        split: ``"train"``, ``"val"`` or ``"test"`` if the source has one, else None.
        as_stored: whether the second image covers the pixels on disk, before EXIF data turn them.
    """

    name: str
    path: Path
    class_name: str
    opacity_path: Path | None = None
    any_value: bool = False
    split: str | None = None
    as_stored: bool = False


class Background(NamedTuple):
    """A photograph to paste on.

    Attributes:
        name: of the image, with ``/`` between its parts; no two backgrounds have the same.
        path: of the image.
        place: name of its kind.
        split: as a cut-out's.
    """

    name: str
    path: Path
    place: str
    split: str | None = None


def cutouts_in(folder: Path | str, opacity: Path | str | None = None) -> list[Cutout]:
    """Find cut-outs in a folder for each class, perhaps in folders ``train``, ``val`` and ``test`` above them.

    Args:
        folder: ``<class>/.../<image>`` or ``<split>/<class>/.../<image>``; the images have an alpha channel
            unless ``opacity`` is given.
        opacity: a folder with a PNG for each image under the same name, bright where the object is.

    Returns:
        The cut-outs, sorted by name.

    Raises:
        FileNotFoundError: if a folder or an image of the opacity is not there.
        ValueError: if there are fewer than two classes, one without images, or folders of something else.
    """
    folder, opacity = require_folder(folder, "cutouts"), None if opacity is None else expand_path(opacity)
    found = []
    for split, class_name, path in _pictures_by_kind(folder, "class"):
        name = path.relative_to(folder).as_posix()
        opacity_path = None if opacity is None else (opacity / name).with_suffix(".png")
        if opacity_path is not None and not opacity_path.is_file():
            raise FileNotFoundError(
                f"opacity must contain a PNG of the same name for each cut-out, and {opacity_path} is not there; "
                f"it belongs to {path}"
            )
        found.append(Cutout(name, path, class_name, opacity_path, split=split))
    if twice := [mask for mask, times in Counter(each.opacity_path for each in found).items() if mask and times > 1]:
        raise ValueError(f"{twice[0]} would be the mask of two images; rename one of them")
    return found


def cutouts_of(release: Release) -> list[Cutout]:
    """The images of a release with masks, such as CUB with its segmentations, as cut-outs of its classes and splits.

    Args:
        release: read from disk.

    Returns:
        The cut-outs, in its order.

    Raises:
        ValueError: if an image has no mask.
    """
    without = [record.id for record in release.records if record.mask_path is None]
    if without or not release.records:
        raise ValueError(
            f"{release.name} must have a mask of the object for each image to be cut out, and {len(without)} of "
            f"{len(release.records)} have none, such as {', '.join(without[:3])}; for CUB these are the separate "
            "segmentations"
        )
    return [
        Cutout(
            record.path.relative_to(release.root).as_posix()
            if record.path.is_relative_to(release.root)
            else record.path.name,
            record.path,
            release.classes[record.label],
            record.mask_path,
            release.any_value_is_object,
            record.split,
            counts_stored(record, release),
        )
        for record in release.records
    ]


def backgrounds_in(folder: Path | str) -> list[Background]:
    """Find photographs in a folder for each place, perhaps in folders ``train``, ``val`` and ``test`` above them.

    Args:
        folder: ``<place>/.../<photograph>`` or ``<split>/<place>/.../<photograph>``.

    Returns:
        The backgrounds, sorted by name.

    Raises:
        FileNotFoundError: if the folder is not there.
        ValueError: if there are fewer than two places, one without photographs, or folders of something else.
    """
    folder = require_folder(folder, "backgrounds")
    return [
        Background(path.relative_to(folder).as_posix(), path, place, split)
        for split, place, path in _pictures_by_kind(folder, "place")
    ]


def backgrounds_of(places: Mapping[str, Sequence[Path | str]]) -> list[Background]:
    """The photographs of some folders for each place, such as Places' ``ocean`` and ``lake/natural`` for water.

    Args:
        places: by name of the place, its folders.

    Returns:
        The backgrounds; each is named by its place, its folder's own name and its path in it.

    Raises:
        FileNotFoundError: if a folder is not there.
        ValueError: if a folder has no photographs, or two would get the same names.
    """
    found: dict[str, Background] = {}
    for place, folders in places.items():
        for folder in (require_folder(each, f"the folder of place {place!r}") for each in folders):
            unread: list[Path] = []
            paths = sorted(folder / name for name in pictures_below(folder, unread))
            _warn(unread, folder)
            if not paths:
                raise ValueError(f"place {place!r} must have photographs ({ENDINGS}), but {folder} has none")
            for path in paths:
                name = f"{place}/{folder.resolve().name}/{path.relative_to(folder).as_posix()}"
                if name in found:
                    raise ValueError(
                        f"{found[name].path} and {path} would both be called {name}; rename one of the two folders, or "
                        "give each folder only once"
                    )
                found[name] = Background(name, path, place)
    return list(found.values())


def relabelled(cutouts: Sequence[Cutout], labels: Mapping[str, str]) -> list[Cutout]:
    """Merge classes into labels, such as species into water birds and land birds.

    Args:
        cutouts: of any classes.
        labels: of every class its label.

    Returns:
        The cut-outs under their new names.

    Raises:
        ValueError: if a class has no label.
    """
    without = sorted({cutout.class_name for cutout in cutouts} - {*labels})
    if without:
        raise ValueError(
            f"labels must have a label for each class of the cut-outs, and has none for {', '.join(without[:5])}"
            f"{' and others' if len(without) > 5 else ''}. Add them"
        )
    return [cutout._replace(class_name=labels[cutout.class_name]) for cutout in cutouts]


def water_or_land(class_name: str) -> str:
    """Find the water birds among CUB's species, as Waterbirds does, but by complete words.

    Waterbirds' script looks for parts of words, and finds "tern" in three land birds: the Eastern Towhee, the Western
    Meadowlark and the Western Wood Pewee.

    Args:
        class_name: as CUB writes it.

    Returns:
        ``"waterbird"`` or ``"landbird"``.

    >>> [water_or_land(name) for name in ("141.Artic_Tern", "021.Eastern_Towhee", "087.Mallard", "086.Pacific_Loon")]
    ['waterbird', 'landbird', 'waterbird', 'waterbird']
    """
    words = {*class_name.lower().replace(".", "_").split("_")}
    return "waterbird" if words & {name.lower() for name in WATER_BIRDS} else "landbird"


def _warn(unread: Sequence[Path], folder: Path) -> None:
    for note in left_out(unread, folder):
        warnings.warn(f"{folder}: {note}", stacklevel=4)


def _pictures_by_kind(folder: Path, kind: str) -> Iterator[tuple[str | None, str, Path]]:
    """(split, class or place, path) of every image, sorted."""
    top, beside, _ = list_folder(folder)
    named = {name: split for name in top if (split := split_of(name))}
    if len(named) < len(top):  # else they are splits, even if their images are in no class
        named = {name: named[name] for name in named if name in SPLITS or not list_folder(folder / name).pictures}
    if named and (others := [*sorted({*top} - {*named}), *beside]):
        raise ValueError(
            f"{folder} has folders named after splits ({', '.join(named)}) and others "
            f"({', '.join(others[:3])}); it must have either splits or a folder for each {kind}: move or rename some"
        )
    unread: list[Path] = []
    below: dict[str, Counter[str]] = {}
    splits: dict[str, str | None] = {**named} or {"": None}
    for above, split in splits.items():
        parent = folder / above
        kinds, loose, _ = list_folder(parent)
        if loose or not kinds:
            has = f"images next to them, such as {loose[0]}; move these into one or elsewhere" if kinds else "none"
            raise ValueError(f"{parent} must have a folder for each {kind}, with images in it, and has {has}")
        for name in kinds:
            found = pictures_below(parent / name, unread)
            if not found:
                raise ValueError(
                    f"each folder in {parent} is a {kind} and must have images ({ENDINGS}), but {name} has none: "
                    "remove it, or fill it"
                )
            below.setdefault(name, Counter()).update(path.rpartition("/")[0] for path in found)
            for path in sorted(parent / name / path for path in found):
                yield split, name, path
    check_level(folder, below, kind)
    _warn(unread, folder)
