"""What the doctor knows of a kind of sets."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..builder.plan import images_per_group
from ..builder.write import MANIFEST
from ..io import FolderListing as Listing
from ..io import first_line, folders_below, pictures, read_json, subfolders
from ..release import SPLITS, Release
from ..sets.built import read_built
from ..sets.cub import SPLIT_SIZES, cub_beside, read_cub
from ..sets.folder import read_folder
from ..sets.hard_imagenet import NUM_CLASSES as HARD_CLASSES
from ..sets.hard_imagenet import read_hard_imagenet
from ..sets.imagenet100 import NUM_CLASSES as LISTED_CLASSES
from ..sets.imagenet100 import WNID, read_imagenet100
from ..sets.imagewoof import BREEDS, COUNTS, TABLE, read_imagewoof
from ..sets.table import read_table
from ..sets.traveling_birds import Variant, read_traveling_birds
from ..sets.waterbirds import OFFICIAL_COUNTS, read_waterbirds, tie_of, version_of
from .checks import Expected, count
from .findings import Mark


class Sources(NamedTuple):
    """What lies elsewhere, where people say so.

    Attributes:
        cub: the folder ``CUB_200_2011``, or the one above, for sets that are made of CUB's birds.
        segmentations: CUB's segmentations.
        imagenet: an ImageNet tree, for Hard-ImageNet.
        class_list: of ImageNet-100.
        annotations: ImageNet's validation boxes, for ImageNet-100.
        masks: of a folder per class, a folder with the same names.
        table: the CSV file, for images by a table; None looks for it.
        columns: of the table, where they are not called as :func:`~aimwrap.data.read_table` expects: its arguments
            ``image``, ``label``, ``place``, ``group``, ``split_column`` and ``mask``.
        any_value_is_object: of masks of one's own, whether every value above zero means the object.
    """

    cub: Path | None = None
    segmentations: Path | None = None
    imagenet: Path | None = None
    class_list: Path | None = None
    annotations: Path | None = None
    masks: Path | None = None
    table: Path | None = None
    columns: Mapping[str, str] = MappingProxyType({})
    any_value_is_object: bool = False


def nothing_lacks(root: Path, sources: Sources) -> str | None:
    """For kinds that need nothing from elsewhere."""
    return None


def nothing_expected(release: Release) -> Mapping[str, Expected] | None:
    """For kinds whose counts are nobody's business."""
    return None


def no_folders(release: Release) -> Iterable[Path]:
    """For kinds whose folders may hold images of others."""
    return ()


class Kind(NamedTuple):
    """A kind of sets.

    Attributes:
        name: as ``--as`` takes it.
        title: for people.
        evidence: why a folder looks like one, to be read behind "because"; None if it does not.
        read: its reader.
        reads: the Python that does so, for people to copy.
        lacks: what it needs from elsewhere and was not given, with the way out; None if it has all.
        expected: what the official release has, by split; None if there is nothing to compare with.
        authority: what says so.
        num_classes: of the official release.
        own_folders: in which every image is one of the release.
        where_masks: how people come to masks; empty if the kind has none.
        some_masks_are_empty: in the release itself.
        duplicates: what a content in two splits is; a warning where the release itself has some.
    """

    name: str
    title: str
    evidence: Callable[[Path, Sources], str | None]
    read: Callable[[Path, Sources], Release]
    reads: Callable[[Path, Sources], str]
    lacks: Callable[[Path, Sources], str | None] = nothing_lacks
    expected: Callable[[Release], Mapping[str, Expected] | None] = nothing_expected
    authority: str = "the official release"
    num_classes: int | None = None
    own_folders: Callable[[Release], Iterable[Path]] = no_folders
    where_masks: str = ""
    some_masks_are_empty: bool = False
    duplicates: Mark = "fault"


def call(name: str, root: Path, **given: Path | str | bool | None) -> str:
    """The Python that makes a data set.

    >>> call("Waterbirds", Path("birds"), cub=None)
    'from aimwrap.data import Waterbirds; train = Waterbirds("birds", "train")'
    """
    rest = "".join(f", {argument}={_quoted(value)}" for argument, value in given.items() if value not in (None, False))
    return f'from aimwrap.data import {name}; train = {name}({_quoted(root)}, "train"{rest})'


