"""Files that are complete or not there, whenever the process is killed; and their checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import sys
import threading
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_UNFINISHED = ".unfinished-"
_HELD: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # systems lock for processes, not for threads


@contextmanager
def replacing(path: Path, wait: bool = True) -> Iterator[Path]:
    """:func:`replacing_together` of one file."""
    with replacing_together(path, wait=wait) as (draft,):
        yield draft


@contextmanager
def replacing_together(*paths: Path, wait: bool = True) -> Iterator[list[Path]]:
    """Paths to write to, whose files replace the given ones together once all are on the disk; on an error none does.

    All but the first are removed before, so that a kill in between leaves no files of two runs next to each other. A
    link is replaced itself: the file that it points to is not changed. What a killed process left of them is removed.

    The files are of one folder. Where another process writes the same, wait for it, or raise a BlockingIOError. On a
    full disk an OSError names the file.
    """
    folder = paths[0].parent
    names = [_UNFINISHED + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16] for path in paths]
    drafts = [folder / f"{name}-{uuid.uuid4().hex}{path.suffix}" for name, path in zip(names, paths, strict=True)]
    try:
        with locked(folder / names[0], wait):
            for name in names:
                remove_unfinished(folder, f"{name}-")
            try:
                yield drafts
                for draft in drafts:
                    _sync(draft)
                for path in paths[:0:-1]:
                    path.unlink(missing_ok=True)
                for draft, path in zip(drafts, paths, strict=True):
                    draft.replace(path)
                _sync(folder)  # which is what knows the new names
            finally:
                for draft in drafts:
                    draft.unlink(missing_ok=True)
    except Exception as error:  # of any library that writes
        if is_full(error):
            raise OSError(errno.ENOSPC, "the disk is full", str(paths[0])) from error
        raise


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold a file, and remove it at the end; a process that is killed holds nothing.

    Where another process or thread holds it, wait for it, or raise a BlockingIOError that names it.
    """
    # Closing a file ends this process's lock on it, so it is not even opened where another thread holds it.
    of_threads = _HELD[os.path.join(os.path.realpath(path.parent), path.name)]
    this, tries = f"{os.getpid()} on {platform.node()}", 0
    if not of_threads.acquire(blocking=wait):
        raise BlockingIOError(_is_writing(path, this))
    try:
        while (file := _taken(path)) is None:
            tries += 1
            if not wait and tries > 3:  # else its holder may have ended just now
                raise BlockingIOError(_is_writing(path))
            if tries == 100:
                warnings.warn(_is_writing(path), stacklevel=2)
            time.sleep(0.1)
        with file:
            file.truncate(0)
            file.write(f"{this}, since {time.strftime('%Y-%m-%d %H:%M:%S')},".encode())
            try:
                yield
            finally:
                if sys.platform != "win32":  # while it is held: from now on the name may be another's
                    path.unlink(missing_ok=True)
        if sys.platform == "win32":  # which removes no open file
            with suppress(OSError):
                path.unlink()
    finally:
        of_threads.release()


def _taken(path: Path) -> BinaryIO | None:
    """The file, locked; None where another process holds it, or has just removed it."""
    if path.is_symlink():
        path.unlink()  # else the file that a link leads to would be emptied
    file = path.open("a+b", buffering=0)
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(2**20)  # what is locked there, others cannot even read: a byte after the text
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            from fcntl import LOCK_EX, LOCK_NB, lockf

            lockf(file, LOCK_EX | LOCK_NB)
        taken = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        taken = False
    except OSError as error:
        taken = error.errno not in (errno.EAGAIN, errno.EACCES)  # else the file system has no locks
    if not taken:
        file.close()
    return file if taken else None


def _is_writing(path: Path, holder: str = "") -> str:
    with suppress(OSError):  # its holder has ended
        holder = holder or path.read_text(errors="replace")[:99]
    return f"process {holder} is writing {path.parent}: wait for it, or name another folder"


def is_full(error: Exception) -> bool:
    """Whether an error, of any library that writes, means a full disk, or that one's share of it is used up."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def is_unfinished(path: Path) -> bool:
    """Whether the file was left by a killed process."""
    return path.name.startswith(_UNFINISHED)


def remove_unfinished(folder: Path, name: str = _UNFINISHED) -> None:
    """Remove what a killed process left half written, under names that begin so."""
    for path in folder.glob(f"{name}*"):
        path.unlink(missing_ok=True)


def read_json(source: Path | str, constant: Callable[[str], Any] = float) -> Any:
    """The value in a JSON file, or in a text; ``constant`` is called with ``"NaN"`` and its like.

    Raises:
        ValueError: without the file's name, if it is not JSON, or JSON that no program would write.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("it has a name twice in one object")
        return found

    if isinstance(source, Path):
        if not source.is_file():
            raise ValueError("it is not a file")
        if (size := source.stat().st_size / 2**20) > 64:  # the names of a million classes
            raise ValueError(f"it has {size:.0f} MiB, and at most 64 are read")
        source = source.read_text(encoding="utf-8")
    if source.count("[") + source.count("{") > 10**6:
        raise ValueError("it has over a million lists and objects")
    try:
        return json.loads(source, parse_constant=constant, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def write_json(path: Path, values: Any) -> None:
    """Write values as a JSON file that people can read."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parts_of(path: Path | None) -> list[bytes]:
    """A file's start, with its EXIF data, and bytes spread evenly to its end: all would take as long as an epoch."""
    if path is None or not path.is_file():  # such as a pipe, from which reading might never end
        return []
    if path.suffix.lower() in (".bmp", ".dib", ".pbm", ".pgm", ".ppm", ".pnm", ".tif", ".tiff"):  # mostly uncompressed:
        return [checksum(path).encode()]  # where one pixel changes, the rest stays as it is
    with path.open("rb") as file:
        last = max(0, path.stat().st_size - 64)
        starts = (file.seek(last * part // 32) for part in range(33))
        return [str(last).encode(), *(file.read(64 if start else 1024) for start in starts)]


def _sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
