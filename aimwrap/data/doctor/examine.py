"""The examination from end to end: recognise, read the tables, look at every file, judge."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..._text import numbered
from ..io import FolderListing as Listing
from ..io import folders_below, pictures, written
from ..release import Release
from .checks import (
    check_boxes,
    check_counts,
    check_duplicates,
    check_groups,
    check_images_there,
    check_labels,
    check_mask_contents,
    check_masks_there,
    check_readable,
    check_sizes,
    check_unnamed,
    count,
    worth_a_digest,
)
from .findings import Check, Count, Examination
from .kinds import Kind, Recognised, Sources, recognise
from .scan import Look, look_at_all, look_at_image, look_at_mask

COLUMNS = ("image", "label", "place", "group", "split_column", "mask")


class Options(NamedTuple):
    """How to examine, beside what.

    Attributes:
        official: whether the counts are to be the official release's.
        quick: whether files are opened for their headers alone.
        workers: threads that open files; None takes one per core.
        progress: whether there is a progress bar.
    """

    official: bool = True
    quick: bool = False
    workers: int | None = None
    progress: bool = False


def examine(
    path: str | os.PathLike[str],
    kind: str | None = None,
    *,
    cub: str | os.PathLike[str] | None = None,
    segmentations: str | os.PathLike[str] | None = None,
    imagenet: str | os.PathLike[str] | None = None,
    class_list: str | os.PathLike[str] | None = None,
    annotations: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    any_value_is_object: bool = False,
    official: bool = True,
    quick: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Examination:
    """Examine a data set on disk: counts, columns, splits, groups, files, masks, boxes, duplicates.

    Opens every file that the set names, as its reader does, and writes nothing. What is wrong with the set is in the
    result and is never raised. ``aimwrap data doctor PATH`` prints it.

    Args:
        path: the set's folder, the one that it lies in, or one of its own; or a table, a CSV file.
        kind: what to take it for, such as ``"waterbirds"``; None looks what it is.
        cub: the folder ``CUB_200_2011``, or the one above, for sets that are made of CUB's birds.
        segmentations: CUB's segmentations, where they lie elsewhere.
        imagenet: an ImageNet tree, for Hard-ImageNet.
        class_list: of ImageNet-100.
        annotations: ImageNet's validation boxes, for ImageNet-100.
        masks: of a folder per class, a folder with the same names.
        columns: of a table, by arguments of :func:`~aimwrap.data.read_table`: ``{"image": "file"}``. Known are
            ``image``, ``label``, ``place``, ``group``, ``split_column`` and ``mask``.
        any_value_is_object: of masks of one's own, whether every value above zero means the object.
        official: whether the counts are to be the official release's; False for a part of it.
        quick: whether files are opened for their headers alone, which finds missing files and wrong sizes, and
            neither damaged ones nor duplicates.
        workers: threads that open files; None takes one per core.
        progress: whether there is a progress bar (extra ``cli``).

    Returns:
        What was found.

    Raises:
        NotRecognisedError: a ``ValueError``, if there is no such folder, no kind fits or several do, or the kind needs
            one of the other folders.
        ValueError: if ``workers`` is not positive, or ``columns`` has unknown names.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be a positive number of threads, or None for one per core; got {workers}")
    here = written(path)
    sources = Sources(
        cub=_written(cub),
        segmentations=_written(segmentations),
        imagenet=_written(imagenet),
        class_list=_written(class_list),
        annotations=_written(annotations),
        masks=_written(masks),
        table=here if here.suffix.lower() == ".csv" and here.is_file() else None,
        columns=_checked_columns(columns or {}),
        any_value_is_object=any_value_is_object,
    )
    options = Options(official, quick, workers, progress)
    found = recognise(here, sources, kind)
    again = _command(here, kind, sources, options)
    release = _read(found, sources)
    if isinstance(release, Check):
        return _without_release(here, found, release, sources, options, again)
    listing = Listing()
    counts = count(release)
    checks = tuple(_checks(release, counts, found.kind, listing, options))
    return Examination(
        here,
        found.kind.name,
        release.name,
        release.root,
        found.reason,
        release.classes,
        release.places,
        counts,
        checks,
        release.notes,
        _next_lines(found, sources, all(check.mark != "fault" for check in checks), again),
        quick,
    )


