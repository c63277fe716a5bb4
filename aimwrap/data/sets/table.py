"""Images that a table lists, with label and, where known, place, group, split, mask or boxes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ..io import NUMBER, FolderListing, Row, expand_path, header_of, integer, read_csv, safe_join
from ..release import SPLITS, Box, Record, Release, all_trained, split_of, written_twice
from ..sample import group_number
from . import DatasetOnDisk, Sources


def number_places(
    rows: Sequence[Row], place: str | None, group: str | None, labels: Numbered, names: Sequence[str] | None
) -> Numbered | None:
    """Number the places, and check that every group is ``label * num_places + place``."""
    if place is None and group is None:
        if names is not None:
            raise ValueError(
                "places= gives names to a column of places, and the table has neither this column nor one of groups; "
                "pass place= with the column's name, or places=None"
            )
        return None
    if group is None:
        return number_column(rows, str(place), names, "places")
    way_out = "Pass group=None to leave the column out"
    groups = [integer(_whole(row, group), group, range(10**9), way_out) for row in rows]
    if place is None:
        found = _places_of_groups(rows, group, groups, labels, names)
    else:
        found = number_column(rows, place, names, "places")
    for row, number, label, position in zip(rows, groups, labels.numbers, found.numbers, strict=True):
        expected = group_number(label, position, len(found.names))
        if number != expected:
            raise ValueError(
                f"{row.where}: {group} must be label * {len(found.names)} + place = {expected} for label {label} and "
                f"place {position}, got {number}: the table numbers its groups in another way, such as place * "
                "num_labels + label. Pass group=None to have them numbered here"
            )
    return found


def _whole(row: Row, column: str) -> Row:
    """A row with 2 for 2.0, as pandas writes a column of whole numbers that had an empty cell."""
    return row._replace(values=row.values | {column: row.values[column].strip().removesuffix(".0")})


def _fitting(groups: Sequence[int], labels: Numbered, names: Sequence[str] | None) -> Sequence[int]:
    """The numbers of places with which every group is ``label * num_places + place``."""
    pairs = set(zip(groups, labels.numbers, strict=True))
    least = max(number // (label + 1) + 1 for number, label in pairs)
    most = min((number // label for number, label in pairs if label), default=max(groups) + 1)
    counts = range(least, min(most, 10**6) + 1)  # those with number // count == label; no table by group holds more
    return counts if names is None else [len(names)] if least <= len(names) <= most else []


def _places_of_groups(
    rows: Sequence[Row], column: str, groups: list[int], labels: Numbered, names: Sequence[str] | None
) -> Numbered:
    """The places by ``label * num_places + place``, if only one number of places fits."""
    fitting = _fitting(groups, labels, names)
    from_one = names is None and min(groups) == 1 == len(_fitting([n - 1 for n in groups], labels, None))
    if len(fitting) != 1 or from_one:
        fit = f"{' or '.join(map(str, fitting[:5]))} places fit" if fitting else "no number of places fits"
        raise ValueError(
            f"{column} must be label * num_places + place, and {fit} the table's groups and labels"
            f"{', unless they count from 1: then subtract 1' * from_one}. Pass place= with the column of places and "
            "group=None to have groups numbered here, places= with the places' names, or group=None to go without"
        )
    (count,) = fitting
    found = tuple(str(number) for number in range(count)) if names is None else tuple(names)
    return Numbered([number % count for number in groups], found)


WHOLE_NUMBER = re.compile(r"([0-9]{1,9})(\.0+)?")  # pandas writes 3.0 where another row has no value
_NO_VALUE = re.compile(r"#([^a-z\s]*[!?]|\D/\D|NV|YOK)|Err:\d+|NaT|N/A|n/a|<NA>|NULL")  # of spreadsheets and pandas


class Numbered(NamedTuple):
    """A column as numbers."""

    numbers: list[int]  # of each row
    names: tuple[str, ...]  # by number


def number_column(rows: Sequence[Row], column: str, names: Sequence[str] | None, argument: str) -> Numbered:
    """Number a column's values; ``argument`` is the caller's name of ``names``, for messages.

    Values are looked up among ``names``, or are numbers below their count. Without ``names``, names are numbered in
    sorted order, and numbers must count from 0 without gaps.

    >>> number_column([Row("line 2", {"y": "dog"}), Row("line 3", {"y": "cat"})], "y", None, "classes")
    Numbered(numbers=[1, 0], names=('cat', 'dog'))
    """
    values = [row.values[column].strip() for row in rows]
    for row, value in zip(rows, values, strict=True):
        if not value or (names is None and _NO_VALUE.fullmatch(value)):
            raise ValueError(
                f"{row.where}: {column} must have a value, and is {value or 'empty'}. Complete it, or leave the row "
                f"out{f'; if it is a name, pass {argument}= with all names' if value else ''}"
            )
    if names is not None:
        return _among(rows, values, column, names, argument)
    matches = [WHOLE_NUMBER.fullmatch(row.number(column)) for row in rows]
    if not all(matches):
        _check_names(rows, values, column, argument)
        if twice := written_twice(values):
            raise ValueError(f"{column} has {twice}; write them alike, or pass {argument}= with all names")
        for name in (known := {*values}):
            parts = {part.strip() for part in re.split("[|;,]", name)}
            if len(parts) > 1 and parts <= known:
                raise ValueError(
                    f"{column} has {name!r}, which are several of its names, and an image has one. Leave such rows "
                    f"out, name another column, or pass {argument}= with all names"
                )
        return _among(rows, values, column, sorted(set(values)), argument)
    numbers = [int(match[1]) for match in matches if match is not None]
    most = max(numbers)
    lacking = sorted(set(range(min(most, len(rows)) + 1)) - set(numbers))  # rows are too few for more
    if lacking:
        raise ValueError(
            f"{rows[numbers.index(most)].where}: {column} has numbers from {min(numbers)} to {most} and "
            f"lacks {lacking[0]}; numbers must count from 0 without gaps. Pass {argument}= with a name for each number "
            f'from 0, or, where the table counts from 1, its numbers as names: {argument}=["1", "2", ...]'
        )
    return Numbered(numbers, tuple(str(number) for number in range(most + 1)))


def _among(rows: Sequence[Row], values: list[str], column: str, names: Sequence[str], argument: str) -> Numbered:
    texts = not isinstance(names, str) and all(isinstance(name, str) for name in names)
    if not texts or len(set(names)) < len(names) or not names:
        raise ValueError(f"{argument} must be different names (texts), got {names!r:.80}")
    number: dict[str | Decimal, int] = {name: position for position, name in enumerate(names)}
    amounts = [(Decimal(name), position) for position, name in enumerate(names) if NUMBER.fullmatch(name)]
    if len(dict(amounts)) == len(amounts):  # else "1" and "01" are two names
        number.update(amounts)  # pandas writes 1.0 for 1, others 01
    keys = [value if value in number else _amount(row.number(column)) for row, value in zip(rows, values, strict=True)]
    numbers = []
    by_name = len(amounts) == len(names) or any(key in number for key in keys)
    for row, value, key in zip(rows, values, keys, strict=True):
        match = WHOLE_NUMBER.fullmatch(row.number(column))
        if by_name and key in number:
            numbers.append(number[key])
        elif not by_name and match is not None and int(match[1]) < len(names):
            numbers.append(int(match[1]))
        else:
            raise ValueError(
                f"{row.where}: {column} must be one of {argument}={list(names)[:10]!r}"
                f"{f' and {len(names) - 10} more' if len(names) > 10 else ''}"
                f"{'' if by_name else f', or a number below {len(names)}'}, got {value!r:.40}"
            )
    return Numbered(numbers, tuple(names))


def _amount(text: str) -> str | Decimal:
    return Decimal(text) if NUMBER.fullmatch(text) else text


def _check_names(rows: Sequence[Row], values: list[str], column: str, argument: str) -> None:
    """Names of which some are numbers are a damaged column, or measurements."""
    numeric = next((row for row in rows if NUMBER.fullmatch(row.number(column))), None)
    if numeric is None:
        return
    row, value = next(
        (row, value) for row, value in zip(rows, values, strict=True) if not WHOLE_NUMBER.fullmatch(row.number(column))
    )
    raise ValueError(
        f"{row.where}: {column} must have integers from 0, or only names, and has {value!r:.40} here and "
        f"{numeric.values[column]!r:.40} in {numeric.where.rpartition(', ')[2]}. Fix the table, or pass {argument}= "
        "with all values as names"
    )


SPLIT_VALUES: Mapping[str, str] = {
    **dict(zip("012", SPLITS, strict=True)),  # as in Waterbirds and wilds
    **{name: str(split_of(name)) for name in ("train", "training", "val", "valid", "validation", "test", "testing")},
}
_OTHER_SPLIT = re.compile(  # and train; also in other languages
    r"dev|eval\w*|h[eo]ld[ _-]?out|query|gallery|unlabell?ed|unused|extra|tr|te|va|"
    r"(train|trein|treni|entra|entren|addestr|apprentiss|test|prueba|prova|essai|valid|convalid|训|测|验|обуч|тест|валид).*"
)
_HELD_OUT = re.compile(r"(.*[ _-])?((public|private)?test(ing)?|val|validation)([ _-].*|[0-9]*)")  # beside anything
_NAMED_SPLIT = re.compile(r"(data[ _-]?)?(splits?|subset|set|usage|partition|phase)([ _-]?(id|set|index))?")
_YES_OR_NO = {*"01tfynx", "", "0.0", "1.0", "true", "false", "yes", "no"}
_FLAG = re.compile(  # of yes and no
    r"((is|in)[\W_]?)?((train|test)(ing)?|val(idation)?|h[eo]ld.?out)([\W_]?(test|set|split|images?|mask))*\??|is.?valid"
)
BOX = ("left", "top", "right", "bottom")


def read_table(
    table: str | Path,
    root: str | Path | None = None,
    *,
    image: str = "image",
    label: str = "label",
    place: str | None = "place",
    group: str | None = "group",
    split_column: str | None = "split",
    mask: str | None = "mask",
    box: tuple[str, str, str, str] | None = BOX,
    classes: Sequence[str] | None = None,
    places: Sequence[str] | None = None,
    splits: Mapping[str, str] = SPLIT_VALUES,
    any_value_is_object: bool = False,
) -> Release:
    """Read a table of images with a header: values with commas, semicolons or tabs between them.

    The arguments from ``image`` to ``box`` are names of columns. The image's and the label's must be there. Of the
    others a column with the name that is the default may be lacking, any other name must be there, and None leaves
    the column out. Waterbirds' own table, for one::

        read_table("metadata.csv", image="img_filename", label="y")

    Labels and places are names or numbers. Numbers count from 0, and every one up to the largest must occur, unless
    ``classes`` (``places``) says how many there are. Names are numbered in sorted order, or by their position in
    ``classes``. Where ``classes`` is given, values are looked up among its names first, numbers by what they are worth
    (``1.0`` and ``01`` are 1), so a table that counts from 1 is read with ``classes=["1", "2", "3"]``.

    Args:
        table: path of the file.
        root: folder with images and masks; the table's own by default.
        image: column of the images' paths, relative to ``root``.
        label: column of the class.
        place: column of the background's kind.
        group: column of the group; it must be ``label * num_places + place`` and is checked. Without a column of
            places, they are worked out from it.
        split_column: column of the split. Without one, all is ``"train"``.
        mask: column of the masks' paths, relative to ``root``; empty where there is none.
        box: columns of a box's edges in pixels; all empty where there is none. Rows of one image that differ only
            in the box are one image with several boxes.
        classes: names of the classes, by label.
        places: names of the places, by number.
        splits: what the values in the column of the split mean, in lower case: ``"train"``, ``"val"`` or ``"test"``. By
            default such names (``Training``, ``valid``, ``test_set``) and the codes 0, 1, 2. CUB has 1 for train:
            ``splits={"1": "train", "0": "test"}``.
        any_value_is_object: whether every value of a mask above zero means the object; else the value's share of 255
            is how much of the pixel the object covers.

    Returns:
        All rows' images, in the table's order.

    Raises:
        FileNotFoundError: if the table is not there.
        ValueError: if a column is missing or a value is not as above.
    """
    table = expand_path(table)
    root = table.parent if root is None else expand_path(root)
    rows = list(read_csv(table, [image, label], "Name its columns with image= and label="))
    if not rows:
        raise ValueError(f"{table} has no rows below its header; pass a table that lists images")
    header = tuple(rows[0].values)
    place, group = _column(table, rows, place, "place"), _column(table, rows, group, "group")
    mask = _column(table, rows, mask, "mask")
    split = _column(table, rows, split_column, "split", image, label, place, group)
    flags = {row.values[split].strip().removesuffix(".0") for row in rows} if split else {""}
    # The numbers of SPLIT_VALUES are of the three splits.
    if split and _FLAG.fullmatch(split.lower()) and flags <= {*"01"} and splits is SPLIT_VALUES:
        raise ValueError(
            f"{split} of {table} says yes (1) or no (0); pass splits= with what that means, such as "
            'splits={"1": "train", "0": "test"}, or another column'
        )
    parts = (re.sub("(^|/)[^/ _-]*$", "", row.values[image]) for row in rows)  # without a name such as test.png
    words = (re.split("[/ _.-]+", each) for each in parts)
    named = {next(filter(None, map(split_of, each)), "") for each in words}
    if split is None and split_column and len(named) > 1 and "" not in named:
        raise ValueError(
            f"{table} has no column of splits, and images or folders named after {', '.join(sorted(named))}: write a "
            "column split, or pass split_column=None to take all for training"
        )
    box = _box_columns(table, header, box)
    labels = number_column(rows, label, classes, "classes")
    numbered_places = number_places(rows, place, group, labels, places)
    records = [
        Record(
            row.values[image].strip(),
            _below(root, row, image),
            labels.numbers[position],
            "train" if split is None else _split(row, split, splits),
            None if numbered_places is None else numbered_places.numbers[position],
            None if mask is None or not row.values[mask].strip() else _below(root, row, mask),
            None if box is None else _box(row, box),
        )
        for position, row in enumerate(rows)
    ]
    names = () if numbered_places is None else numbered_places.names
    notes = tuple(_notes(records, rows, split))
    found = Release(table.stem, root, tuple(_joined(records, rows)), labels.names, names, any_value_is_object, notes)
    return all_trained(found)


def _column(table: Path, rows: Sequence[Row], column: str | None, default: str, *used: str | None) -> str | None:
    """The column's name if it is to be read; any but those ``used`` may be of splits."""
    header = rows[0].values.keys()
    if column is None or column in header:
        return column
    argument, alike = default, [name for name in header if name.casefold() == default]
    if default == "split":
        argument = "split_column"
        for name in [name for name in header if name not in used]:
            found = Counter(row.values[name].strip().lower() for row in rows)
            named = {value: split for value in found if (split := split_of(value) or _OTHER_SPLIT.fullmatch(value))}
            share = sum(found[each] for each in named) / len(rows)
            apart = (share >= 0.5 and {"train"} < {*named.values()}) or any(map(_HELD_OUT.fullmatch, found))
            either = len(found) == 2 and "train" in named.values()
            flag = _FLAG.fullmatch(name.lower()) and found.keys() <= _YES_OR_NO
            number = _NAMED_SPLIT.fullmatch(name.lower()) and found.keys() <= {*"012"}
            if re.search(r"(^|k|cv|[\W_])folds?(?![a-z])", name.lower()):
                flag = all(re.fullmatch(r"(fold)?[ _-]?\d{0,2}(\.0)?", value) for value in found)
            if len(found) > 1 and ((apart and len(found) <= 6) or either or flag or number or len(named) == len(found)):
                alike.append(f"{name}{' and splits= with what its values mean' if flag else ''}")
    if column == default and not alike:
        return None
    raise ValueError(
        f"{default}={column!r} must be a column of {table}, which has {', '.join(header)}; pass {argument}= with "
        f"{' or '.join(dict.fromkeys(alike)) or 'one of these'}, or None to go without"
    )


