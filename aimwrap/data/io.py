"""Reading from disk without trust: paths below their folder, complete images, tables with their columns."""

from __future__ import annotations

import csv
import math
import os
import re
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import get_size, to_pil_image

from .. import _files
from .. import preprocessing as images
from ..preprocessing import OR_WINDOW, Preprocessing, eight_bit, loses_bits, lost_in, upright

LONGEST_LINE = 1 << 20
LARGEST_FILE = 1 << 30  # bytes of an image; some decoders read all of it first
LARGEST_IMAGE = 100_000_000  # pixels; the largest photograph of ImageNet has 50 million
_FAINT = 26  # no soft mask of an object is darker than this everywhere, of 255, and no grey is more coloured
REMEDY = "get it again (aimwrap data doctor FOLDER lists all such files); else save it as RGB or grey, with 8 bits"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how such files begin; the last two are of more than 4 GB
NARROWEST = 100  # times the shorter side, for the longer one; evaluation enlarges the shorter one to the model's size
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[nN]a[nN]")
# What Pillow's decoders were seen to raise at damaged files, or may: mostly the first three.
DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, LookupError, TypeError, EOFError, struct.error, zlib.error)
# No others, since Pillow hands PostScript to another program that runs what is in it, whatever the file's name.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", *(["AVIF"] if find_spec("PIL.AvifImagePlugin") else []))
OF_TOOLS = ("__macosx", "@eadir", "@recycle", "@tmp", "#recycle", "$recycle.bin", "lost+found", "thumbnails")  # folders
SUFFIXES = (*IMG_EXTENSIONS, ".jfif", ".jpe", ".gif", ".avif", ".apng", ".dib", ".pbm", ".pnm")


def expand_path(path: str | os.PathLike[str]) -> Path:
    """A path as users write it: ``~`` is the home folder, and ``.`` and ``..``, which have no name, are replaced."""
    given = Path(path).expanduser()
    if ".." not in given.parts:
        return given if given.name else given.absolute()
    end = len(given.parts) - given.parts[::-1].index("..")  # what follows keeps its names, links or not
    return Path(*given.parts[:end]).resolve().joinpath(*given.parts[end:])


def require_folder(path: str | os.PathLike[str], argument: str = "root") -> Path:
    """The folder that an argument names, with ``~`` for the home folder; FileNotFoundError if it is not there."""
    found = expand_path(path)
    if not found.is_dir():
        what = "is a file: unpack it first, if it is an archive" if found.exists() else "does not exist"
        raise FileNotFoundError(f"{argument} must be a folder, and {found} {what}")
    return found


def safe_join(root: Path, relative: str, where: str) -> Path:
    """The path of a file that a table names; ValueError if it is not below the root."""
    parts = relative.split("/")
    if parts[0] == "" or ".." in parts or relative[1:2] == ":" or "\\" in relative or "\0" in relative:
        raise ValueError(
            f"{where}: {relative!r} must be a path below {root}, without '..' and without a leading '/' or drive; a "
            "table that points out of its folder is damaged or hostile, so nothing was opened. Get the release again"
        )
    return root / relative


def open_image(path: Path, turned: bool = True) -> Image.Image:
    """Read an image as RGB, upright as viewers show it unless told otherwise; ValueError if it is not complete."""
    picture = decoded(path, turned)
    return picture if picture.mode == "RGB" else _converted(picture, "RGB", path)


def read_image(path: Path, turned: bool = True, prepared: Preprocessing | None = None) -> Any:
    """Read an image as a model takes it: a picture, RGB or for one channel grey; through a window, a float tensor.

    With a window, TIFF is read by tifffile (extra ``tiff``; else an ImportError). ValueError if the file is not
    complete, or cannot be read so.
    """
    channels = 3 if prepared is None else len(prepared.mean)
    if prepared is not None and prepared.window is not None:
        tiff = is_tiff(path)
        values = _of_tiff(path, channels) if tiff else images.own_values(decoded(path, turned, exact=True), channels)
        return images.windowed(values, prepared, path)
    if channels not in (1, 3):
        raise ValueError(f"{path} is to be read in {channels} channels; for that, {OR_WINDOW.removeprefix('or ')}")
    return open_image(path, turned) if channels == 3 else _converted(decoded(path, turned), "L", path)


