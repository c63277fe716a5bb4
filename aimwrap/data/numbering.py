"""Numbers for a table's labels and places, which are names in some tables and numbers in others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .files import Row

WHOLE_NUMBER = re.compile(r"([0-9]{1,9})(\.0+)?")  # pandas writes 3.0 where another row has no value
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[nN]a[nN]")


class Numbered(NamedTuple):
    """A column as numbers.

    Attributes:
        numbers: of each row.
        names: by number.
    """

    numbers: list[int]
    names: tuple[str, ...]


def number_column(rows: Sequence[Row], column: str, names: Sequence[str] | None, argument: str) -> Numbered:
    """Number a column's values.

    Args:
        rows: of the table.
        column: name of the column.
        names: what the numbers mean, if known. Values are looked up among them, and else are numbers below their
            count. Without them, names are numbered in sorted order, and numbers have to count from 0 without gaps.
        argument: what the caller calls ``names``, for messages.

    Returns:
        Numbers and names.

    Raises:
        ValueError: if a value is empty, not among the names, or numbers have gaps or are mixed with names.

    >>> number_column([Row("line 2", {"y": "dog"}), Row("line 3", {"y": "cat"})], "y", None, "classes")
    Numbered(numbers=[1, 0], names=('cat', 'dog'))
    """
    values = [row.values[column].strip() for row in rows]
    for row, value in zip(rows, values, strict=True):
        if not value:
            raise ValueError(
                f"{row.where}: {column} must have a value, and is empty. Complete the table, or leave the row out"
            )
    if names is not None:
        return _among(rows, values, column, names, argument)
    matches = [WHOLE_NUMBER.fullmatch(value) for value in values]
    if not all(matches):
        _check_names(rows, values, column, argument)
        found = tuple(sorted(set(values)))
        number = {name: position for position, name in enumerate(found)}
        return Numbered([number[value] for value in values], found)
    numbers = [int(match[1]) for match in matches if match is not None]
    lacking = sorted(set(range(min(max(numbers), len(rows)) + 1)) - set(numbers))  # rows are too few for more
    if lacking:
        raise ValueError(
            f"{column} has numbers from {min(numbers)} to {max(numbers)} and lacks {lacking[0]}; numbers must count "
            f"from 0 without gaps. Pass {argument}= with a name for each number from 0, or, where the table counts "
            "from 1, "
            f'its numbers as names: {argument}=["1", "2", ...]'
        )
    return Numbered(numbers, tuple(str(number) for number in range(max(numbers) + 1)))


def _among(rows: Sequence[Row], values: list[str], column: str, names: Sequence[str], argument: str) -> Numbered:
    if isinstance(names, str) or len(set(names)) < len(names) or not names:
        raise ValueError(f"{argument} must be names without repetition, got {names!r:.80}")
    number = {name: position for position, name in enumerate(names)}
    numbers = []
    by_name = any(value in number for value in values)
    for row, value in zip(rows, values, strict=True):
        match = WHOLE_NUMBER.fullmatch(value)
        if by_name and value in number:
            numbers.append(number[value])
        elif not by_name and match is not None and int(match[1]) < len(names):
            numbers.append(int(match[1]))
        else:
            raise ValueError(
                f"{row.where}: {column} must be one of {argument}={list(names)[:10]!r}"
                f"{f' and {len(names) - 10} more' if len(names) > 10 else ''}"
                f"{'' if by_name else f', or a number below {len(names)}'}, got {value!r:.40}"
            )
    return Numbered(numbers, tuple(names))


def _check_names(rows: Sequence[Row], values: list[str], column: str, argument: str) -> None:
    """Names that are numbers in part are a damaged column, or measurements."""
    numeric = next((value for value in values if NUMBER.fullmatch(value)), None)
    if numeric is None:
        return
    row, value = next(
        (row, value) for row, value in zip(rows, values, strict=True) if not WHOLE_NUMBER.fullmatch(value)
    )
    raise ValueError(
        f"{row.where}: {column} must hold whole numbers from 0, or names throughout, and has {value!r:.40} here and "
        f"{numeric!r:.40} elsewhere. Repair the table, or pass {argument}= with all values as names"
    )
