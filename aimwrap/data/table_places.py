"""Places and groups of a table: groups are checked, and places worked out from them where there is no column."""

from __future__ import annotations

from collections.abc import Sequence

from .files import Row
from .numbering import Numbered, number_column
from .sample import group_number


def number_places(
    rows: Sequence[Row], place: str | None, group: str | None, labels: Numbered, names: Sequence[str] | None
) -> Numbered | None:
    """Number the places, and hold the groups against labels and places.

    Args:
        rows: of the table.
        place: column of the places, or None.
        group: column of the groups, or None.
        labels: of the rows.
        names: of the places, if known.

    Returns:
        Places from their column or else from the groups'; None if the table has neither.

    Raises:
        ValueError: if a group is not ``label * num_places + place``, or the places cannot be told from the groups.
    """
    if place is None and group is None:
        if names is not None:
            raise ValueError(
                "places= names the places of a column, and the table has none of places or groups; pass place= with "
                "its name, or places=None"
            )
        return None
    if group is None:
        return number_column(rows, str(place), names, "places")
    groups = [_whole(row, group) for row in rows]
    found = (
        _places_of_groups(rows, group, groups, labels, names)
        if place is None
        else number_column(rows, place, names, "places")
    )
    for row, number, label, position in zip(rows, groups, labels.numbers, found.numbers, strict=True):
        expected = group_number(label, position, len(found.names))
        if number != expected:
            raise ValueError(
                f"{row.where}: {group} must be label * {len(found.names)} + place = {expected} for label {label} and "
                f"place {position}, got {number}: the table numbers its groups otherwise (place * num_labels + label, "
                "for one). Pass group=None to have them numbered here"
            )
    return found


def _places_of_groups(
    rows: Sequence[Row], column: str, groups: list[int], labels: Numbered, names: Sequence[str] | None
) -> Numbered:
    """The places that ``label * num_places + place`` leaves, if only one number of places fits."""
    counts = range(1, max(groups) + 2) if names is None else [len(names)]
    pairs = set(zip(groups, labels.numbers, strict=True))
    fitting = [count for count in counts if all(number // count == label for number, label in pairs)]
    if len(fitting) != 1:
        fit = f"{' or '.join(map(str, fitting[:5]))} places fit" if fitting else "no number of places fits"
        raise ValueError(
            f"{column} must be label * num_places + place, and {fit} the table's groups and labels. Pass place= with "
            "the column of places and group=None to have groups numbered here, places= with the places' names, or "
            "group=None to go without"
        )
    (count,) = fitting
    found = tuple(str(number) for number in range(count)) if names is None else tuple(names)
    return Numbered([number % count for number in groups], found)


def _whole(row: Row, column: str) -> int:
    text = row.values[column].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(
            f"{row.where}: {column} must be the group's number, got {text!r:.40}; pass group=None to leave the column "
            "out"
        )
    return int(text)
