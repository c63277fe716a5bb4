"""Parting names into splits by seed, so that no source picture is in two."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from numpy.random import Generator

Name = TypeVar("Name")


def part_names(names: Sequence[Name], shares: Sequence[float], rng: Generator) -> list[list[Name]]:
    """Part names at random by shares, each part at least one name if there are as many names as parts.

    Args:
        names: at least one for each share.
        shares: of every part; they sum to 1, and the last part takes what rounding leaves.
        rng: draws.

    Returns:
        The parts, in the order of the shares.

    Raises:
        ValueError: if there are fewer names than shares.

    >>> import numpy as np
    >>> [len(part) for part in part_names("abcdefghij", (0.6, 0.2, 0.2), np.random.default_rng(0))]
    [6, 2, 2]
    """
    if len(names) < len(shares):
        raise ValueError(f"there must be at least {len(shares)} names, one for each part, got {len(names)}")
    shuffled = [names[i] for i in rng.permutation(len(names))]
    parts, start = [], 0
    for number, share in enumerate(shares):
        parts_after = len(shares) - number - 1
        most = len(names) - start - parts_after
        size = min(max(round(share * len(names)), 1), most) if parts_after else most
        parts.append(shuffled[start : start + size])
        start += size
    return parts


def twins_of(paths: Mapping[str, Path]) -> dict[str, str]:
    """Find files with the same content, which belong into the same split.

    Args:
        paths: of the files, by name.

    Returns:
        By name, the first of the names of files with the same bytes: the name itself where there is no other.

    Raises:
        OSError: if a file cannot be read. One that is not there is like no other: whoever draws it will say so.
    """
    by_size: dict[int, list[str]] = {}
    twins = {name: name for name in paths}
    for name, path in paths.items():
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(name)
    first_of: dict[str, str] = {}
    for names in (names for names in by_size.values() if len(names) > 1):  # so that most files are never read
        for name in names:
            content = hashlib.sha256(paths[name].read_bytes()).hexdigest()
            twins[name] = first_of.setdefault(content, name)
    return twins
