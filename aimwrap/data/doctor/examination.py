"""The examination from end to end: recognise, read the tables, look at every file, judge."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..._choices import COLUMNS
from ..._text import numbered
from ...preprocessing import Preprocessing
from ..io import FolderListing, expand_path, folders_below, pictures, subfolders
from ..registry import READERS
from ..release import Release, usable
from ..sets import DatasetOnDisk, Sources
from .checks import (
    as_read,
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
    check_turned,
    check_unnamed,
    count,
    worth_a_digest,
)
from .report import Check, Examination
from .scan import Look, look_at_all, look_at_image, look_at_mask

EXAMPLES = 10  # of folders that a message names


class NotRecognisedError(ValueError):
    """The folder is not there, has no known set or several, or another folder is needed too."""


class Recognised(NamedTuple):
    """A folder and the data set that it was recognised as."""

    name: str  # of the data set, as ``--as`` takes it
    root: Path  # the given folder, one in it, or the one above
    reason: str  # a sentence after "because"

    @property
    def kind(self) -> type[DatasetOnDisk]:
        """The data set's class."""
        return READERS[self.name]


def recognise(path: Path, sources: Sources, name: str | None = None) -> Recognised:
    """Find out which data set is in a folder."""
    if sources.table is not None:
        if name not in (None, "table"):
            raise NotRecognisedError(f"{path} is a table, and --as is {name!r}; leave --as out, or pass a folder")
        return Recognised("table", sources.table.parent, "it is a CSV file")
    if not path.is_dir():
        is_file = "is a file; unpack it, if it is an archive, and pass the folder, or pass a table (.csv)"
        what = is_file if path.exists() else "does not exist"
        raise NotRecognisedError(f"PATH must be the folder of a data set, and {path} {what}")
    found = _chosen(path, sources, name) if name is not None else _found(path, sources)
    recognised = f"{found.root} was recognised as {found.kind.title}, because {found.reason}"
    if sources.columns and found.name != "table":
        raise NotRecognisedError(
            f"{recognised}; its columns are fixed: leave --column out, or pass the table itself (.csv)"
        )
    lacking = found.kind.missing_source(found.root, sources)
    if lacking is not None:
        raise NotRecognisedError(f"{recognised}. {lacking}")
    return found


def _chosen(path: Path, sources: Sources, name: str) -> Recognised:
    if name not in READERS:
        raise NotRecognisedError(f"--as must be one of {', '.join(READERS)}; got {name!r}")
    fitting = [each for folder in (path, *subfolders(path)) for each in _first_that_fits([name], folder, sources)]
    if fitting and (len(fitting) == 1 or fitting[0].root == path):
        return fitting[0]
    return Recognised(name, path, f"--as {name} was given")


def _found(path: Path, sources: Sources) -> Recognised:
    for names, folders in _looks(path, sources):
        found = [each for folder in folders for each in _first_that_fits(names, folder, sources)]
        if len(found) > 1:
            lines = [
                f"  aimwrap data doctor {shlex.quote(str(each.root))}   # {each.kind.title}"
                for each in found[:EXAMPLES]
            ]
            raise NotRecognisedError("\n".join([f"{path} holds {len(found)} data sets; pass one of them:", *lines]))
        if found:
            return found[0]
    children = [folder.name for folder in subfolders(path)]
    there = ", ".join(children[:EXAMPLES]) + (", ..." if len(children) > EXAMPLES else "")
    raise NotRecognisedError(
        f"{path} is not recognised as a data set; its folders are: {there or 'none'}. Pass the folder with "
        f"the set's table or with its folders train and val or test, or name the set with --as: {', '.join(READERS)}"
    )


def _looks(path: Path, sources: Sources) -> Iterator[tuple[Sequence[str], Sequence[Path]]]:
    """Which sets to look for in which folders, the surest first; each only where those before found nothing."""
    generic = [name for name, kind in READERS.items() if kind.generic]
    specific = [name for name in READERS if name not in generic]
    yield specific, [path]
    yield specific, subfolders(path)
    # no set that a folder next to it is: else data/mine would be taken for data/CUB_fixed
    parent = path.resolve().parent
    neighbours = [folder for folder in subfolders(parent) if not folder.samefile(path)]
    taken = [name for name in specific if any(_first_that_fits([name], each, sources) for each in neighbours)]
    yield [name for name in specific if name not in taken], [parent]
    yield generic, [path]


