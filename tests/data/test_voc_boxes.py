"""Annotations in Pascal VOC's format are read safely, and their pixels counted from where images count them."""

from pathlib import Path

import pytest
from imagenet_releases import VOC, write_annotation

from aimwrap.data.sets.imagenet100 import LARGEST_ANNOTATION, read_annotation

STEM = "ILSVRC2012_val_00000001"


@pytest.mark.parametrize(
    ("written", "edges"),
    [
        ((1, 1, 1, 1), (0, 0, 1, 1)),  # the first pixel alone
        ((1, 1, 20, 16), (0, 0, 20, 16)),  # the complete image
        ((5, 6, 7, 9), (4, 5, 7, 9)),
        ((0, 0, 21, 17), (0, 0, 20, 16)),  # a pixel beyond the rim
    ],
)
def test_boxes_become_edges(written: tuple[int, int, int, int], edges: tuple[int, ...], tmp_path: Path) -> None:
    annotation = read_annotation(write_annotation(tmp_path, STEM, [("n01558993", written)]))
    assert annotation.boxes == (("n01558993", edges),)
    assert (annotation.stem, annotation.size) == (STEM, (16, 20))


BOMB = '<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
WHOLE = VOC.format(stem=STEM, width=20, height=16, objects="")
BROKEN = {
    "empty": ("", "not a complete XML"),
    "truncated": (WHOLE[:100], "not a complete XML"),
    "two roots": (WHOLE + WHOLE, "not a complete XML"),
    "text": ("hello", "not a complete XML"),
    "bomb": (BOMB + WHOLE.replace("val<", "&b;<"), "declares a document type.*hostile"),
    "external entity": (OUTSIDE + WHOLE.replace("val<", "&a;<"), "declares a document type"),
    "remote definition": (
        '<!DOCTYPE annotation SYSTEM "http://example.org/x.dtd">' + WHOLE,
        "declares a document type",
    ),
    "unknown entity": (WHOLE.replace("val<", "&a;<"), "not a complete XML"),
    "encoding of many bytes": ('<?xml version="1.0" encoding="shift_jis"?>' + WHOLE, "not a complete XML"),
    "unknown encoding": ('<?xml version="1.0" encoding="utf-99"?>' + WHOLE, "not a complete XML"),
    "no size": (WHOLE.replace("width", "breadth"), "must have a size/width"),
    "no name": (WHOLE.replace(STEM, " "), "must have a filename"),
    "size in words": (WHOLE.replace(">20<", ">twenty<"), "size/width must be a number of pixels"),
    "negative size": (WHOLE.replace(">20<", ">-20<"), "size/width must be a number of pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations_have_their_own_errors(name: str, tmp_path: Path) -> None:
    text, message = BROKEN[name]
    path = tmp_path / f"{STEM}.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{STEM}\.xml.* {message}|{STEM}\.xml:? {message}"):
        read_annotation(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_a_bomb_is_found_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{BOMB}<annotation>&b;</annotation>'.encode(encoding))
    with pytest.raises(ValueError, match="declares a document type"):
        read_annotation(path)


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 0), (5, 5, 4, 9), (5, 5, 9, 4), (1, 1, 22, 16), (1, 1, 20, 18), (21, 3, 21, 9), (3, 17, 9, 17)]
)
def test_boxes_outside_are_refused(box: tuple[int, int, int, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not inside the image's 20 x 16 pixels"):
        read_annotation(write_annotation(tmp_path, STEM, [("n01558993", box)]))


def test_an_object_needs_a_name_and_a_box(tmp_path: Path) -> None:
    path = write_annotation(tmp_path, STEM, [("n01558993", (1, 1, 2, 2))])
    whole = path.read_text()
    for tag, message in [("name", "must have a name"), ("xmin", "must have a bndbox/xmin"), ("bndbox", "bndbox/xmin")]:
        path.write_text(whole.replace(f"<{tag}>", f"<x{tag}>").replace(f"</{tag}>", f"</x{tag}>"))
        with pytest.raises(ValueError, match=message):
            read_annotation(path)


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text(" " * (LARGEST_ANNOTATION + 1))
    with pytest.raises(ValueError, match="it was not read"):
        read_annotation(path)


def test_deep_files_end(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text("<a>" * 100_000 + "</a>" * 100_000)
    with pytest.raises(ValueError, match="must have a size/height"):
        read_annotation(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"x\.xml is not there"):
        read_annotation(tmp_path / "x.xml")