def _quoted(value: Path | str | bool) -> str:
    if isinstance(value, bool):
        return str(value)
    return json.dumps(str(value), ensure_ascii=False)  # whose texts are Python's, too


def built_evidence(folder: Path, sources: Sources) -> str | None:
    """What the builder leaves from its first second on."""
    return f"it has {MANIFEST}, which aimwrap data build writes" if (folder / MANIFEST).is_file() else None


def built_expected(release: Release) -> Mapping[str, Expected] | None:
    """What was asked for when it was built: how many images, and how each label's are spread over the places."""
    manifest = read_json(release.root / MANIFEST)
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


BUILT = Kind(
    "built",
    "a set that aimwrap data build wrote",
    built_evidence,
    lambda root, sources: read_built(root),
    lambda root, sources: call("Built", root),
    expected=built_expected,
    authority=MANIFEST,
    own_folders=lambda release: folders_below(release.root),
)


CUB_TABLES = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
WATERBIRDS_COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
# Of the 100 % release. Its training and validation images together are those of the 95 % release, otherwise parted.
FULLY_TIED_TRAIN = (3694, 0, 0, 1101)
FULLY_TIED_VAL = (921, 278)
VARIANTS: Mapping[str, Variant] = {"CUB_fixed": "fixed", "CUB_black": "black", "CUB_random": "random"}
GET_SEGMENTATIONS = (
    "CUB's segmentations come apart from CUB's images: unpack segmentations.tgz beside them, or pass --cub FOLDER "
    "(or --segmentations FOLDER)"
)


def cub_evidence(folder: Path, sources: Sources) -> str | None:
    """CUB's tables, most of them at least, or its name."""
    there = [name for name in CUB_TABLES if (folder / name).is_file()]
    if len(there) >= 3:
        return f"it has {', '.join(there)}"
    return "it is called CUB_200_2011" if folder.name == "CUB_200_2011" else None


def waterbirds_evidence(folder: Path, sources: Sources) -> str | None:
    """A table of images and places; with damaged columns the folder's name helps."""
    table = folder / "metadata.csv"
    header = [name.strip() for name in first_line(table).split(",")]
    there = [name for name in WATERBIRDS_COLUMNS if name in header]
    if "img_filename" in there and len(there) >= 3:
        return f"metadata.csv has the columns {', '.join(there)}"
    if folder.name.lower().startswith("waterbird"):
        return f"it is called {folder.name}"
    return None


def traveling_birds_evidence(folder: Path, sources: Sources) -> str | None:
    """Its folder's name, one level up or down, or the tables of places."""
    variants = [name for name in VARIANTS if (folder / name).is_dir()]
    if variants:
        return f"it has {' and '.join(variants)}"
    if folder.name in VARIANTS:
        return f"it is called {folder.name}"
    tables = [name for name in ("train_places.json", "test_places.json") if (folder / name).is_file()]
    return f"it has {' and '.join(tables)}" if tables else None


def waterbirds_expected(release: Release) -> Mapping[str, Expected]:
    """The official counts: by group at 95 %, by label at 100 %, and for other ties or labels in all."""
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


def cub_sizes(release: Release) -> Mapping[str, Expected]:
    """Of CUB's own split."""
    return {split: Expected(size) for split, size in SPLIT_SIZES.items()}


def _cub_folders(release: Release) -> Iterable[Path]:
    yield from folders_below(release.root / "images")
    masks = {record.mask_path.parent.parent for record in release.records if record.mask_path is not None}
    for folder in sorted(masks):
        yield from folders_below(folder)


def _waterbirds_folders(release: Release) -> Iterable[Path]:
    return folders_below(release.root, leave_out=("CUB_200_2011", "segmentations"))


def _traveling_birds_lack(root: Path, sources: Sources) -> str | None:
    if sources.cub is not None or cub_beside(_variant_folder(root)) is not None:
        return None
    return (
        "TravelingBirds does not say which birds are for the test, CUB does (train_test_split.txt), and there is no "
        "CUB_200_2011 beside it: pass --cub FOLDER"
    )