def _written(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else written(path)


def _checked_columns(columns: Mapping[str, str]) -> Mapping[str, str]:
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise ValueError(f"columns must be of {', '.join(COLUMNS)}; got {unknown[0]!r}")
    return columns


def _read(found: Recognised, sources: Sources) -> Release | Check:
    """What the tables and folders say, or what is wrong with them."""
    try:
        release = found.kind.read(found.root, sources)
    except (OSError, ValueError) as error:
        return Check("tables", "fault", str(error))
    return release if release.records else Check("tables", "fault", "they name no image at all")


def _without_release(
    path: Path, found: Recognised, problem: Check, sources: Sources, options: Options, again: str
) -> Examination:
    """Where the tables are at fault, the pictures are looked at all the same: people want to hear of both at once."""
    paths = pictures(Listing(), folders_below(found.root))
    readable = check_readable(_look_at_images(paths, [False] * len(paths), options), found.root, options.quick)
    note = "The tables could not be read, so nothing was held against them: mend them first, and examine again."
    return Examination(
        path,
        found.kind.name,
        found.kind.title,
        found.root,
        found.reason,
        (),
        (),
        (),
        (problem, readable),
        (note,),
        _next_lines(found, sources, healthy=False, again=again),
        options.quick,
    )


def _checks(
    release: Release, counts: tuple[Count, ...], kind: Kind, listing: Listing, options: Options
) -> Iterator[Check]:
    yield Check("tables", "ok", f"{numbered(len(release.records), 'image')}, read without a fault")
    yield check_counts(counts, release, kind.expected(release) if options.official else None, kind.authority)
    yield check_labels(counts, release, kind.num_classes if options.official else None)
    if release.places:
        yield check_groups(counts, release)
    yield check_images_there(release, listing)
    yield check_masks_there(release, listing, kind.where_masks)
    folders = list(kind.own_folders(release))
    if folders:
        yield check_unnamed(release, folders, listing)
    images, masks = _look(release, listing, options)
    yield check_readable({**images, **masks}, release.root, options.quick)
    seen = [
        (record, images[record.path], masks.get(record.mask_path) if record.mask_path is not None else None)
        for record in release.records
        if record.path in images
    ]
    yield check_sizes(seen, release.root)
    if masks and not options.quick:
        yield check_mask_contents(seen, release.root, kind.some_masks_are_empty)
    if any(record.boxes is not None for record in release.records):
        yield check_boxes(seen, release)
    if not options.quick:
        yield check_duplicates(release, images, kind.duplicates)


def _look(release: Release, listing: Listing, options: Options) -> tuple[Mapping[Path, Look], Mapping[Path, Look]]:
    """At every image and every mask that is there, each once."""
    there = [path for path in dict.fromkeys(record.path for record in release.records) if listing.has(path)]
    images = _look_at_images(there, worth_a_digest(there, listing), options)
    named = dict.fromkeys(record.mask_path for record in release.records if record.mask_path is not None)
    masks = [path for path in named if listing.has(path)]

    def look_at(path: Path) -> Look:
        return look_at_mask(path, release.any_value_is_object, options.quick)

    seen = look_at_all(look_at, masks, options.workers, "masks", options.progress)
    return images, dict(zip(masks, seen, strict=True))


def _look_at_images(paths: list[Path], digests: list[bool], options: Options) -> dict[Path, Look]:
    def look_at(item: tuple[Path, bool]) -> Look:
        return look_at_image(item[0], options.quick, digest=item[1])

    items = list(zip(paths, digests, strict=True))
    return dict(zip(paths, look_at_all(look_at, items, options.workers, "images", options.progress), strict=True))


def _next_lines(found: Recognised, sources: Sources, healthy: bool, again: str) -> tuple[str, ...]:
    if not healthy:
        return (f"{again}   # again, once it is mended",)
    return (
        "aimwrap inspect convnext_tiny   # what masks on a backbone cost, and the lines that train it",
        f"python -c {shlex.quote(found.kind.reads(found.root, sources) + '; print(len(train), train[0])')}",
    )


def _command(path: Path, kind: str | None, sources: Sources, options: Options) -> str:
    """The same examination on the command line."""
    words = ["aimwrap", "data", "doctor", str(path), *([] if kind is None else ["--as", kind]), *_as_options(sources)]
    return shlex.join([*words, *([] if options.official else ["--subset"]), *(["--quick"] if options.quick else [])])


def _as_options(sources: Sources) -> Iterator[str]:
    """The sources as they are given on the command line."""
    for name in ("cub", "segmentations", "imagenet", "class_list", "annotations", "masks"):
        value = getattr(sources, name)
        if value is not None:
            yield from (f"--{name.replace('_', '-')}", str(value))
    for argument, column in sources.columns.items():
        yield from ("--column", f"{argument.removesuffix('_column')}={column}")
    if sources.any_value_is_object:
        yield "--any-value-is-object"
