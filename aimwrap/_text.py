"""Text for terminals and logs: progress where tqdm is installed (extra ``cli``), numbers with nouns, and tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from operator import length_hint
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def with_progress(batches: Iterable[T], description: str, unit: str = "batch", total: int | None = None) -> Iterable[T]:
    """Iterate over batches with a bar, unless there is but one.

    Where the error output is no terminal there are lines instead of the bar: at most one per tenth of the batches (per
    doubling, where their number is not known) and per ten seconds, so that what is quick says nothing at all.
    ``unit`` is what one of them is called, and ``total`` how many there are, for those that have no length.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    known = length_hint(batches, -1) if total is None else total  # where it is not known, there are many
    if not _shows_bars():
        return _with_lines(batches, description, known)
    bar: Iterable[T] = tqdm(batches, desc=description, unit=unit, total=total, disable=0 <= known < 2)
    return bar


def _shows_bars() -> bool:
    """Terminals do, and notebooks, whose error output says that it is no terminal."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _with_lines(batches: Iterable[T], description: str, total: int) -> Iterator[T]:
    started = last = time.monotonic()
    shown = 0
    for done, batch in enumerate(batches):
        now = time.monotonic()
        reached = 10 * done // total if total > 0 else done.bit_length()
        if reached > shown and now - last >= SECONDS_BETWEEN_LINES:
            how_far = f"{done / total:.0%}, {done} of {total}" if total > 0 else f"{done} so far"
            print(f"{description}: {how_far}, {now - started:.0f} s", file=sys.stderr, flush=True)
            last, shown = now, reached
        yield batch


def numbered(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun, in the plural where it is not one.

    >>> numbered(1, "image"), numbered(2000, "image"), numbered(0, "copy", "copies")
    ('1 image', '2,000 images', '0 copies')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    r"""Escape characters that a terminal would obey or cannot show, and line ends; file names may have them.

    >>> print(printable("a\x1b[2Jb\udcff.jpg"))
    a\x1b[2Jb\udcff.jpg
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(rows: Iterable[Sequence[str]], align: str = "", indent: str = "") -> str:
    """Rows in columns of equal width, two spaces apart.

    Args:
        rows: of cells, as many in each.
        align: a character per column, ``<`` or ``>``; the last one counts for all that follow, and none is ``<``.
        indent: before each line.

    >>> print(table([("stage", "area"), ("2", "0.25")], align="<>"))
    stage  area
    2      0.25
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), align[-1:] or "<")
    lines = (
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)) for row in rows
    )
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
