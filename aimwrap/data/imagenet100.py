"""ImageNet-100: a hundred classes of ImageNet by a list, with ImageNet's boxes to measure against.

The list that most works mean is that of Tian, Krishnan, Isola: Contrastive Multiview Coding, ECCV 2020
(``imagenet100.txt`` of their code), which the AIM paper cites.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable
from pathlib import Path

from .files import written
from .imagenet_tree import SPLITS, WNID, class_pictures, split_folders, wnid_folders
from .release import Box, Record, Release, ReleaseDataset
from .sample import Sample
from .voc_boxes import read_annotation

CMC_LIST_MD5 = "9974508e5d4cc0098b70e8b6a0fe6067"
NUM_CLASSES = 100
LARGEST_LIST = 1 << 16  # bytes; all of ImageNet's classes take 10 KB


def read_imagenet100(root: str | Path, class_list: str | Path, annotations: str | Path | None = None) -> Release:
    """Read the classes of a list from an ImageNet tree.

    The label is the class's position among the *sorted* WordNet numbers of the list, as ``ImageFolder`` on a tree of
    these classes has it, and not its position in the list, whose order is random.

    Args:
        root: a folder with ``train/<wnid>/`` and ``val/<wnid>/``, or one of them: all of ImageNet, or a tree of these
            classes alone. Other classes are left out.
        class_list: path of a text file of WordNet numbers, one a line.
        annotations: folder of ImageNet's validation boxes: ``Annotations/CLS-LOC/val``, or one above it. The
            validation samples then have the boxes of their own class.

    Returns:
        The splits that are there.

    Raises:
        FileNotFoundError: if a folder, the list, or an annotation is missing, or a class has no folder or no picture.
        ValueError: if the list has other than WordNet numbers or one twice, pictures lie in the wrong place, or an
            annotation is damaged or another picture's.
    """
    root = written(root)
    listed, notes = _read_class_list(written(class_list))
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
    for split in (split for split in SPLITS if split not in folders):
        notes.append(f"The split {split} is left out: {root} has no folder {split}.")
    if annotations is not None:
        records = _with_boxes(records, wnids, written(annotations))
        notes.append("Validation samples have ImageNet's boxes of their own class; training samples have none.")
    return Release("ImageNet-100", root, tuple(records), tuple(wnids), notes=tuple(notes))


class ImageNet100(ReleaseDataset):
    """ImageNet-100: :func:`read_imagenet100` as a data set.

    Args:
        root: folder of the ImageNet tree.
        split: ``"train"`` or ``"val"``; None takes both.
        class_list: path of the list of classes.
        annotations: folder of ImageNet's validation boxes, or None.
        transform: called with the :class:`Sample`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = "train",
        *,
        class_list: str | Path,
        annotations: str | Path | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        super().__init__(read_imagenet100(root, class_list, annotations), split, transform)


def _read_class_list(path: Path) -> tuple[list[str], list[str]]:
    """The WordNet numbers in the list's order, and what is to be said of it."""
    if not path.is_file():
        raise FileNotFoundError(
            f"class_list must be a text file of WordNet numbers, one a line, such as imagenet100.txt of the code of "
            f"Contrastive Multiview Coding, and {path} is no file"
        )
    if path.stat().st_size > LARGEST_LIST:
        raise ValueError(f"class_list must be a text file of WordNet numbers, one a line; {path} is too long for one")
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("latin-1")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    strangers = [line for line in lines if not WNID.fullmatch(line)]
    if strangers or not lines:
        found = f"{len(strangers)} other lines, such as {strangers[0]!r:.60}" if strangers else "no line"
        raise ValueError(f"{path} must hold WordNet numbers (n02869837), one a line, and has {found}")
    repeated = sorted({line for line in lines if lines.count(line) > 1})
    if repeated:
        raise ValueError(f"{path} lists {', '.join(repeated)} more than once; every class must be there once")
    order = (
        f"Labels are positions in the sorted WordNet numbers, as ImageFolder has them: 0 is {min(lines)}, and not "
        f"{lines[0]}, the first in {path.name}."
        if lines[0] != min(lines)
        else "Labels are positions in the sorted WordNet numbers, as ImageFolder has them."
    )
    return lines, [_recognise(lines, path), order]


def _recognise(wnids: list[str], path: Path) -> str:
    # of the lines, not of the file, so that line ends of Windows do not hide the list
    md5 = hashlib.md5("".join(f"{wnid}\n" for wnid in wnids).encode(), usedforsecurity=False).hexdigest()
    if md5 == CMC_LIST_MD5:
        return f"{path.name} is the list of Contrastive Multiview Coding (MD5 {md5}), the one that most works use."
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
            f"{folder} lacks the annotations of {len(lacking)} of {len(validation)} validation pictures, such as "
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
            f"{path} says that it annotates {annotation.stem}, and not {record.id}: the annotations were renamed or "
            "shuffled. Get them again"
        )
    boxes: list[Box] = [box for name, box in annotation.boxes if name == wnid]
    if not boxes:
        named = ", ".join(sorted({name for name, _ in annotation.boxes})) or "nothing"
        raise ValueError(
            f"{path} has boxes of {named}, and none of {wnid}, in whose folder the picture lies, {record.path}: the "
            "validation pictures were sorted into wrong folders, or the annotations are another set's"
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
