"""Reports of tables as spreadsheets write them, and of tables that hang."""

import os
from pathlib import Path

import pytest
from PIL import Image

from aimwrap.data import examine, read_table
from aimwrap.data.io import header_of
from aimwrap.data.registry import read_by_name

ROWS = [["image", "label", "left", "top", "right", "bottom"]]
ROWS += [[f"{number}.png", "ab"[number % 2], "1,5", "0,5", "8", "8"] for number in range(4)]


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("name", "separator"), [("t.csv", ";"), ("t.csv", "\t"), ("t.tsv", "\t"), ("t.csv", ",")])
def test_what_spreadsheets_write_is_read(
    tmp_path: Path, name: str, separator: str, end: str, quote: str, start: str
) -> None:
    """Tables with semicolons or tabs: "lacks image, label; it has image;label"."""
    point = "," if separator == ";" else "."
    text = end.join(separator.join(f"{quote}{cell.replace(',', point)}{quote}" for cell in row) for row in ROWS)
    (tmp_path / name).write_bytes((start + text + end).encode())
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    release = read_table(tmp_path / name)
    assert [record.label for record in release.records] == [0, 1, 0, 1]
    assert release.records[0].boxes == ((1.5, 0.5, 8, 8),)
    assert header_of(tmp_path / name) == (separator, ROWS[0])
    assert examine(tmp_path).kind == "table" and examine(tmp_path / name).healthy


def test_a_comma_is_a_point_only_where_it_separates_nothing(tmp_path: Path) -> None:
    """In a table with commas, "1,234" may be more than a thousand: nothing is guessed."""
    (tmp_path / "t.csv").write_text('image,label,left,top,right,bottom\na.png,a,"1,234",0,2000,8\nb.png,b,,,,\n')
    with pytest.raises(ValueError, match=r"line 2: left, top, right, bottom must be .*'1,234'"):
        read_table(tmp_path / "t.csv")


def test_separators_in_quotes_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"my, long, name";"label"\na.png;a\nb,c.png;b\n')
    release = read_table(tmp_path / "t.csv", image="my, long, name")
    assert [record.id for record in release.records] == ["a.png", "b,c.png"]


@pytest.mark.parametrize("groups", [(0, 999_999_999), (999_999_998, 999_999_999), (0, 0)])
def test_huge_group_numbers_are_answered_at_once(tmp_path: Path, groups: tuple[int, int]) -> None:
    """One group number of 999,999,999 hung for a quarter of an hour."""
    (tmp_path / "t.csv").write_text(f"image,label,group\na.png,0,{groups[0]}\nb.png,1,{groups[1]}\n")
    with pytest.raises(ValueError, match="no number of places fits"):
        read_table(tmp_path / "t.csv")


def test_more_groups_than_tables_can_have_are_refused(tmp_path: Path) -> None:
    """As where the wrong columns are named: a table by group is linear in their number."""
    rows = "".join(f"{number}.png,a{number},b{number}\n" for number in range(1001))
    (tmp_path / "t.csv").write_text("image,label,place\n" + rows)
    with pytest.raises(ValueError, match="over a million pairs of label and place"):
        read_by_name("table", str(tmp_path / "t.csv"), "train", {})
    assert "over a million pairs" in examine(tmp_path / "t.csv").faults[0].summary


def test_a_file_name_that_is_not_utf_8_is_named_by_training_and_doctor(tmp_path: Path) -> None:
    """ "Healthy" for the doctor, and "'utf-8' codec can't encode" in training, without the name."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), name == "cat").save(tmp_path / name / "1.png")
    os.rename(os.fsencode(tmp_path / "cat" / "1.png"), os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")
    message = r"caf\\udce9.png', which is not UTF-8; rename that file"
    with pytest.raises(ValueError, match=message):
        read_by_name("folder", str(tmp_path), None, {})
    found = examine(tmp_path)
    assert not found.healthy
    str(found).encode()


def test_decimal_commas_stay_in_texts(tmp_path: Path) -> None:
    """With semicolons, "1,5" became "1.5" in every column, also where it is a class's name."""
    rows = "".join(f"{n}.png;{name};red,green;1,0;{n},5\n" for n, name in enumerate(["1,5", "2,5", "1,5 mm"]))
    (tmp_path / "t.csv").write_text("image;label;place;left;right\n" + rows)
    box = ("left", "left", "right", "right")
    release = read_table(tmp_path / "t.csv", classes=["1,5", "2,5", "1,5 mm"], box=None)
    assert [record.label for record in release.records] == [0, 1, 2] and release.places == ("red,green",)
    with pytest.raises(ValueError, match=r"got '1\.0', '1\.0', '0\.5', '0\.5'"):
        read_table(tmp_path / "t.csv", classes=release.classes, box=box)
    with pytest.raises(ValueError, match=r"pass classes= with all values as names"):
        read_table(tmp_path / "t.csv", box=None)
    (tmp_path / "t.csv").write_text("image;label\na.png;0,0\nb.png;1,0\n")
    assert [record.label for record in read_table(tmp_path / "t.csv").records] == [0, 1]
