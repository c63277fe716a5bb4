"""ImageNet-100: a hundred classes of ImageNet by a list, with ImageNet's boxes to measure against.

The list that most works mean is that of Tian, Krishnan, Isola: Contrastive Multiview Coding, ECCV 2020
(``imagenet100.txt`` of their code), which the AIM paper cites.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from ..io import expand_path, list_folder, read_small, subfolders
from ..release import Box, Record, Release
from . import DatasetOnDisk, Expected, Sources

SPLITS = ("train", "val")
WNID = re.compile("n[0-9]{8}")  # WordNet's number of a noun: the class
TRAIN_STEM = re.compile("(n[0-9]{8})_[0-9]+")  # of a file of ImageNet's training set, which names its class
VAL_STEM = re.compile("ILSVRC2012_val_[0-9]{8}")  # of a file of its validation set, which does not
IMAGENET_STEM = re.compile(f"{TRAIN_STEM.pattern}|{VAL_STEM.pattern}")
BELOW = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # where train and val are in usual copies of ImageNet


def split_folders(root: Path, argument: str) -> dict[str, Path]:
    """Find ``train`` and ``val``, at least one of them."""
    for below in BELOW:
        found = {split: root / below / split for split in SPLITS if (root / below / split).is_dir()}
        if found:
            return found
    raise FileNotFoundError(
        f"{argument} must be a folder with train/ or val/ in it, each with a folder per WordNet number "
        f"(n01440764/...), and {root} has neither, nor an ILSVRC/Data/CLS-LOC with them; pass the folder above train/ "
        "and val/"
    )


def wnid_folders(folder: Path) -> list[str]:
    """The WordNet numbers that have a folder, at least one."""
    listing = list_folder(folder)
    found = [name for name in listing.folders if WNID.fullmatch(name)]
    if not found and any(VAL_STEM.match(name) for name in listing.pictures):
        raise ValueError(
            f"{folder} must have a folder per WordNet number (n01440764/...), and its {len(listing.pictures)} images "
            "are there unsorted, as in ImageNet's archive. Put each into the folder of its class: "
            "torchvision.datasets.ImageNet(FOLDER, split='val') does so, where FOLDER holds ILSVRC2012_img_val.tar and "
            "ILSVRC2012_devkit_t12.tar.gz; in Kaggle's copy LOC_val_solution.csv names each image's class"
        )
    if not found:
        raise FileNotFoundError(
            f"{folder} must have a folder per WordNet number (n01440764/...), and has none; pass the folder above "
            "train/ and val/ of an ImageNet tree"
        )
    return found


def class_pictures(folder: Path) -> list[str]:
    """The images of one class, at least one; ValueError if a name has another class's number."""
    pictures = list_folder(folder).pictures
    if not pictures:
        raise FileNotFoundError(
            f"{folder} has no image, so its class would have none; unpack its archive again, or remove the folder "
            "if the class is meant to be left out"
        )
    for name in pictures:
        named = TRAIN_STEM.match(name)
        if named is not None and named[1] != folder.name:
            raise ValueError(
                f"{folder / name} is in the folder of {folder.name} and is named as an image of {named[1]}; its "
                "label would be wrong. Move it to its class, or get the release again"
            )
    return pictures


LARGEST_ANNOTATION = 1 << 20  # bytes; an image with a hundred objects takes 30 KiB


class Annotation(NamedTuple):
    """The content of an annotation file."""

    stem: str  # of the image's file name
    size: tuple[int, int]  # (H, W) of the image that the boxes were drawn on
    boxes: tuple[tuple[str, Box], ...]  # with the class name of each


def read_annotation(path: Path) -> Annotation:
    """Read one annotation file.

    The file counts pixels from 1, and the last pixel belongs to the box: a box of the single first pixel is
    ``1 1 1 1`` there and (0, 0, 1, 1) here. A document type, which annotations never have and attacks do, is a
    ValueError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; unpack the archive of the annotations again")
    try:
        root = ElementTree.fromstring(read_small(path, LARGEST_ANNOTATION), ElementTree.XMLParser(target=_Builder()))
    except RuntimeError as error:
        raise ValueError(f"{path} {error}") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(
            f"{path} is not a complete XML file: {error}. It was cut off or damaged; get it again"
        ) from error
    size = (_whole(root, "size/height", path), _whole(root, "size/width", path))
    boxes = [(_text(item, "name", path), _box(item, size, path)) for item in root.findall("object")]
    return Annotation(_text(root, "filename", path).removesuffix(".JPEG"), size, tuple(boxes))


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type where it begins, before its entities."""

    def doctype(self, *_: object) -> None:
        raise RuntimeError(
            "declares a document type, with which a small file can fill the memory or read other files; "
            "annotations have none, so it is damaged or hostile, and was not read further. Get it again"
        )


def _text(element: ElementTree.Element, name: str, path: Path) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"{path} must have a {name} in its {element.tag}, and has none. Get the annotations again")
    return text


def _whole(element: ElementTree.Element, name: str, path: Path) -> int:
    text = _text(element, name, path)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{path}: {name} must be a number of pixels, got {text!r:.40}. Get the annotations again")
    return int(text)