def as_picture(image: Any) -> Image.Image:
    """What :func:`read_image` read, or a crop of it, to look at: RGB; of other than 3 channels, their mean as grey."""
    if isinstance(image, Tensor):
        shown = image if len(image) == 3 else image.mean(0, keepdim=True)
        image = to_pil_image((255 * shown.clamp(0, 1)).round().byte())
    picture: Image.Image = image.convert("RGB")
    return picture


def is_tiff(path: Path) -> bool:
    """Whether a file begins as TIFF."""
    with suppress(OSError):
        if os.path.isfile(path) and os.path.getsize(path) <= LARGEST_FILE:
            with path.open("rb") as file:
                return file.read(4) in TIFF
    return False


def _of_tiff(path: Path, channels: int) -> np.ndarray:
    """The values of a TIFF file, (H, W) or (H, W, C): one image, whose channels have a name, or are its only pages."""
    try:
        from tifffile import TiffFile
    except ModuleNotFoundError as error:
        raise ImportError("TIFF is read through a window by tifffile: pip install 'aimwrap[tiff]'") from error
    try:
        with TiffFile(path, _multifile=False) as file:  # opens no other file
            page, (series, *others) = file.pages.first, file.series
            kept = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if n > 1 or axis in "YX"]
            axes, shape = "".join(axis for axis, _ in kept), [n for _, n in kept]
            unnamed = axes in ("QYX", "IYX") and shape[0] == channels  # pages of which nothing is said
            wrong = {
                f"{len(others) + 1} images of different sizes": others,
                f"the axes {axes} of {shape} for a model of {channels} channels": not unnamed
                and axes not in ("YX", "YXS", "YXC", "SYX", "CYX"),
                f"colours of the kind {page.photometric!r}": page.photometric not in (1, 2),
                "parts that are not in this file": any(each is None for each in series.pages),
                "a note that turns it": 274 in page.tags and page.tags[274].value != 1,
                f"{shape} values, which would fill the memory": math.prod(shape) > LARGEST_IMAGE,
            }
            if what := next((what for what, is_so in wrong.items() if is_so), ""):
                raise ValueError(f"it has {what}")
            values: np.ndarray = series.asarray().reshape(shape)
    except Exception as error:  # its decoders raise what they like
        raise ValueError(
            f"{path} cannot be read as one image: {error}. Save each slice, frame or position as a file of its own, "
            "upright, with rows, columns and perhaps channels (axes YX, CYX or YXS), and 0 for black; if it was cut "
            "off, get it again"
        ) from error
    return values if axes[:2] == "YX" else np.moveaxis(values, 0, -1)


def fitted(
    image: Any, path: Path, turned: bool, size: Sequence[int] | None, prepared: Preprocessing | None = None
) -> Any:
    """What was read, or read the other way where only then it has the (H, W) of its mask or boxes."""
    own = tuple(get_size(image))
    return read_image(path, not turned, prepared) if size == own[::-1] != own else image