def _reads_cub(root: Path, sources: Sources) -> str:
    return call("CUB200", root, segmentations=sources.segmentations)


def _reads_waterbirds(root: Path, sources: Sources) -> str:
    return call("Waterbirds", root, cub=sources.cub, segmentations=sources.segmentations)


def _read_traveling_birds(root: Path, sources: Sources) -> Release:
    variant = VARIANTS[_variant_folder(root).name]
    return read_traveling_birds(root, variant, cub=sources.cub, segmentations=sources.segmentations)


def _reads_traveling_birds(root: Path, sources: Sources) -> str:
    variant = _variant_folder(root)
    return call(
        "TravelingBirds",
        root,
        cub=sources.cub,
        segmentations=sources.segmentations,
        variant=None if variant.name == "CUB_fixed" else VARIANTS[variant.name],
    )


def _variant_folder(root: Path) -> Path:
    """The folder itself if it is one, or the first in it, TravelingBirds proper before its controls."""
    if root.name in VARIANTS:
        return root
    return next((root / name for name in VARIANTS if (root / name).is_dir()), root / "CUB_fixed")


CUB = Kind(
    "cub",
    "CUB-200-2011",
    cub_evidence,
    lambda root, sources: read_cub(root, sources.segmentations),
    _reads_cub,
    expected=cub_sizes,
    num_classes=200,
    own_folders=_cub_folders,
    where_masks=GET_SEGMENTATIONS,
)
WATERBIRDS = Kind(
    "waterbirds",
    "Waterbirds",
    waterbirds_evidence,
    lambda root, sources: read_waterbirds(root, cub=sources.cub, segmentations=sources.segmentations),
    _reads_waterbirds,
    expected=waterbirds_expected,
    own_folders=_waterbirds_folders,
    where_masks=GET_SEGMENTATIONS,
)
TRAVELING_BIRDS = Kind(
    "traveling-birds",
    "TravelingBirds",
    traveling_birds_evidence,
    _read_traveling_birds,
    _reads_traveling_birds,
    lacks=_traveling_birds_lack,
    expected=cub_sizes,
    num_classes=200,
    where_masks=GET_SEGMENTATIONS,
)


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


