"""The images of a release on disk, and the data set that reads them."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import get_size

from ..preprocessing import Preprocessing
from .io import fitted, open_object_mask, read_image
from .sample import Sample, group_number
from .transforms import transformed

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
SPLITS = ("train", "val", "test")
SPLIT = re.compile(
    r"(train|trn|val|(?:public|private)?test|tst)(?:ing|id|idation)?[ _-]?(?:set|data|split|images|pictures)?[0-9]*"
)


def split_of(name: str) -> str | None:
    """The split that a folder or a table's value is named after, or None.

    >>> [split_of(name) for name in ("Training_Set", "validation", "tst", "PublicTest", "contest")]
    ['train', 'val', 'test', 'val', None]
    """
    match = SPLIT.fullmatch(name.strip().lower())
    known = {"trn": "train", "tst": "test", "publictest": "val", "privatetest": "test"}  # the last two of FER-2013
    return known.get(match[1], match[1]) if match else None


class Record(NamedTuple):
    """What is known about an image before it is opened.

    Attributes:
        id: the release's own name or number of it.
        path: of its file.
        label: class number.
        split: ``"train"``, ``"val"`` or ``"test"``.
        place: number of the background's kind, or None.
        mask_path: of the object's mask, or None.
        boxes: around the objects, or None.
        size: (H, W) of the image by the release, or None; another size is an error when it is opened.
    """

    id: str
    path: Path
    label: int
    split: str
    place: int | None = None
    mask_path: Path | None = None
    boxes: tuple[Box, ...] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Release:
    """All that a release's own tables and folders say about every split; no image was opened.

    Attributes:
        name: of the release, for readers.
        root: its folder.
        records: of every image, in the release's order.
        classes: names, by label.
        places: names, by number of place; empty if there are none.
        any_value_is_object: whether every value of a mask above zero means the object.
        notes: for users: traps, found versions.
        boxes_as_stored: whether boxes, and masks beside them, count the pixels on disk, before EXIF data turn them.
    """

    name: str
    root: Path
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    places: tuple[str, ...] = ()
    any_value_is_object: bool = False
    notes: tuple[str, ...] = field(default=())
    boxes_as_stored: bool = False


def all_trained(release: Release) -> Release:
    """The release as given; ValueError if there are training images, and a class is in the other splits only."""
    trained = {record.label for record in release.records if record.split == "train"}
    others = sorted({record.label for record in release.records} - trained)
    if trained and others:
        raise ValueError(
            f"{release.root} has no training image of {', '.join(release.classes[each] for each in others[:9])}, which "
            "other splits have. Rename those that are another class in other words; else add training images, or "
            "take the class out"
        )
    return release


_LOOK_ALIKE = {  # by what they are taken for
    "": "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe0e\ufe0f\ufeff]",  # unseen
    "-": "[\u2010-\u2015\u2212]",
    "'": "[\u2018\u2019\u02bc`\u00b4]",
}


def written_twice(names: Iterable[str]) -> str | None:
    """What is wrong with names of which two are one name in two ways, as a part of a sentence; None if none are.

    >>> written_twice(["Golden retriever", "golden_retriever"])
    "'Golden retriever' and 'golden_retriever', which differ in case, spaces, accents or dashes only"
    >>> written_twice(["A", "a", "1_1", "11", "rot-90", "rot90", "group A-", "group A", "b\u00f2", "b\u01a1"]) is None
    True
    """
    first: dict[str, tuple[str, str]] = {}
    for name in sorted(set(names), key=lambda name: (not name.isascii(), name)):
        look = normalize("NFKC", name)
        for sign, others in _LOOK_ALIKE.items():
            look = re.sub(others, sign, look)
        plain = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", "_", look)
        plain = re.sub(r"(?<!\d)[\s_]+|[\s_]+(?!\d)", "", plain)  # 1_1 is not 11
        plain = plain.casefold() if len(plain) > 1 else plain
        bare = re.sub("[\u0300-\u036f]", "", normalize("NFKD", plain)) if len(plain) > 1 else plain
        other, its_look = first.setdefault(bare if bare in first else plain, (name, look))
        if other != name:
            show = ascii if look == its_look else repr
            return f"{show(other)} and {show(name)}, which differ in case, spaces, accents or dashes only"
    return None


def usable(release: Release) -> Release:
    """The release as given; ValueError if no result on it would mean something, or could be computed or written."""
    trained = {record.label for record in release.records if record.split == "train"}
    if len(release.classes) == 1 or len(trained) == 1:
        raise ValueError(f"{release.root} has images of one class only; pass the folder of all classes, or add another")
    if len(release.classes) * len(release.places) > 10**6:  # which tables by group list
        raise ValueError(f"{release.root} has over a million pairs of label and place; name other columns")
    for record in release.records:
        if re.search("[\ud800-\udfff]", record.id):
            raise ValueError(f"{release.root} has the name {record.id!r}, which is not UTF-8; rename that file")
    return release


def likely_ids(release: Release) -> tuple[str, ...]:
    """A warning if the classes seem to be ids, such as of patients: most of ten or more have one or two images."""
    images = Counter(record.label for record in release.records)
    if len(images) < 10 or 2 * sum(number <= 2 for number in images.values()) <= len(images):
        return ()
    return (
        f"most of the {len(images):,} classes have one or two images ({images.total():,} in all). If they are ids, as "
        "of patients, name another column as label, or sort the images into folders of classes",
    )


class ReleaseDataset(Dataset[Sample]):
    """The images of one split of a release.

    Args:
        release: what is on disk.
        split: ``"train"``, ``"val"`` or ``"test"``; None takes all.
        transform: called with the complete :class:`Sample`, so that mask and boxes move with the image:
            :func:`~aimwrap.data.eval_transform`, :func:`~aimwrap.data.train_transform`, or one of
            ``torchvision.transforms.v2``; a transform of only images in :func:`~aimwrap.data.image_only`. Without one
            the image stays a ``PIL.Image``, as in torchvision. Images that are not RGB or grey with 8 bits are read by
            the first two with a preprocessing that has a ``window``.

    Attributes:
        release: as given.
        split: as given.
        splits: those that the release has, in the order ``"train"``, ``"val"``, ``"test"``.
        records: of the split's images, in the order of the samples.
        classes: names, by label; also ``places``, which is empty without places.
        labels: (len,) int64, in the order of the samples; also ``place_numbers`` and ``groups``, which are None
            if they are not known.

    Raises:
        ValueError: if the release has no such split.
    """

    def __init__(
        self, release: Release, split: str | None, transform: Callable[[Sample], Sample] | None = None
    ) -> None:
        splits = {record.split for record in release.records}
        known = tuple(name for name in SPLITS if name in splits)
        if split is not None and split not in known:
            raise ValueError(f"split must be among {', '.join(map(repr, known))} for {release.name}, got {split!r}")
        self.release, self.split, self.splits, self.transform = release, split, known, transform
        self.records = tuple(record for record in release.records if split in (None, record.split))
        self.classes, self.places = release.classes, release.places
        self.labels = torch.tensor([record.label for record in self.records], dtype=torch.int64)
        places: list[Any] = [record.place for record in self.records]
        self.place_numbers = torch.tensor(places) if places and None not in places else None
        self.groups: Tensor | None = None
        if self.place_numbers is not None:
            self.groups = group_number(self.labels, self.place_numbers, len(self.places))

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names, by number of group; empty without places."""
        return tuple(f"{label}, {place}" for label in self.classes for place in self.places)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __iter__(self) -> Iterator[Sample]:
        """Read image after image; without this an IndexError in a transform would pass for the end."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Read image ``index``."""
        record = self.records[index]
        sample = read_sample(record, self.release, getattr(self.transform, "prepared", None))
        return sample if self.transform is None else transformed(sample, self.transform)


