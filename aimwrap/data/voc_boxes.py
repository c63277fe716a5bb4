"""Boxes from an annotation file in the format of Pascal VOC, as ImageNet's validation set has them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from .release import Box

LARGEST_ANNOTATION = 1 << 20  # bytes; a picture with a hundred objects takes 30 KiB


class Annotation(NamedTuple):
    """What an annotation file says of its picture.

    Attributes:
        stem: of the picture's file name.
        size: (H, W) of the picture that the boxes were drawn on.
        boxes: class name and box of each object; left, top, right and bottom are the box's edges in pixels from the
            picture's upper left corner.
    """

    stem: str
    size: tuple[int, int]
    boxes: tuple[tuple[str, Box], ...]


def read_annotation(path: Path) -> Annotation:
    """Read one annotation file.

    The file counts pixels from 1, and the last pixel belongs to the box: a box of the single first pixel is
    ``1 1 1 1`` there and (0, 0, 1, 1) here.

    Args:
        path: of the file.

    Returns:
        What it says.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no whole annotation, a box lies outside of its picture, or it declares a document type,
            which annotations have no use for and attacks do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; unpack the archive of the annotations again")
    if path.stat().st_size > LARGEST_ANNOTATION:
        raise ValueError(
            f"{path} must be an annotation of one picture, at most {LARGEST_ANNOTATION} bytes, and has "
            f"{path.stat().st_size}; it was not read. Get it again"
        )
    root = _parse(path)
    size = (_whole(root, "size/height", path), _whole(root, "size/width", path))
    boxes = [(_text(item, "name", path), _box(item, size, path)) for item in root.findall("object")]
    return Annotation(_text(root, "filename", path).removesuffix(".JPEG"), size, tuple(boxes))


class _DocumentTypeError(Exception):
    """The file declares a document type."""


def _refuse(*_: object) -> None:
    raise _DocumentTypeError


def _parse(path: Path) -> ElementTree.Element:
    """Expat by hand, since ElementTree would follow a document type's entities first and ask later."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except _DocumentTypeError as error:
        raise ValueError(
            f"{path} declares a document type, with which a small file can fill the memory or read other files; "
            "annotations have none, so it is damaged or hostile, and was not read further. Get it again"
        ) from error
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is no whole XML file: {error}. It was cut off or damaged; get it again") from error
    return builder.close()


def _text(element: ElementTree.Element, name: str, path: Path) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"{path} must have a {name} in its {element.tag}, and has none. Get the annotations again")
    return text


def _whole(element: ElementTree.Element, name: str, path: Path) -> int:
    text = _text(element, name, path)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(
            f"{path}: {name} must be a whole number of pixels, got {text!r:.40}. Get the annotations again"
        )
    return int(text)


def _box(item: ElementTree.Element, size: tuple[int, int], path: Path) -> Box:
    sides = ("xmin", "ymin", "xmax", "ymax")
    first_x, first_y, last_x, last_y = (_whole(item, f"bndbox/{side}", path) for side in sides)
    height, width = size
    # a pixel beyond the rim is rounding, and is cut off
    left, top, right, bottom = max(first_x - 1, 0), max(first_y - 1, 0), min(last_x, width), min(last_y, height)
    if not (left < right >= last_x - 1 and top < bottom >= last_y - 1):
        raise ValueError(
            f"{path}: the box {first_x} {first_y} {last_x} {last_y} (xmin ymin xmax ymax) does not lie inside of the "
            f"picture's {width} x {height} pixels (W x H). Get the annotations again, or correct this one"
        )
    return float(left), float(top), float(right), float(bottom)