def _box(item: ElementTree.Element, size: tuple[int, int], path: Path) -> Box:
    sides = ("xmin", "ymin", "xmax", "ymax")
    first_x, first_y, last_x, last_y = (_whole(item, f"bndbox/{side}", path) for side in sides)
    height, width = size
    # a pixel beyond the rim is rounding, and is cut off
    left, top, right, bottom = max(first_x - 1, 0), max(first_y - 1, 0), min(last_x, width), min(last_y, height)
    if not (left < right >= last_x - 1 and top < bottom >= last_y - 1):
        raise ValueError(
            f"{path}: the box {first_x} {first_y} {last_x} {last_y} (xmin ymin xmax ymax) is not inside the "
            f"image's {width} x {height} pixels (W x H). Get the annotations again, or correct this one"
        )
    return float(left), float(top), float(right), float(bottom)


CMC_LIST_MD5 = "9974508e5d4cc0098b70e8b6a0fe6067"
NUM_CLASSES = 100
CLASS_LIST = "imagenet100.txt"
VAL_IMAGES_PER_CLASS = 50  # in all of ImageNet's classes
LARGEST_LIST = 1 << 16  # bytes; all of ImageNet's classes take 10 KB


def read_imagenet100(root: str | Path, class_list: str | Path, annotations: str | Path | None = None) -> Release:
    """Read the classes of a list from an ImageNet tree.

    The label is the class's position among the *sorted* WordNet numbers of the list, as ``ImageFolder`` on a tree of
    these classes has it, and not its position in the list, whose order is random.

    Args:
        root: a folder with ``train/<wnid>/`` and ``val/<wnid>/``, or one of them: all of ImageNet, or a tree of these
            classes alone. Other classes are left out.
        class_list: path of a text file of WordNet numbers, one on each line.
        annotations: folder of ImageNet's validation boxes: ``Annotations/CLS-LOC/val``, or one above it. The
            validation samples then have the boxes of their own class.

    Returns:
        The splits that are there.

    Raises:
        FileNotFoundError: if a folder, the list, or an annotation is missing, or a class has no folder or no image.
        ValueError: if the list has other than WordNet numbers or one twice, images are in the wrong place, or an
            annotation is damaged or another image's.
    """
    root = expand_path(root)
    listed, notes = _read_class_list(expand_path(class_list))
    wnids = sorted(listed)
    records = []
    folders = split_folders(root, "root")
    for split, folder in folders.items():
        lacking = sorted(set(wnids) - set(wnid_folders(folder)))
        if lacking:
            raise FileNotFoundError(
                f"{folder} lacks {len(lacking)} of the {len(wnids)} classes in {class_list}: {', '.join(lacking[:10])}"
                f"{', ...' if len(lacking) > 10 else ''}; a model on the rest could not be compared. Add their "
                "folders, or pass the list that the tree was made with"
            )
        for label, wnid in enumerate(wnids):
            pictures = [folder / wnid / name for name in class_pictures(folder / wnid)]
            records += [Record(path.stem, path, label, split) for path in pictures]
    lacking = [split for split in SPLITS if split not in folders]
    notes += [f"The split {split} is left out: {root} has no folder {split}." for split in lacking]
    if annotations is not None:
        records = _with_boxes(records, wnids, expand_path(annotations))
        notes.append("Validation samples have ImageNet's boxes of their own class; training samples have none.")
    return Release("ImageNet-100", root, tuple(records), tuple(wnids), notes=tuple(notes), boxes_as_stored=True)


def _read_class_list(path: Path) -> tuple[list[str], list[str]]:
    """The WordNet numbers in the list's order, and notes on it."""
    if not path.is_file():
        raise FileNotFoundError(
            "class_list must be a text file of WordNet numbers, one on each line, such as imagenet100.txt of the code "
            f"of Contrastive Multiview Coding, and {path} is not a file. Pass the path of such a file"
        )
    if path.stat().st_size > LARGEST_LIST:
        raise ValueError(
            f"class_list must be a text file of WordNet numbers, one on each line; {path} is too long for one"
        )
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    others = [line for line in lines if not WNID.fullmatch(line)]
    if others or not lines:
        found = f"{len(others)} other lines, such as {others[0]!r:.60}" if others else "no line"
        raise ValueError(f"{path} must hold WordNet numbers (n02869837), one on each line, and has {found}")
    repeated = sorted({line for line in lines if lines.count(line) > 1})
    if repeated:
        raise ValueError(f"{path} lists {', '.join(repeated)} more than once; every class must be there once")
    order = "Labels are positions in the sorted WordNet numbers, as ImageFolder has them."
    if lines[0] != min(lines):
        order = f"{order[:-1]}: 0 is {min(lines)}, and not {lines[0]}, the first in {path.name}."
    return lines, [_recognise(lines, path), order]


