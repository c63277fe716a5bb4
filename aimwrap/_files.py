"""Files that are complete or not there, whenever the process is killed; and their checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    if path.is_symlink():
        path.unlink()  # else the file that a link leads to would be emptied
    with path.open("a+b", buffering=0) as file:
        try:
            if os.name != "nt":
                from fcntl import LOCK_EX, LOCK_NB, lockf

                lockf(file, LOCK_EX | LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # else the file system has no locks
                holder = f"process {os.pread(file.fileno(), 99, 0).decode()}"
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
        size = source.stat().st_size / 2**20
        if not source.is_file() or size > 64:  # the names of a million classes
            raise ValueError(f"it is not a file, or has {size:.0f} MiB, and no config of aimwrap has more than 64")
        source = source.read_text(encoding="utf-8")
    if source.count("[") + source.count("{") > 10**6:
        raise ValueError("it has over a million lists and objects")
    try:
        return json.loads(source, parse_constant=constant, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


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
