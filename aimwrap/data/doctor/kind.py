"""What the doctor knows of a kind of sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..release import Release
from .counts import Expected
from .examination import Mark


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
