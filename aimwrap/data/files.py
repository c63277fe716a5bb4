"""Reading from disk without trust: paths that stay inside, pictures that are whole, tables with their columns."""

from __future__ import annotations

import csv
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LARGEST_IMAGE = 100_000_000  # pixels; the largest photograph of ImageNet has 50 million
# What Pillow's decoders were seen to raise at damaged files, or may: mostly the first three.
DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, LookupError, TypeError, EOFError, struct.error, zlib.error)
# No others, since Pillow hands PostScript to another program that runs what is in it, whatever the file's name.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


def folder(path: str | os.PathLike[str], argument: str = "root") -> Path:
    """The folder that an argument names, with ``~`` for the home folder.

    Args:
        path: as given.
        argument: its name, for the message.

    Returns:
        The path.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    found = Path(path).expanduser()
    if not found.is_dir():
        what = "is a file: unpack it first, if it is an archive" if found.exists() else "does not exist"
        raise FileNotFoundError(f"{argument} must be a folder, and {found} {what}")
    return found


def inside(root: Path, relative: str, where: str) -> Path:
    """The path of a file that a table names, which must lie below the root.

    Args:
        root: the folder.
        relative: as the table has it, with ``/`` between its parts.
        where: what names it, for the message.

    Returns:
        ``root / relative``; whether it is there is not looked at.

    Raises:
        ValueError: if the path is absolute or climbs out.
    """
    parts = relative.split("/")
    if parts[0] == "" or ".." in parts or relative[1:2] == ":" or "\\" in relative or "\0" in relative:
        raise ValueError(
            f"{where}: {relative!r} must be a path below {root}, without '..' and without a leading '/' or drive; a "
            "table that points out of its folder is damaged or hostile, so nothing was opened. Get the release again"
        )
    return root / relative


def open_image(path: Path) -> Image.Image:
    """Read a picture as RGB, the whole of it, as it lies on disk.

    A camera's note in the file that the picture is to be turned (EXIF orientation) is not followed: torchvision's and
    the releases' own loaders do not follow it, and masks and boxes count the pixels as they lie on disk.

    Args:
        path: of the file.

    Returns:
        The picture, decoded.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no picture, not whole, or larger than any photograph.
    """
    picture = _decode(path)
    return picture if picture.mode == "RGB" else _flattened(picture).convert("RGB")


def open_object_mask(path: Path, any_value: bool = False) -> Tensor:
    """Read a mask of the object.

    Args:
        path: of a picture in which the object is bright; only its brightness counts if it has several channels.
        any_value: whether every value above zero means the object, as in Hard-ImageNet; else the value's share of 255
            is how much of the pixel the object covers, as CUB's segmentations are used.

    Returns:
        (1, H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no picture, not whole, or larger than any photograph, or if it has zeros and ones where
            ones would be next to nothing.
    """
    picture = _decode(path)
    if any_value:
        one_channel = picture.mode in ("1", "L", "F") or picture.mode.startswith("I")
        values = np.asarray(picture if one_channel else picture.convert("RGBA"))
        return torch.from_numpy(values > 0 if one_channel else (values[..., :3] > 0).any(-1))[None].float()
    brightness = np.asarray(_flattened(picture).convert("L"))
    if brightness.max() == 1:
        raise ValueError(
            f"{path} has no value above 1 of 255: it was saved with ones for the object, where 255 is expected. "
            "Multiply its values by 255, or get the file again"
        )
    return torch.from_numpy(brightness / np.float32(255))[None]


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture, from its header.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no picture.
    """
    with _opened(path) as picture:
        return picture.height, picture.width


def _decode(path: Path) -> Image.Image:
    with _opened(path) as picture:
        if picture.width * picture.height > LARGEST_IMAGE:
            raise ValueError(
                f"{path} says that it has {picture.width} x {picture.height} pixels, more than any photograph of "
                "these sets; it was not decoded, since it would fill the memory. Get the file again"
            )
        try:
            picture.load()
        except DAMAGED as error:
            raise ValueError(
                f"{path} is not whole: {error}. The file was cut off or damaged on its way; get it again "
                "(aimwrap data doctor FOLDER lists all that are)"
            ) from error
        return picture  # its file is closed, and its pixels are in memory


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{path} is not there; the release is incomplete or lies elsewhere (aimwrap data doctor FOLDER lists "
            "everything that is missing)"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{path} says that it has more pixels than any photograph of these sets ({error}); it was not decoded, "
            "since it would fill the memory. Get the file again"
        ) from error
    except DAMAGED as error:
        raise ValueError(
            f"{path} is no picture that Pillow can read: {error}. Get the file again (aimwrap data doctor FOLDER "
            "lists all that are damaged)"
        ) from error


def _flattened(picture: Image.Image) -> Image.Image:
    """Pictures with 16 bits or a palette with transparency, which ``convert`` alone would clip or warn about."""
    if picture.mode == "P" and "transparency" in picture.info:
        return picture.convert("RGBA")
    return _eight_bit(picture)


def _eight_bit(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "I;16", "I;16B", "I;16L"):
        return Image.fromarray((np.asarray(picture).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    return picture


class Row(NamedTuple):
    """A line of a table.

    Attributes:
        where: file and line, for messages.
        values: by column.
    """

    where: str
    values: dict[str, str]


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read a table with a header.

    Args:
        path: of the file, UTF-8.
        columns: that it must have.

    Yields:
        Its rows.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no such text, a column is missing or there twice, or a row has too few or too many values.
    """
    with _table(path) as file:
        reader = csv.DictReader(file, strict=True)
        header = list(reader.fieldnames or [])
        missing = [column for column in columns if column not in header]
        if missing:
            raise ValueError(
                f"{path} must have the columns {', '.join(columns)}, and lacks {', '.join(missing)}; it has "
                f"{', '.join(header)[:200] or 'none'}. This is another table, or was changed: get the release again"
            )
        if len(set(header)) < len(header):
            raise ValueError(f"{path} has a column twice: {', '.join(header)[:200]}. Get the release again")
        line = reader.line_num
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if None in values or None in values.values():
                raise ValueError(f"{where}: a row must have {len(header)} values, one per column; get the file again")
            if reader.line_num != line + 1 and any("\n" in value or "\r" in value for value in values.values()):
                raise ValueError(f"{where}: a stray quotation mark joins this line to others; get the file again")
            line = reader.line_num
            yield Row(where, values)


def read_space_separated(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read a table without a header, whose values have spaces between them, as CUB's.

    Args:
        path: of the file, UTF-8.
        columns: their names, in order.

    Yields:
        Its rows; empty lines are left out.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no such text, or a row has too few or too many values.
    """
    with _table(path) as file:
        for number, line in enumerate(file, start=1):
            values = line.split()
            if not values:
                continue
            where = f"{path}, line {number}"
            if len(values) != len(columns):
                raise ValueError(
                    f"{where}: a row must have {len(columns)} values ({' '.join(columns)}), got {len(values)}: "
                    f"{line.strip()[:80]!r}. Get the file again"
                )
            yield Row(where, dict(zip(columns, values, strict=True)))


@contextmanager
def _table(path: Path) -> Iterator[TextIO]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; pass the folder of the release, in which it lies, as root")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text ({error}): it is damaged, or was saved by a spreadsheet in another encoding. Get "
            "the file again, or save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise ValueError(f"{path} is no table of comma-separated values: {error}. Get the file again") from error


def integer(row: Row, column: str, allowed: range) -> int:
    """A row's number.

    Raises:
        ValueError: if it is no integer, or not among those allowed.
    """
    text = row.values[column].strip()
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
    if number is None or number not in allowed:
        among = f"{allowed.start} to {allowed.stop - 1}"
        raise ValueError(f"{row.where}: {column} must be an integer from {among}, got {text!r:.40}. Get the file again")
    return number


def decimal(row: Row, column: str) -> float:
    """A row's number that need not be whole.

    Raises:
        ValueError: if it is none, or not finite.
    """
    text = row.values[column].strip()
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{row.where}: {column} must be a number, got {text!r:.40}. Get the file again")
    return number