def _box_columns(
    table: Path, header: Sequence[str], box: tuple[str, str, str, str] | None
) -> tuple[str, str, str, str] | None:
    if box is None:
        return None
    if len(box) != 4 or isinstance(box, str):
        raise ValueError(f"box must be the columns of left, top, right and bottom, got {box!r:.80}")
    lacking = [column for column in box if column not in header]
    if re.search(r"(?i)((^|[^a-z])[wh]|width|height)$", box[2]) and not lacking:
        raise ValueError(
            f"box={box!r} must be the columns of left, top, right and bottom, and the last two are named as width and "
            "height: write right = x + width and bottom = y + height into the table first, or pass None to go without"
        )
    if not lacking:
        return box
    if box == BOX and not {*box} & {name.casefold() for name in header}:
        return None
    raise ValueError(
        f"box={box!r} must be four columns of {table}, and {', '.join(lacking)} is not among {', '.join(header)}; pass "
        "the columns of left, top, right and bottom, or None to go without"
    )


def _below(root: Path, row: Row, column: str) -> Path:
    try:
        return safe_join(root, row.values[column].strip(), f"{row.where}, {column}")
    except ValueError as error:
        raise ValueError(
            f"{error}, or write the table's paths relative to root=, with '/' between their parts"
        ) from error