def _first_that_fits(names: Sequence[str], folder: Path, sources: Sources) -> list[Recognised]:
    reasons = ((name, READERS[name].evidence(folder, sources)) for name in names)
    return next(([Recognised(name, folder, reason)] for name, reason in reasons if reason is not None), [])


class Options(NamedTuple):
    """The arguments of :func:`examine` on how to examine."""

    official: bool = True
    quick: bool = False
    workers: int | None = None
    progress: bool = False
    prepared: Preprocessing | None = None


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
    preprocessing: Preprocessing | None = None,
) -> Examination:
    """Examine a data set on disk: counts, columns, splits, groups, files, masks, boxes, duplicates.

    Opens every file that the set names, as its reader does, and writes nothing. What is wrong with the set is in the
    result and is never raised. ``aimwrap data doctor PATH`` prints it.

    Args:
        path: the set's folder, its parent, or a folder in it; or a table, a CSV file.
        kind: which data set it is, such as ``"waterbirds"``; None recognises it.
        cub: the folder ``CUB_200_2011``, or the one above, for sets that are made of CUB's birds.
        segmentations: CUB's segmentations, if they are elsewhere.
        imagenet: an ImageNet tree, for Hard-ImageNet.
        class_list: of ImageNet-100.
        annotations: ImageNet's validation boxes, for ImageNet-100.
        masks: of a folder per class, a folder with the same names.
        columns: of a table, by arguments of :func:`~aimwrap.data.read_table`: ``{"image": "file"}``. Known are
            ``image``, ``label``, ``place``, ``group``, ``split_column`` and ``mask``.
        any_value_is_object: for your own masks, whether every value above zero means the object.
        official: whether the counts are to be the official release's; False for a part of it.
        quick: whether only headers are read, which finds missing files and wrong sizes, and neither damaged
            files nor duplicates.
        workers: threads that open files; None takes one per core.
        progress: whether there is a progress bar (extra ``cli``).
        preprocessing: the model's, whose ``window`` and channels images are read with; None for RGB with 8 bits.

    Returns:
        What was found.

    Raises:
        NotRecognisedError: a ``ValueError``, if there is no such folder, no kind fits or several do, or the kind needs
            one of the other folders.
        ValueError: if ``workers`` is not positive, or ``columns`` has unknown names.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be a positive number of threads, or None for one per core; got {workers}")
    here = expand_path(path)
    unknown = [name for name in columns or () if name not in COLUMNS]
    if unknown:
        raise ValueError(f"columns must be among {', '.join(COLUMNS)}; got {unknown[0]!r}")
    elsewhere = (cub, segmentations, imagenet, class_list, annotations, masks)
    table = here if here.suffix.lower() in (".csv", ".tsv") and here.is_file() else None
    paths = [None if each is None else expand_path(each) for each in elsewhere]
    sources = Sources._make([*paths, any_value_is_object, table, columns or {}])
    options = Options(official, quick, workers, progress, preprocessing)
    found = recognise(here, sources, kind)
    again = _command(here, kind, sources, options)
    release = _read(found, sources)
    problem = release if isinstance(release, Check) else None
    if problem is not None and sources.masks is not None and found.root not in sources.masks.parents:
        release = _read(found, sources._replace(masks=None))
    if isinstance(release, Check):
        release, checks = _without_tables(found, problem or release, options)
    else:
        checks = tuple(_checks(release, found.kind, FolderListing(), options))
    if problem is not None:  # where the rest could be read, it is of the masks
        checks = tuple(problem._replace(name=c.name) if c.name == "object masks" else c for c in checks)
    return Examination(
        here,
        found.name,
        release.name,
        release.root,
        found.reason,
        release.classes,
        release.places,
        count(release),
        checks,
        release.notes,
        _next_lines(found, sources, all(check.mark != "fault" for check in checks), again, "--window" in again),
        quick,
    )


def _read(found: Recognised, sources: Sources) -> Release | Check:
    """The release, or the fault of its tables."""
    try:
        kind, root = found.kind, found.root
        release = usable(kind.read(kind.path(root, sources), **kind.arguments(root, sources)))
    except (OSError, ValueError) as error:
        return Check("tables", "fault", str(error))
    return release if release.records else Check("tables", "fault", "they list no image")


def _without_tables(found: Recognised, problem: Check, options: Options) -> tuple[Release, tuple[Check, ...]]:
    """Where the tables have faults, the images are checked too, so that users see both at once."""
    listing = FolderListing()
    paths = pictures(listing, folders_below(found.root))
    looks = _look_at_files(
        lambda path: look_at_image(path, options.quick, prepared=options.prepared), paths, "images", listing, options
    )
    readable = check_readable(looks, found.root, options.quick)
    note = (
        "The tables could not be read, so nothing was compared with them: repair them first, then run the doctor again."
    )
    return Release(found.kind.title, found.root, (), (), (), False, (note,)), (problem, readable)


def _checks(release: Release, kind: type[DatasetOnDisk], listing: FolderListing, options: Options) -> Iterator[Check]:
    counts = count(release)
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
    paths = [record.path for record in release.records]
    mask_paths = [record.mask_path for record in release.records]
    alike, quick, any_value = worth_a_digest(paths, listing), options.quick, release.any_value_is_object
    images = _look_at_files(
        lambda path: look_at_image(path, quick, path in alike, options.prepared), paths, "images", listing, options
    )
    masks = _look_at_files(lambda path: look_at_mask(path, any_value, quick), mask_paths, "masks", listing, options)
    yield check_readable({**images, **masks}, release.root, quick)
    looks = [
        (record, images[record.path], masks.get(record.mask_path) if record.mask_path is not None else None)
        for record in release.records
        if record.path in images
    ]
    seen = [(record, as_read(release, record, image, mask), mask) for record, image, mask in looks]
    yield check_sizes(seen, release.root)
    if turned := check_turned(seen, release):
        yield turned
    if masks and not quick:
        yield check_mask_contents(seen, release.root, kind.empty_masks)
    if any(record.boxes is not None for record in release.records):
        yield check_boxes(seen, release)
    if not quick:
        yield check_duplicates(release, images, kind.duplicates)


def _look_at_files(
    look: Callable[[Path], Look],
    paths: Iterable[Path | None],
    description: str,
    listing: FolderListing,
    options: Options,
) -> dict[Path, Look]:
    """At every file that is there, each once."""
    there = [path for path in dict.fromkeys(paths) if path is not None and listing.has(path)]
    return dict(zip(there, look_at_all(look, there, options.workers, description, options.progress), strict=True))


def _next_lines(found: Recognised, sources: Sources, healthy: bool, again: str, windowed: bool) -> tuple[str, ...]:
    if not healthy:
        return (f"{again}   # again, after it is fixed",)
    kind, root = found.kind, found.root
    rest = "".join(f", {name}={_quoted(value)}" for name, value in kind.arguments(root, sources).items())
    made = f'{kind.__name__}({_quoted(kind.path(root, sources))}, "train"{rest})'
    shown = "" if windowed else ", train[0]"  # which a transform would read
    python = f"from aimwrap.data import {kind.__name__}; train = {made}; print(len(train){shown})"
    return (
        "aimwrap inspect convnext_tiny   # the cost of masks on a backbone, and the lines that train it",
        f"python -c {shlex.quote(python)}",
    )


def _quoted(value: Path | str | bool) -> str:
    return str(value) if isinstance(value, bool) else json.dumps(str(value), ensure_ascii=False)  # as in Python


def _command(path: Path, kind: str | None, sources: Sources, options: Options) -> str:
    """The same examination on the command line."""
    named = {"as": kind, **sources._asdict(), "table": None}  # a table is the path itself
    words = ["aimwrap", "data", "doctor", str(path)]
    if (prepared := options.prepared) is not None and (prepared.window is not None or len(prepared.mean) != 3):
        words += [] if prepared.window is None else ["--window={:.15g},{:.15g}".format(*prepared.window)]
        words.append(f"--channels={len(prepared.mean)}")
    for name, value in named.items():
        if isinstance(value, str | Path):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for argument, column in sources.columns.items():
        words += ["--column", f"{argument.removesuffix('_column')}={column}"]
    flags = {"any-value-is-object": sources.any_value_is_object, "subset": not options.official, "quick": options.quick}
    return shlex.join([*words, *(f"--{flag}" for flag, is_on in flags.items() if is_on)])