TABLE_KIND = Kind(
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


FLAT_MASK = re.compile(r"n\d{8}_(n\d{8}_\d+|ILSVRC2012_val_\d{8})\.\w+")
CLASS_LIST = "imagenet100.txt"
VAL_IMAGES_PER_CLASS = 50  # in all of ImageNet's classes


def hard_imagenet_evidence(folder: Path, sources: Sources) -> str | None:
    """Flat masks, its list of classes, or its name."""
    for split in ("train", "val"):
        names = list(islice(Listing().files(folder / split), 1000))
        if any(FLAT_MASK.fullmatch(name) for name in names):
            return f"{split} has files named <wnid>_<ImageNet's file name>"
    if (folder / "meta" / "hard_imagenet_idx.pkl").is_file():
        return "it has meta/hard_imagenet_idx.pkl"
    return "it is called hardImageNet" if folder.name.lower() == "hardimagenet" else None


def imagenet100_evidence(folder: Path, sources: Sources) -> str | None:
    """A hundred classes of ImageNet, or any number with a list."""
    wnids = _wnids(folder)
    if not wnids:
        return None
    chosen = _class_list(folder, sources)
    if chosen is not None:
        return f"it has {len(wnids):,} folders named by WordNet numbers, and {chosen} is a list of classes"
    close = abs(len(wnids) - LISTED_CLASSES) <= 5
    return f"it has {len(wnids):,} folders named by WordNet numbers" if close else None


def imagewoof_evidence(folder: Path, sources: Sources) -> str | None:
    """Its table, its breeds, or its name."""
    if (folder / TABLE).is_file():
        return f"it has {TABLE}"
    wnids = _wnids(folder)
    if len(wnids & BREEDS.keys()) > len(BREEDS) // 2 and len(wnids) <= len(BREEDS) + 1:
        return "its folders are the WordNet numbers of ImageWoof's breeds"
    return f"it is called {folder.name}" if folder.name.lower().startswith("imagewoof") else None


def _wnids(folder: Path) -> set[str]:
    return {
        child.name for split in ("train", "val") for child in subfolders(folder / split) if WNID.fullmatch(child.name)
    }


def _class_list(root: Path, sources: Sources) -> Path | None:
    if sources.class_list is not None:
        return sources.class_list
    return next((path for path in (root / CLASS_LIST, root.parent / CLASS_LIST) if path.is_file()), None)


def _imagenet100_lacks(root: Path, sources: Sources) -> str | None:
    if _class_list(root, sources) is not None:
        return None
    return (
        f"ImageNet-100 is told by its list of classes, and there is no {CLASS_LIST} in {root} or beside it: pass "
        "--class-list FILE (imagenet100.txt of the code of Contrastive Multiview Coding), or --as folder to take the "
        "folders as they are"
    )


def _hard_imagenet_lacks(root: Path, sources: Sources) -> str | None:
    if sources.imagenet is not None:
        return None
    return "Hard-ImageNet is masks alone; the images are ImageNet's: pass --imagenet FOLDER, with train/ and val/ in it"


def _read_hard_imagenet(root: Path, sources: Sources) -> Release:
    return read_hard_imagenet(root, sources.imagenet or root)


def _read_imagenet100(root: Path, sources: Sources) -> Release:
    return read_imagenet100(root, _class_list(root, sources) or root / CLASS_LIST, sources.annotations)


def imagenet100_expected(release: Release) -> Mapping[str, Expected]:
    """Fifty validation images of each class; training images are between 732 and 1,300."""
    number = len(release.classes)
    return {
        "train": Expected(None),
        "val": Expected(VAL_IMAGES_PER_CLASS * number, (VAL_IMAGES_PER_CLASS,) * number),
    }


def imagewoof_expected(release: Release) -> Mapping[str, Expected]:
    """Of the release of December 2019."""
    return {split: Expected(size) for split, size in COUNTS.items()}


def _all_imagenet_folders(release: Release) -> Iterable[Path]:
    return folders_below(release.root)


HARD_IMAGENET = Kind(
    "hard-imagenet",
    "Hard-ImageNet",
    hard_imagenet_evidence,
    _read_hard_imagenet,
    lambda root, sources: call("HardImageNet", root, imagenet=sources.imagenet),
    lacks=_hard_imagenet_lacks,
    own_folders=lambda release: [release.root / split for split in ("train", "val")],
    num_classes=HARD_CLASSES,
    some_masks_are_empty=True,
    duplicates="warning",
)
IMAGENET100 = Kind(
    "imagenet-100",
    "ImageNet-100",
    imagenet100_evidence,
    _read_imagenet100,
    lambda root, sources: call(
        "ImageNet100", root, class_list=_class_list(root, sources), annotations=sources.annotations
    ),
    lacks=_imagenet100_lacks,
    expected=imagenet100_expected,
    num_classes=LISTED_CLASSES,
    duplicates="warning",
)
IMAGEWOOF = Kind(
    "imagewoof",
    "ImageWoof",
    imagewoof_evidence,
    lambda root, sources: read_imagewoof(root),
    lambda root, sources: call("ImageWoof", root),
    expected=imagewoof_expected,
    num_classes=len(BREEDS),
    own_folders=_all_imagenet_folders,
    duplicates="warning",
)


SPECIFIC = (BUILT, CUB, WATERBIRDS, TRAVELING_BIRDS, HARD_IMAGENET, IMAGEWOOF, IMAGENET100)  # the surest evidence first
GENERIC = (TABLE_KIND, FOLDER)  # would fit many a release, too
EXAMPLES = 10  # of folders that a message names


class NotRecognisedError(ValueError):
    """The folder is not there, looks like no set that the doctor knows or like several, or needs a folder beside."""


class Recognised(NamedTuple):
    """A folder and what it was taken for.

    Attributes:
        kind: what it was taken for.
        root: the folder: the given one, one in it, or the one above.
        reason: why, to be read behind "because".
    """

    kind: Kind
    root: Path
    reason: str


def recognise(path: Path, sources: Sources, name: str | None = None) -> Recognised:
    """Tell which set lies in a folder.

    Args:
        path: the set's folder, the one that it lies in, or one of its own; not looked at if the sources have a table.
        sources: what lies elsewhere.
        name: what to take it for, a kind's name; None looks.

    Returns:
        The kind with the folder.

    Raises:
        NotRecognisedError: if there is no such folder, no kind fits, several sets lie in it, or it needs more sources.
    """
    if sources.table is not None:
        if name not in (None, TABLE_KIND.name):
            raise NotRecognisedError(f"{path} is a table, and --as says {name!r}; leave it out, or pass a folder")
        return Recognised(TABLE_KIND, sources.table.parent, "it is a CSV file")
    if not path.is_dir():
        is_file = "is a file; unpack it, if it is an archive, and pass the folder, or pass a table (.csv)"
        what = is_file if path.exists() else "does not exist"
        raise NotRecognisedError(f"PATH must be the folder of a data set, and {path} {what}")
    found = _chosen(path, sources, name) if name is not None else _found(path, sources)
    if sources.columns and found.kind is not TABLE_KIND:
        raise NotRecognisedError(
            f"{path} was taken for {found.kind.title}, because {found.reason}, which has its own columns; leave "
            "--column out, or pass the table itself (.csv)"
        )
    lacking = found.kind.lacks(found.root, sources)
    if lacking is not None:
        raise NotRecognisedError(f"{found.root} was taken for {found.kind.title}, because {found.reason}. {lacking}")
    return found


def _chosen(path: Path, sources: Sources, name: str) -> Recognised:
    kinds = [kind for kind in (*SPECIFIC, *GENERIC) if kind.name == name]
    if not kinds:
        raise NotRecognisedError(f"--as must be one of {_names()}; got {name!r}")
    fitting = [each for folder in (path, *subfolders(path)) for each in _first_that_fits(kinds, folder, sources)]
    if fitting and (len(fitting) == 1 or fitting[0].root == path):
        return fitting[0]
    return Recognised(kinds[0], path, f"--as {name} says so")


def _found(path: Path, sources: Sources) -> Recognised:
    for kinds, folders in _looks(path, sources):
        found = [each for folder in folders for each in _first_that_fits(kinds, folder, sources)]
        if len(found) > 1:
            lines = [
                f"  aimwrap data doctor {shlex.quote(str(each.root))}   # {each.kind.title}"
                for each in found[:EXAMPLES]
            ]
            raise NotRecognisedError("\n".join([f"{path} holds {len(found)} data sets; pass one of them:", *lines]))
        if found:
            return found[0]
    names = [folder.name for folder in subfolders(path)]
    there = ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
    raise NotRecognisedError(
        f"{path} looks like no data set that is known here; its folders are: {there or 'none'}. Pass the folder in "
        f"which the set's own table lies, or its folders train and val or test, or say with --as what it is: {_names()}"
    )


def _looks(path: Path, sources: Sources) -> Iterator[tuple[Sequence[Kind], Sequence[Path]]]:
    """Which kinds to look for in which folders, the surest first; each only where those before found nothing."""
    yield SPECIFIC, [path]
    yield SPECIFIC, subfolders(path)
    yield _of_its_own(SPECIFIC, path, sources), [path.resolve().parent]
    yield GENERIC, [path]


def _of_its_own(kinds: Sequence[Kind], path: Path, sources: Sources) -> list[Kind]:
    """Those that no neighbour of the folder is: else ``data/mine`` would be taken for ``data/CUB_fixed``."""
    neighbours = [folder for folder in subfolders(path.resolve().parent) if not folder.samefile(path)]
    return [kind for kind in kinds if all(kind.evidence(folder, sources) is None for folder in neighbours)]


def _first_that_fits(kinds: Sequence[Kind], folder: Path, sources: Sources) -> list[Recognised]:
    reasons = ((kind, kind.evidence(folder, sources)) for kind in kinds)
    return next(([Recognised(kind, folder, reason)] for kind, reason in reasons if reason is not None), [])


def _names() -> str:
    return ", ".join(kind.name for kind in (*SPECIFIC, *GENERIC))
