"""What a folder is taken for, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .kind import Kind, Sources
from .kind_of_built import BUILT
from .kinds_of_birds import CUB, TRAVELING_BIRDS, WATERBIRDS
from .kinds_of_folders import FOLDER, TABLE
from .kinds_of_imagenet import HARD_IMAGENET, IMAGENET100, IMAGEWOOF
from .listing import subfolders

SPECIFIC = (BUILT, CUB, WATERBIRDS, TRAVELING_BIRDS, HARD_IMAGENET, IMAGEWOOF, IMAGENET100)  # the surest evidence first
GENERIC = (TABLE, FOLDER)  # would fit many a release, too
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
        if name not in (None, TABLE.name):
            raise NotRecognisedError(f"{path} is a table, and --as says {name!r}; leave it out, or pass a folder")
        return Recognised(TABLE, sources.table.parent, "it is a CSV file")
    if not path.is_dir():
        is_file = "is a file; unpack it, if it is an archive, and pass the folder, or pass a table (.csv)"
        what = is_file if path.exists() else "does not exist"
        raise NotRecognisedError(f"PATH must be the folder of a data set, and {path} {what}")
    found = _chosen(path, sources, name) if name is not None else _found(path, sources)
    if sources.columns and found.kind is not TABLE:
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