def open_object_mask(path: Path, any_value: bool = False) -> Tensor:
    """Read a mask of the object.

    Args:
        path: of an image in which the object is bright, or the only colour on black, or all that is opaque in one tone.
        any_value: whether every value above zero means the object, as in Hard-ImageNet; else the value's share of 255
            is how much of the pixel the object covers, as CUB's segmentations are used.

    Returns:
        (1, H, W) float32 in [0, 1].
    """
    picture = decoded(path)
    lossy = picture.format in ("JPEG", "MPO", "WEBP", "AVIF")  # whose zeros may be small values
    grey = picture.mode[0] in "1FI" or (picture.mode == "L" and "transparency" not in picture.info)
    if any_value and grey:
        return torch.from_numpy(np.asarray(picture) > 0)[None].float()
    brightness, wrong = np.asarray(_converted(picture, "L", path)), ""
    if not grey:
        picture = _converted(picture, "RGBA", path)
        *colours, opacity = map(np.asarray, picture.split())
        picture.close()  # of a hundred million pixels, each copy counts
        most, visible = reduce(np.maximum, colours), opacity > 127
        lit, coloured = most >= (1 if any_value else _FAINT), (most - reduce(np.minimum, colours) > _FAINT).any()
        brightness = lit * np.uint8(255) if any_value or coloured else brightness  # the only colour on black
        shown, hidden = brightness[visible], brightness[~visible]
        if coloured and not any_value and any(np.ptp(channel[lit]) for channel in colours):
            wrong = "several colours"
        elif shown.size and hidden.size and shown.min() == shown.max() >= hidden.max():  # one tone
            brightness = (opacity > 0) * np.uint8(255) if any_value else opacity
        elif shown.size and hidden.max(initial=0) > 127:
            wrong = "something bright where it is transparent"
    counts = np.bincount(brightness.ravel(), minlength=256)
    levels = _FAINT + counts[_FAINT : 256 - _FAINT].nonzero()[0]
    shares = (abs(levels - np.rint(levels * n / 255) * 255 / n).max() < 1 for n in range(2, 11))  # as of n annotators
    several, pixels, white = len(levels) > 1, counts[levels].sum(), counts[256 - _FAINT :].any()
    grey = several and 2 * pixels > brightness.size
    grey |= not white and pixels > 50 * len(levels) and (several or levels[0] < 128)  # soft edges have more values
    if grey and brightness.size > 1000 and len(levels) <= 12 and not (any_value or lossy or any(shares)):
        wrong = f"the values {', '.join(map(str, levels))}, and too few or none that are white"
    below = brightness if lossy else brightness[brightness < 255]
    if 0 < below.max(initial=0) < _FAINT and not any_value:
        wrong = f"no value above {below.max()} of 255: it was saved with 1, or with class numbers (and 255 as a border)"
    if wrong:
        raise ValueError(
            f"{path} has {wrong}. Write 255 for the object and 0 for all else: of class numbers, as Pascal VOC's, "
            "255 * (np.asarray(image) == number).astype('uint8'), and of a cut-out image.getchannel('A')"
        )
    return torch.from_numpy(brightness / np.float32(255))[None]


def size_and_orientation(path: Path, late: bool = False) -> tuple[tuple[int, int], int]:
    """(H, W) of an image as shown, and its EXIF orientation, 0 (as 1) to 8: by its header, ``late`` by all of it."""
    with _opened(path) as picture:
        orientation, shown = 1, (picture.height, picture.width)
        with suppress(*DAMAGED):  # damaged EXIF data do not change the pixels
            exif = picture.getexif() if late else Image.Image.getexif(picture)
            orientation = min(int(exif.get(0x0112, 1)), 9) % 9  # 9 or more turn nothing
        # Pillow turns TIFF by itself
        return shown[::-1] if picture.format != "TIFF" and orientation > 4 else shown, orientation


def decoded(path: Path, turned: bool = True, exact: bool = False) -> Image.Image:
    """An image in its file's own mode, turned upright; ValueError if it is not complete, or more than can be read.

    Where it is to be ``exact``, also if its values would be scaled.
    """
    with _opened(path) as picture:
        if picture.width * picture.height > LARGEST_IMAGE or max(picture.size) > NARROWEST * min(picture.size):
            raise ValueError(
                f"{path} has, by its header, {picture.width} x {picture.height} pixels, more than any photograph of "
                f"these sets, or a side more than {NARROWEST} times the other; it was not decoded, since it would fill "
                "the memory. Get the file again"
            )
        if exact and (scaled := images.scaled_in(picture, path)):
            raise ValueError(scaled)
        lowered = loses_bits(picture)
        try:
            picture.load()
        except DAMAGED as error:
            raise ValueError(
                f"{path} is not complete, or of a kind that Pillow cannot read: {error}. If it was cut off, {REMEDY}"
            ) from error
        if lowered:
            eight_bit(picture, lowered, path)
        result: Image.Image = upright(picture) if turned else picture
        result.format = picture.format  # which copies lack
        return result  # its file is closed, and its pixels are in memory