class ImageLoader(DataLoader[Any]):
    """A loader whose workers leave Ctrl-C to this process; an error in one reads as it would without workers.

    It has a generator of its own: each iteration would move torch's.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **{"generator": torch.Generator()} | keywords)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # which only torch's own code needs more of
        """The batches; a worker's error is raised without the worker's traceback."""
        try:
            with _signals_held_back():
                batches = super().__iter__()
            yield from batches
        except Exception as error:
            if str(error).startswith("DataLoader worker ("):
                raise ChildProcessError(
                    f"a process that reads images ended early ({str(error).strip(' .')}). If it printed an error, fix "
                    "that; else the memory was full: take fewer workers; with workers=0 there is none"
                ) from None
            before, _, said = str(error).rpartition(f"\n{type(error).__name__}: ")
            if not before.startswith("Caught "):
                raise
            raise type(error)(said.strip()) from None


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start processes that do not see Ctrl-C, and whose end does not raise torch's error at once, anywhere."""
    elsewhere = os.name == "nt" or threading.current_thread() is not threading.main_thread()
    if elsewhere or None in map(signal.getsignal, (signal.SIGINT, signal.SIGCHLD)):  # set from C: not to be put back
        yield
        return
    seen: list[int] = []
    on_end = signal.getsignal(signal.SIGCHLD)  # torch's own would raise an error at once, whatever runs
    on_interrupt = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the processes inherit both
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, on_end)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, on_interrupt)
        if seen:
            signal.raise_signal(signal.SIGINT)