def _split(row: Row, column: str, splits: Mapping[str, str]) -> str:
    value = row.values[column].strip().lower().removesuffix(".0")
    found = splits.get(value) or (split_of(value) if splits is SPLIT_VALUES else None)
    if found not in SPLITS:
        raise ValueError(
            f"{row.where}: {column} must be one of {', '.join(splits)}, which mean train, val or test, got "
            f"{value!r:.40}; pass splits= with what the table's values mean"
        )
    return found


def _box(row: Row, columns: Sequence[str]) -> tuple[Box, ...] | None:
    texts = [row.number(column) for column in columns]
    if not any(texts):
        return None
    behind = [row.values[column].strip().partition(".")[2] for column in columns]  # of 1.234 next to 800: of a thousand
    thousands = row.decimal_comma and not all(behind) and any(len(digits) == 3 for digits in behind)
    left, top, right, bottom = (float(text) if NUMBER.fullmatch(text) else math.nan for text in texts)
    if not (all(map(math.isfinite, (left, top, right, bottom))) and left < right and top < bottom) or thousands:
        raise ValueError(
            f"{row.where}: {', '.join(columns)} must be the edges of a box in pixels, left < right and top < bottom, "
            f"or all empty, got {', '.join(repr(text) for text in texts):.80}. Where a table has x, y, width and "
            "height, right is x + width and bottom is y + height: write these first, and thousands without a point"
        )
    edges = (left, top, right, bottom)
    if all(-0.1 < edge < 1.1 for edge in edges) and any(edge % 1 for edge in edges):  # some are just outside
        raise ValueError(
            f"{row.where}: {', '.join(columns)} are from 0 to 1, as shares of the image, and must be pixels: multiply "
            "left and right by the image's width, and top and bottom by its height, pass box=None to go without, or "
            "empty the cells of a single box that is below a pixel"
        )
    return (edges,)