def _recognise(wnids: list[str], path: Path) -> str:
    # of the lines, not of the file, so that line ends of Windows do not hide the list
    md5 = hashlib.md5("".join(f"{wnid}\n" for wnid in wnids).encode(), usedforsecurity=False).hexdigest()
    if md5 == CMC_LIST_MD5:
        return f"{path.name} is the list of Contrastive Multiview Coding (MD5 {md5}), which most works use."
    few = "" if len(wnids) == NUM_CLASSES else f" It has {len(wnids)} classes, not {NUM_CLASSES}."
    return (
        f"{path.name} is not the list of Contrastive Multiview Coding (MD5 {md5}, not {CMC_LIST_MD5}): accuracies "
        f"on its classes do not compare with those of works that use that one.{few}"
    )


def _with_boxes(records: list[Record], wnids: list[str], annotations: Path) -> list[Record]:
    """Boxes for the validation records."""
    folder = _annotation_folder(annotations)
    validation = [record for record in records if record.split == "val"]
    lacking = [record.id for record in validation if not (folder / f"{record.id}.xml").is_file()]
    if lacking:
        raise FileNotFoundError(
            f"{folder} lacks the annotations of {len(lacking)} of {len(validation)} validation images, such as "
            f"{lacking[0]}.xml; unpack the archive of the annotations again, or pass annotations=None to go without"
        )
    return [
        _with_own_boxes(record, wnids[record.label], folder / f"{record.id}.xml") if record.split == "val" else record
        for record in records
    ]


def _with_own_boxes(record: Record, wnid: str, path: Path) -> Record:
    annotation = read_annotation(path)
    if annotation.stem not in (record.id, "%s"):  # as some of ImageNet's training annotations have it
        raise ValueError(
            f"{path} is the annotation of {annotation.stem}, and not of {record.id}: the annotations were renamed or "
            "shuffled. Get them again"
        )
    boxes: list[Box] = [box for name, box in annotation.boxes if name == wnid]
    if not boxes:
        named = ", ".join(sorted({name for name, _ in annotation.boxes})) or "nothing"
        raise ValueError(
            f"{path} has boxes of {named}, and none of {wnid}, in whose folder the image is, {record.path}: the "
            "validation images were sorted into wrong folders, or the annotations are another set's"
        )
    return record._replace(boxes=tuple(boxes), size=annotation.size)


def _annotation_folder(folder: Path) -> Path:
    below = ("", "val", "CLS-LOC/val", "Annotations/CLS-LOC/val", "ILSVRC/Annotations/CLS-LOC/val")
    for candidate in (folder / part for part in below):
        if candidate.is_dir() and next(candidate.glob("ILSVRC2012_val_*.xml"), None) is not None:
            return candidate
    raise FileNotFoundError(
        "annotations must be the folder of ImageNet's validation boxes, with ILSVRC2012_val_00000001.xml and so on, "
        f"or one above Annotations/CLS-LOC/val, and {folder} is neither; the archive is ILSVRC2012_bbox_val_v3.tgz"
    )


class ImageNet100(DatasetOnDisk):
    """ImageNet-100: :func:`read_imagenet100` as a data set. Splits are ``"train"`` and ``"val"``."""

    read = staticmethod(read_imagenet100)
    title = "ImageNet-100"
    num_classes = NUM_CLASSES
    duplicates = "warning"
    owns_folder = False

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """A hundred classes of ImageNet, or any number with a list."""
        wnids = wnids_below(folder)
        if not wnids:
            return None
        text = f"it has {len(wnids):,} folders named by WordNet numbers"
        chosen = _class_list(folder, sources)
        if chosen is not None:
            return f"{text}, and {chosen} is a list of classes"
        return text if abs(len(wnids) - NUM_CLASSES) <= 5 else None

    @classmethod
    def arguments(cls, root: Path, sources: Sources) -> dict[str, Any]:
        """With the list of classes that was found."""
        return super().arguments(root, sources._replace(class_list=_class_list(root, sources)))

    @classmethod
    def missing_source(cls, root: Path, sources: Sources) -> str | None:
        """The list of classes."""
        if _class_list(root, sources) is not None:
            return None
        return (
            f"ImageNet-100 is defined by its list of classes, and there is no {CLASS_LIST} in {root} or next to it: "
            "pass --class-list FILE (imagenet100.txt of the code of Contrastive Multiview Coding), or --as folder to "
            "take the folders as they are"
        )

    @classmethod
    def expected(cls, release: Release) -> Mapping[str, Expected]:
        """Fifty validation images of each class; training images are between 732 and 1,300."""
        number = len(release.classes)
        labels = (VAL_IMAGES_PER_CLASS,) * number
        return {"train": Expected(None), "val": Expected(VAL_IMAGES_PER_CLASS * number, labels)}


def _class_list(root: Path, sources: Sources) -> Path | None:
    if sources.class_list is not None:
        return sources.class_list
    return next((path for path in (root / CLASS_LIST, root.parent / CLASS_LIST) if path.is_file()), None)


def wnids_below(folder: Path) -> set[str]:
    """WordNet numbers that have a folder in ``train`` or ``val``; none if there is no such folder."""
    return {child.name for split in SPLITS for child in subfolders(folder / split) if WNID.fullmatch(child.name)}