def _opened(path: Path) -> Image.Image:
    there = os.path.exists(path) and not os.path.isdir(path)
    if there and not (os.path.isfile(path) and os.path.getsize(path) <= LARGEST_FILE):
        raise ValueError(
            f"{path} must be a file, and is a pipe, a socket or a device, or has over a gigabyte; it was not opened, "
            "since reading it might never end. Get the file again"
        )
    try:
        picture = Image.open(path, formats=FORMATS)
        lost = lost_in(picture, path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{path} is not there; the release is incomplete or elsewhere (aimwrap data doctor FOLDER lists "
            "everything that is missing)"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{path} has, by its header, more pixels than any photograph of these sets ({error}); it was not decoded, "
            "since it would fill the memory. Get the file again"
        ) from error
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"{path} cannot be opened: {error.strerror}; fix its permissions, or the cause") from error
        raise ValueError(f"{path} is not an image that Pillow can read: {error}. If it is damaged, {REMEDY}") from error
    if lost:
        picture.close()
        raise ValueError(lost)
    return picture


def _converted(picture: Image.Image, mode: str, path: Path) -> Image.Image:
    picture = eight_bit(picture, False, path)  # else `convert` would clip 16 bits
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # else it would warn
    try:
        return picture.convert(mode)
    except ValueError as error:
        raise ValueError(
            f"{path} has colours that Pillow cannot read here: {error}. Save it as RGB or grey, with 8 bits"
        ) from error