def _joined(records: list[Record], rows: Sequence[Row]) -> list[Record]:
    """Rows of one image that differ only in their box as one record."""
    joined: dict[Path, Record] = {}
    for record, row in zip(records, rows, strict=True):
        earlier = joined.setdefault(record.path, record)
        if earlier is record:
            continue
        if earlier.boxes is None or record.boxes is None or earlier._replace(boxes=record.boxes) != record:
            raise ValueError(
                f"{row.where}: {record.id} is there a second time, and not for another box of it; an image in two "
                "splits or classes makes results wrong. Remove one of the rows"
            )
        joined[record.path] = earlier._replace(boxes=earlier.boxes + record.boxes)
    return list(joined.values())


def _notes(records: list[Record], rows: Sequence[Row], split: str | None) -> list[str]:
    if split is None:
        return ["The table is read with no column of splits, so all its images are of the split train."]
    values = Counter((row.values[split].strip(), record.split) for row, record in zip(rows, records, strict=True))
    read = ", ".join(f"{value!r} as {name} ({count} rows)" for (value, name), count in sorted(values.items()))
    return [f"The column {split} was read so: {read}."]


class LabelledTable(DatasetOnDisk):
    """Images that a table lists: :func:`read_table` as a data set."""

    read = staticmethod(read_table)
    title = "images listed in a table"
    generic = True
    empty_masks = "warning"

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """The only table with a column of images and one of labels."""
        tables = _tables(folder, sources)
        return f"{tables[0].name} has the columns {' and '.join(_needed(sources))}" if len(tables) == 1 else None

    @classmethod
    def path(cls, root: Path, sources: Sources) -> Path:
        """The table, which the reader takes instead of its folder."""
        return (_tables(root, sources) or [root / "metadata.csv"])[0]

    @classmethod
    def arguments(cls, root: Path, sources: Sources) -> dict[str, Any]:
        """With the columns that the user named."""
        return {**sources.columns, **super().arguments(root, sources._replace(masks=None))}


def _needed(sources: Sources) -> list[str]:
    return [sources.columns.get(name, name) for name in ("image", "label")]


def _tables(folder: Path, sources: Sources) -> list[Path]:
    if sources.table is not None:
        return [sources.table]
    names = sorted(name for name in FolderListing().files(folder) if name.lower().endswith((".csv", ".tsv")))
    return [folder / name for name in names if set(_needed(sources)) <= {*header_of(folder / name)[1]}]
