"""A progress bar where tqdm is there (extra ``cli``), and nothing where it is not."""

from __future__ import annotations

from collections.abc import Iterable
from operator import length_hint
from typing import TypeVar

T = TypeVar("T")


def with_progress(batches: Iterable[T], description: str, unit: str = "batch") -> Iterable[T]:
    """Iterate over batches with a bar, unless there is but one."""
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    one = length_hint(batches, 2) < 2  # where the number is not known, there are many
    bar: Iterable[T] = tqdm(batches, desc=description, unit=unit, disable=one)
    return bar