def groups_of(images: ReleaseDataset) -> Tensor:
    """Each image's group, (len,) int64: of label and place, or the label where there are no places."""
    return images.labels if images.groups is None else images.groups


def counts_stored(record: Record, release: Release) -> bool:
    """Whether the image's boxes and mask count the pixels on disk, whatever its EXIF data say."""
    return release.boxes_as_stored and record.boxes is not None


def read_sample(record: Record, release: Release, prepared: Preprocessing | None = None) -> Sample:
    """Open an image with its mask; RGB, or as a model's preprocessing says.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file is damaged, or mask or boxes do not fit the image.
    """
    turned = not counts_stored(record, release)
    image, mask, boxes = read_image(record.path, turned, prepared), None, None
    if record.mask_path is not None:
        mask = open_object_mask(record.mask_path, release.any_value_is_object)
    known = record.size if mask is None else tuple(mask.shape[1:])
    image = fitted(image, record.path, turned, known, prepared)
    size: tuple[int, int] = tuple(get_size(image))
    if record.size not in (None, size):
        raise ValueError(
            f"{record.path} has {size[0]} x {size[1]} pixels (H x W), and {record.size[0]} x {record.size[1]} in the "
            "release: it was resized, or is another image, so its boxes would not fit. Get the original"
        )
    if mask is not None:
        if tuple(mask.shape[1:]) != size:
            raise ValueError(
                f"{record.mask_path} has {mask.shape[1]} x {mask.shape[2]} pixels (H x W), and its image {record.path} "
                f"{size[0]} x {size[1]}: they belong to different releases, or one was resized. Get both again"
            )
        mask = tv_tensors.Mask(mask)
    if record.boxes is not None:
        if not are_inside(record.boxes, size):
            raise ValueError(
                f"the boxes of image {record.id}, {[list(box) for box in record.boxes]}, are not inside its {size[1]} "
                f"x {size[0]} pixels (W x H), {record.path}: they are another image's, or rows or columns (x and "
                "y, edges and sizes) are in another order. Get the table of boxes again"
            )
        corners = torch.tensor(record.boxes, dtype=torch.float32).reshape(-1, 4)
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size)
    place = record.place
    group = None if place is None else group_number(record.label, place, len(release.places))
    return Sample(image, record.label, group, place, mask, boxes, str(record.path), record.id)


def are_inside(boxes: Sequence[Box], size: tuple[int, int]) -> bool:
    """Whether boxes are inside their image of (H, W), up to a pixel of rounding; another image's mostly are not."""
    height, width = size
    return all(
        -1 <= left < right <= width + 1 and -1 <= top < bottom <= height + 1 for left, top, right, bottom in boxes
    )
