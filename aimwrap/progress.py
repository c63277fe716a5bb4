"""A progress bar where tqdm is there (extra ``cli``), and nothing where it is not."""

from __future__ import annotations

from collections.abc import Iterable
from operator import length_hint
from typing import TypeVar

T = TypeVar("T")


def with_progress(batches: Iterable[T], description: str, unit: str = "batch", total: int | None = None) -> Iterable[T]:
    """Iterate over batches with a bar, unless there is but one.

    Args:
        batches: to iterate over.
        description: before the bar.
        unit: what one of them is called.
        total: how many there are, for those that have no length.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    one = (length_hint(batches, 2) if total is None else total) < 2  # where the number is not known, there are many
    bar: Iterable[T] = tqdm(batches, desc=description, unit=unit, total=total, disable=one)
    return bar