class Row(NamedTuple):
    """A line of a table."""

    where: str  # file and line, for messages
    values: dict[str, str]  # by column
    decimal_comma: bool = False

    def number(self, column: str) -> str:
        """A value as numbers are written here; one that is no number, as it is."""
        text = self.values[column].strip()
        comma = self.decimal_comma and re.fullmatch(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+", text)  # as 1.234,5
        return text.replace(".", "").replace(",", ".") if comma else text


def read_csv(
    path: Path, columns: Sequence[str], way_out: str = "This is another table, or was changed: get the release again"
) -> Iterator[Row]:
    """Read a table with a header; ValueError if a column is missing, or a row has too few or too many values."""
    with _table(path) as file:
        separator, _ = header_of(path)
        reader = csv.DictReader(file, strict=True, delimiter=separator, skipinitialspace=True)
        reader.fieldnames = header = [name.strip() for name in reader.fieldnames or []]
        missing = [column for column in columns if column not in header]
        if missing:
            raise ValueError(
                f"{path} must have the columns {', '.join(columns)}, but lacks {', '.join(missing)}; it has "
                f"{', '.join(header)[:200] or 'none'}. {way_out}"
            )
        if any(name and header.count(name) > 1 for name in header):  # spreadsheets add columns without a name
            raise ValueError(f"{path} has a column twice: {', '.join(header)[:200]}. Rename or remove one")
        line = reader.line_num
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if None in values or None in values.values():
                raise ValueError(f"{where}: a row must have {len(header)} values, one per column; get the file again")
            if reader.line_num != line + 1 and any("\n" in value or "\r" in value for value in values.values()):
                raise ValueError(f"{where}: a stray quotation mark joins this line to others; get the file again")
            line = reader.line_num
            if any(values.values()):  # else a spreadsheet's empty row
                yield Row(where, values, separator == ";")


def read_space_separated(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read a table without a header, whose values have spaces between them, as CUB's."""
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


_SAYS_SEPARATOR = re.compile(r"sep=.\r?\n")  # a first line for Excel; which separator it is shows in the header


@contextmanager
def _table(path: Path) -> Iterator[Iterator[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; pass the folder of the data set, which contains it, as root")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            start = file.tell()
            if not _SAYS_SEPARATOR.match(file.readline(20)):
                file.seek(start)
            yield _lines(file)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error}): it is damaged, or was saved by a spreadsheet in another encoding. "
            "Get the file again, or save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise ValueError(f"{path} is not a table of comma-separated values: {error}. Get the file again") from error


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line has over {LONGEST_LINE} characters")
        yield line


def read_small(path: Path, most: int) -> bytes:
    """The content of a file; a ValueError, without its name, if it has more bytes than any of its kind."""
    if path.stat().st_size > most:
        raise ValueError(f"it has {path.stat().st_size} bytes, and must have at most {most} bytes; it was not read")
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return _files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}. Get the file again") from error


def integer(row: Row, column: str, allowed: range, way_out: str = "Get the file again") -> int:
    """A row's number; ValueError if it is not an integer that is allowed."""
    text = row.values[column].strip()
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
    if number is None or number not in allowed:
        among = f"{allowed.start} to {allowed.stop - 1}"
        raise ValueError(f"{row.where}: {column} must be an integer from {among}, got {text!r:.40}. {way_out}")
    return number


def parse_float(row: Row, column: str) -> float:
    """A row's number, with or without a fraction; ValueError if it is not finite."""
    text = row.number(column)
    number = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{row.where}: {column} must be a number, got {text!r:.40}. Get the file again")
    return number


class Listing(NamedTuple):
    """Sorted names in a folder."""

    folders: list[str]
    pictures: list[str]  # files with the suffix of an image, in any case
    unread: list[str]  # files of other kinds of images, or without a suffix


def list_folder(folder: Path, meaning: str = "the folder") -> Listing:
    """List a folder; hidden entries, folders that tools make, and files that are not images are left out.

    Links count as their target; a link to nothing counts as a file, so that opening it reports the missing file.
    """
    folders, pictures, unread = [], [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _HIDDEN.match(entry.name) or entry.name.lower() in OF_TOOLS:
                    continue
                if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():  # a link to itself is none
                    folders.append(entry.name)
                elif entry.name.lower().endswith(SUFFIXES):
                    pictures.append(entry.name)
                elif _is_image(Path(entry)):
                    unread.append(entry.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        nearest = next((parent for parent in folder.absolute().parents if parent.is_dir()), Path("/"))
        raise FileNotFoundError(
            f"{meaning} must be a folder, and {folder} is not one; look into {nearest}, and pass the folder where the "
            "release was unpacked"
        ) from error
    return Listing(sorted(folders), sorted(pictures), sorted(unread))


def pictures_below(folder: Path, unread: list[Path] | None = None) -> list[str]:
    """List a folder with all below it, other kinds of images into ``unread``; ValueError if a link leads back."""
    found: list[str] = []
    others = [] if unread is None else unread
    waiting: list[tuple[str, tuple[Path, ...]]] = [("", (folder.resolve(),))]
    while waiting:
        prefix, above = waiting.pop()  # above: where the folders really are that led here, itself the last
        listing = list_folder(folder / prefix)
        found += [prefix + name for name in listing.pictures]
        others += [folder / prefix / name for name in listing.unread]
        for name in listing.folders:
            below = folder / prefix / name
            really = below.resolve()
            if any(each.is_relative_to(really) for each in above):
                raise ValueError(
                    f"{below} is a link that leads back to a folder above, so listing would never end; remove it"
                )
            waiting.append((f"{prefix}{name}/", (*above, really)))
    return sorted(found, key=lambda name: name.rpartition("/")[::2])  # by folder, as torchvision's ImageFolder


def left_out(unread: Sequence[Path], root: Path) -> list[str]:
    """A note on images that are not read, if there are any."""
    kinds = ", ".join(sorted({path.suffix.lower() or "no suffix" for path in unread}))
    first = [path.relative_to(root).as_posix() for path in unread[:1]]
    return [f"{len(unread)} images of kinds that are not read ({kinds}) are left out, such as {one}." for one in first]


_HIDDEN = re.compile(r"\.(?!.+\.icloud$)")  # iCloud writes .a.jpg.icloud for a.jpg that is not on this machine
IMAGE_NAME = re.compile(
    r"(?i)\.((jp[eg2xf]|jfif|a?png|bmp|dib|gif|webp|tiff?|p[bgnp]m|avif|hei[cf]|jxl|dng|cr2|nef)|(mpo|tga|ps[bd]|svgz?|ico|"
    r"pjpe?g|pjp|jif|jfi|j2k|jxr|p[af]m|pcx|exr|qoi|xcf|hif|arw|cr[3w]|nrw|sr[2fw]|orf|rw2|raf|raw|pef|3fr|iiq|x3f|"
    r"dcm|dicom|nii|svs|ndpi|czi|dds|djvu|fits?|lsm|nd2|lif|oir|vsi|scn|mrxs|j2c|jls|wdp|hdp|mrw|kdc|dcr|erf|rwl|gpr|"
    r"nrrd|mha)(?![a-z]))"
)


class FolderListing:
    """Files of folders. Each folder is read once, a hundred times quicker than one file at a time over a network."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, int]] = {}

    def files(self, folder: Path) -> dict[str, int]:
        """Names and sizes in bytes of a folder's files; none if it cannot be read."""
        if folder not in self._folders:
            found = self._folders[folder] = {}
            with suppress(OSError), os.scandir(folder) as entries:
                for each in entries:
                    with suppress(OSError):  # a link in a circle, one without permission, or a file that has gone
                        if each.is_file():
                            found[each.name] = each.stat().st_size
        return self._folders[folder]

    def has(self, path: Path) -> bool:
        """Whether a file is there, by exactly this name, letter case included."""
        return path.name in self.files(path.parent)


def subfolders(folder: Path) -> list[Path]:
    """The folders of :func:`list_folder` with their paths; none if it cannot be read."""
    with suppress(OSError):
        return [folder / name for name in list_folder(folder).folders]
    return []


def folders_below(root: Path, leave_out: Collection[str] = ()) -> Iterator[Path]:
    """A folder and all below it; each real folder once, even if links lead to it, and by its own name if it can."""
    waiting, seen = [root], {*map(os.path.realpath, root.absolute().parents)}  # no link leads to a folder above
    links: list[Path] = []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        yield folder
        for child in reversed(subfolders(folder)):
            if child.name not in leave_out:
                (links if child.is_symlink() else waiting).append(child)


def pictures(listing: FolderListing, folders: Iterable[Path]) -> list[Path]:
    """Files named as images, as a.jpg.part or kinds that are not read, or that start as one; sorted, no hidden ones."""
    return [
        folder / name
        for folder in folders
        for name in sorted(listing.files(folder))
        if not _HIDDEN.match(name) and _is_image(folder / name)
    ]


def _is_image(path: Path) -> bool:
    named = bool(IMAGE_NAME.search(path.name))
    if named or re.search(r"(?i)\.\w*[a-z]\w*\W*$", path.name) or not path.is_file():  # a pipe might never end
        return named
    start = rb"(?s)\xff\xd8\xff|\x89PNG|GIF8|II\*\0|MM\0\*|RIFF....WEBP|....ftyp|.{128}DICM"
    with suppress(OSError), path.open("rb") as file:
        return bool(re.match(start, file.read(132)))
    return False


def header_of(path: Path) -> tuple[str, list[str]]:
    """What separates a table's values, and its columns; none if it cannot be read."""
    with suppress(OSError, csv.Error):
        if path.is_file():  # else it may be a pipe, from which reading might never end
            with path.open("rb") as file:
                line = file.readline(1 << 14).decode("utf-8-sig", "replace")
                if _SAYS_SEPARATOR.match(line):
                    line = file.readline(1 << 14).decode("utf-8", "replace")
            line = line.strip().partition("\r")[0]
            separator = max(",;\t", key=re.sub('"[^"]*"', "", line).count)
            names = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
            return separator, [name.strip() for name in names]
    return ",", []
