"""The data sets by the names that commands take."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

from .._choices import DATA_SETS
from .release import ReleaseDataset, usable
from .sets import DatasetOnDisk

READERS: Mapping[str, type[DatasetOnDisk]] = {
    name: resolve_name(f"{__package__}.sets.{place}") for name, place in DATA_SETS.items()
}
"""Data sets by name. Called with the folder (``table``: its CSV file), the split, and the set's own arguments."""


def read_by_name(name: str, root: str, split: str | None, arguments: Mapping[str, Any]) -> ReleaseDataset:
    """Read a data set's tables; no image is opened.

    Args:
        name: one of :data:`~aimwrap.data.READERS`.
        root: its folder; of ``table`` the CSV file.
        split: one that the set has; None for all.
        arguments: other arguments of its reader, by name.

    Returns:
        The data set, without a transform.

    Raises:
        FileNotFoundError: if it is not there.
        TypeError: if an argument has a type that its reader does not take.
        ValueError: if the name is unknown, its reader takes no such argument or needs another, it lacks the split,
            or it is not usable: see :func:`~aimwrap.data.release.usable`.
    """
    if name not in READERS:
        raise ValueError(f"data must be one of {', '.join(READERS)}, got {name!r}")
    _, *taken = inspect.signature(READERS[name].read).parameters.values()
    names = [each.name for each in taken]
    unknown = [given for given in arguments if given not in names]
    if unknown:
        raise ValueError(f"the data set {name} takes no argument {unknown[0]!r}; it takes {', '.join(names) or 'none'}")
    lacking = [each.name for each in taken if each.default is each.empty and each.name not in arguments]
    if lacking:
        raise ValueError(f"the data set {name} needs {lacking[0]}=..., the path of another part of it")
    found = READERS[name](root, split, **arguments)
    usable(found.release)
    return found


def parse_reader_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE``; a value is a number, true, false or a list where it is written as in JSON, else text.

    >>> parse_reader_arguments(["cub=data/CUB_200_2011", "noisy_labels=5", "object_masks=false"])
    {'cub': 'data/CUB_200_2011', 'noisy_labels': 5, 'object_masks': False}
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(
                f"an argument of the reader must be NAME=VALUE, such as cub=data/CUB_200_2011, got {text!r}"
            )
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = None if value == "None" else value
    return found
