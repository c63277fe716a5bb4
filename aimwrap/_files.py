"""Files that are complete or not there, whenever the process is killed; and their checksum."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = ".unfinished-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, whose file replaces the given one once it is on the disk; on an error the given one stays.

    A link is replaced itself: the file that it points to is not changed.

    Args:
        path: the file to replace or to make.

    Yields:
        Where to write it.
    """
    temporary = path.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)  # the folder is what knows the new name
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file, unless another process does (a BlockingIOError names it); a process that is killed holds nothing."""
    with path.open("a+b", buffering=0) as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                file.seek(2**20)  # what is locked there, others cannot even read: a byte after the text
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                from fcntl import LOCK_EX, LOCK_NB, lockf

                lockf(file, LOCK_EX | LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # else the file system has no locks
                file.seek(0)
                holder = f"process {file.read(99).decode()}"
                raise BlockingIOError(
                    f"{holder} is writing {path.parent}: wait for it, or name another folder"
                ) from error
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')},".encode())
        yield


def is_unfinished(path: Path) -> bool:
    """Whether the file was left by a killed process."""
    return path.name.startswith(_UNFINISHED)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        path.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
