"""Tables of others are read, and ambiguous ones are refused."""

from pathlib import Path

import pytest
from imagenet_releases import TABLE, bomb, mask, table

from aimwrap.data import LabelledTable, read_table

NAMES = dict(image="img_filename", label="y")
HEADER = "image,label"
ROWS = ("001.A/one.jpg", "001.A/two.jpg", "002.B/three.jpg", "002.B/four.JPG")


def lines(header: str, *values: str) -> str:
    """A table of the four images with further columns."""
    return "\n".join([header, *(f"{path},{value}" for path, value in zip(ROWS, values, strict=False))]) + "\n"


def test_waterbirds_own_table_reads(tmp_path: Path) -> None:
    release = read_table(table(tmp_path), **NAMES)
    assert [(record.label, record.place, record.split) for record in release.records] == [
        (0, 0, "train"),
        (0, 1, "val"),
        (1, 0, "test"),
        (1, 1, "train"),
    ]
    assert release.classes == release.places == ("0", "1")
    train = LabelledTable(table(tmp_path), **NAMES, classes=("land", "water"), places=("forest", "lake"))
    assert train.groups.tolist() == [0, 3]
    assert train.group_names == ("land, forest", "land, lake", "water, forest", "water, lake")
    assert train[1].path == str(tmp_path / "002.B" / "four.JPG") and train[1].group == 3
    assert any("'0' as train (2 rows), '1' as val (1 rows)" in note for note in release.notes)


def test_images_may_be_elsewhere(tmp_path: Path) -> None:
    path = table(tmp_path / "images")
    moved = path.rename(tmp_path / "metadata.csv")
    assert LabelledTable(moved, root=tmp_path / "images", **NAMES)[0].image.size == (20, 16)


@pytest.mark.parametrize(
    ("values", "options", "labels", "classes"),
    [
        (("dog", "cat", "dog", "emu"), {}, [1, 0, 1, 2], ("cat", "dog", "emu")),
        (("dog", "cat", "dog", "emu"), {"classes": ["emu", "dog", "cat"]}, [1, 2, 1, 0], ("emu", "dog", "cat")),
        (("0", "2", "1", "0"), {}, [0, 2, 1, 0], ("0", "1", "2")),
        ((" 0", "1.0 ", "01", "0"), {}, [0, 1, 1, 0], ("0", "1")),
        (("0", "2", "2", "0"), {"classes": ["a", "b", "c"]}, [0, 2, 2, 0], ("a", "b", "c")),
        (("1", "2", "3", "1"), {"classes": ["1", "2", "3"]}, [0, 1, 2, 0], ("1", "2", "3")),
        (("1", "0", "1", "1"), {"classes": ["1", "0"]}, [0, 1, 0, 0], ("1", "0")),
        (("10", "9", "x", "x"), {"classes": ["x", "9", "10"]}, [2, 1, 0, 0], ("x", "9", "10")),
        (("1.0", "2.0", "1.0", "2.0"), {"classes": ["1", "2", "3"]}, [0, 1, 0, 1], ("1", "2", "3")),  # by pandas
        (("01", "2", "03", "2"), {"classes": ["1", "2", "3"]}, [0, 1, 2, 1], ("1", "2", "3")),
        (("1", "-1", "-1.0", "1.0"), {"classes": ["-1", "1"]}, [1, 0, 0, 1], ("-1", "1")),
        (("01", "1", "1", "01"), {"classes": ["1", "01"]}, [1, 0, 0, 1], ("1", "01")),
        (("747.0", "787.0", "747.0", "787"), {"classes": ["A320", "747", "787"]}, [1, 2, 1, 2], ("A320", "747", "787")),
    ],
)
def test_labels_are_names_or_numbers(
    values: tuple[str, ...], options: dict[str, list[str]], labels: list[int], classes: tuple[str, ...], tmp_path: Path
) -> None:
    release = read_table(table(tmp_path, lines(HEADER, *values)), **options)
    assert [record.label for record in release.records] == labels
    assert release.classes == classes
    assert {record.split for record in release.records} == {"train"} and release.places == ()
    assert any("no column of splits" in note for note in release.notes)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (("1", "2", "3", "1"), {}, r"numbers from 1 to 3 and lacks 0.*counts from 1"),
        (("0", "1", "3", "1"), {}, r"numbers from 0 to 3 and lacks 2"),
        (("0", "1", "999999999", "1"), {}, "lacks 2"),
        (("0", "1", "-1", "1"), {}, r"line 4: label must have integers from 0.*'-1'"),
        (("0", "1", "0.5", "1"), {}, "must have integers from 0"),
        (("0", "1", "nan", "1"), {}, "must have integers from 0"),
        (("0", "1", "dog", "1"), {}, "must have integers from 0"),
        (("0", "1", "", "1"), {}, "line 4: label must have a value"),
        (("0", "1", "1_0", "1"), {}, "must have integers"),
        (("dog", "cat", "emu", "dog"), {"classes": ["dog", "cat"]}, r"line 4: label must be one of classes=.*'emu'"),
        (("0", "1", "2", "1"), {"classes": ["dog", "cat"]}, "a number below 2, got '2'"),
        (("dog", "1", "dog", "cat"), {"classes": ["dog", "cat"]}, r"line 3: label must be one of .*got '1'"),
        (("0", "1", "2", "1"), {"classes": ["0", "1"]}, "got '2'"),
        (("0", "1", "0", "1"), {"classes": ["10", "20"]}, r"one of classes=\['10', '20'\], got '0'"),
        (("1.0", "1.0", "1.0", "01"), {"classes": ["1", "01"]}, "got '1.0'"),
        (("1", "2", "1", "2"), {"classes": [1, 2, 3]}, "different names"),
        (("dog", "dog", "dog", "dog"), {"classes": ["dog", "dog"]}, "different names"),
        (("dog", "dog", "dog", "dog"), {"classes": []}, "different names"),
        (("d", "o", "g", "d"), {"classes": "dog"}, "different names"),
    ],
)
def test_wrong_labels_are_refused(
    values: tuple[str, ...], options: dict[str, list[str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(table(tmp_path, lines(HEADER, *values)), **options)


def test_places_that_are_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    rows = ("cat,1.0", "dog,2.0", "cat,1.0", "dog,2.0")
    release = read_table(table(tmp_path, lines(f"{HEADER},place", *rows)), places=["1", "2", "3"])
    assert [record.place for record in release.records] == [0, 1, 0, 1]


def test_groups_are_checked_against_label_and_place(tmp_path: Path) -> None:
    header = f"{HEADER},place,group"
    good = table(tmp_path, lines(header, "0,0,0", "0,1,1", "1,0,2", "1,1,3"))
    assert LabelledTable(good).groups.tolist() == [0, 1, 2, 3]
    swapped = table(tmp_path, lines(header, "0,0,0", "0,1,2", "1,0,1", "1,1,3"))  # 2 * place + label
    with pytest.raises(ValueError, match=r"line 3: group must be label \* 2 \+ place = 1 .* got 2.*group=None"):
        read_table(swapped)
    assert LabelledTable(swapped, group=None).groups.tolist() == [0, 1, 2, 3]


def test_places_come_from_groups_alone(tmp_path: Path) -> None:
    header = f"{HEADER},group"
    dataset = LabelledTable(table(tmp_path, lines(header, "0,0", "0,1", "1,2", "1,3")))
    assert dataset.place_numbers.tolist() == [0, 1, 0, 1] and dataset.groups.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no number of places fits"):
        read_table(table(tmp_path, lines(header, "0,0", "0,2", "1,1", "1,3")))
    perfect = table(tmp_path, lines(header, "0,0", "0,0", "1,3", "1,3"))  # two places, or three
    with pytest.raises(ValueError, match="2 or 3 places fit"):
        read_table(perfect)
    assert LabelledTable(perfect, places=("land", "water")).groups.tolist() == [0, 0, 3, 3]
    assert LabelledTable(perfect, group=None).groups is None
    with pytest.raises(
        ValueError, match=r"line 2: group must be an integer from 0 to 999999999, got 'a'\. Pass group=None"
    ):
        read_table(table(tmp_path, lines(header, "0,a", "0,0", "1,3", "1,3")))


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        (("train", "val", "test", "train"), {}, ["train", "val", "test", "train"]),
        (("Training", "valid", "Testing", "VALIDATION"), {}, ["train", "val", "test", "val"]),
        (("1", "0", "1", "0"), {"splits": {"1": "train", "0": "test"}}, ["train", "test", "train", "test"]),
    ],
)
def test_splits_are_names_or_codes(
    values: tuple[str, ...], options: dict[str, dict[str, str]], expected: list[str], tmp_path: Path
) -> None:
    text = lines(f"{HEADER},split", *(f"0,{value}" for value in values))
    assert [record.split for record in read_table(table(tmp_path, text), **options).records] == expected


@pytest.mark.parametrize("value", ["3", "-1", "", "dev", "0.5", "True"])
def test_unknown_splits_are_refused(value: str, tmp_path: Path) -> None:
    text = lines(f"{HEADER},split", "0,0", "0,1", f"0,{value}", "0,2")
    with pytest.raises(ValueError, match=r"line 4: split must be one of 0, 1, 2, train.*pass splits="):
        read_table(table(tmp_path, text))


def test_masks_are_read_where_named(tmp_path: Path) -> None:
    path = table(tmp_path, lines(f"{HEADER},mask", "0,masks/one.png", "0,", "0,masks/three.png", "0, "))
    mask(tmp_path / "masks" / "one.png")
    mask(tmp_path / "masks" / "three.png", size=(10, 10))
    dataset = LabelledTable(path)
    assert float(dataset[0].object_mask.mean()) == 0.5
    assert dataset[1].object_mask is None and dataset[3].object_mask is None
    with pytest.raises(ValueError, match="10 x 10 pixels"):
        dataset[2]


def test_boxes_are_read_and_joined_by_image(tmp_path: Path) -> None:
    text = lines(f"{HEADER},left,top,right,bottom", "0,0,0,20,16", "1,1.5,2,3,4", "1,,,,")
    dataset = LabelledTable(table(tmp_path, text + "001.A/one.jpg,0,5,6,7,8\n"))
    assert [None if sample.boxes is None else sample.boxes.tolist() for sample in dataset] == [
        [[0, 0, 20, 16], [5, 6, 7, 8]],
        [[1.5, 2, 3, 4]],
        None,
    ]
    renamed = table(tmp_path, lines(f"{HEADER},x1,y1,x2,y2", "0,0,0,20,16"))
    assert LabelledTable(renamed)[0].boxes is None
    assert LabelledTable(renamed, box=("x1", "y1", "x2", "y2"))[0].boxes.tolist() == [[0, 0, 20, 16]]


@pytest.mark.parametrize("box", ["5,5,5,9", "9,5,5,9", "1,2,3,", "a,2,3,4", "nan,2,3,4", "1,2,inf,4", "1,2,3,2"])
def test_impossible_boxes_are_refused(box: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2: left, top, right, bottom must be the edges"):
        read_table(table(tmp_path, lines(f"{HEADER},left,top,right,bottom", f"0,{box}")))


def test_boxes_of_another_image_are_refused_when_opened(tmp_path: Path) -> None:
    dataset = LabelledTable(table(tmp_path, lines(f"{HEADER},left,top,right,bottom", "0,100,100,200,200")))
    with pytest.raises(ValueError, match="are not inside"):
        dataset[0]


REPEATED = {
    "same": (HEADER, "0", "001.A/one.jpg,0"),
    "other label": (HEADER, "0", "001.A/one.jpg,1"),
    "other split": (f"{HEADER},split", "0,0", "001.A/one.jpg,0,2"),
    "another way to write it": (HEADER, "0", "./001.A//one.jpg,0"),
    "box with another label": (f"{HEADER},left,top,right,bottom", "0,1,1,2,2", "001.A/one.jpg,1,3,3,4,4"),
    "box once": (f"{HEADER},left,top,right,bottom", "0,1,1,2,2", "001.A/one.jpg,0,,,,"),
}


@pytest.mark.parametrize("name", REPEATED)
def test_an_image_is_there_once(name: str, tmp_path: Path) -> None:
    header, value, again = REPEATED[name]
    text = lines(header, value) + again + "\n"
    with pytest.raises(ValueError, match=r"line 3: .*one\.jpg is there a second time"):
        read_table(table(tmp_path, text), classes=["0", "1"])


CLIMBING = ("../x.jpg", "001.A/../../x.jpg", "/etc/passwd", "C:/x.jpg", "..\\x.jpg", "\\\\host\\x.jpg", "a\0b.jpg")


@pytest.mark.parametrize(
    ("column", "relative"), [*((c, r) for c in ("image", "mask") for r in CLIMBING), ("image", "")]
)
def test_paths_that_climb_out_are_refused(column: str, relative: str, tmp_path: Path) -> None:
    image, masked = (relative, "") if column == "image" else ("001.A/one.jpg", relative)
    path = table(tmp_path, f"image,label,mask\n{image},0,{masked}\n")
    with pytest.raises(ValueError, match=rf"line 2, {column}: .* must be a path below .*relative to root="):
        read_table(path)


BROKEN = {
    "no file": (None, {}, FileNotFoundError, "is not there"),
    "empty": ("", {}, ValueError, "lacks image, label"),
    "no rows": ("image,label\n", {}, ValueError, "has no rows"),
    "no image column": (TABLE, {"label": "y"}, ValueError, "lacks image; it has img_id, img_filename"),
    "no label column": (TABLE, {"image": "img_filename"}, ValueError, "lacks label"),
    "no place column": (TABLE, {**NAMES, "place": "background"}, ValueError, "place='background' must be a column"),
    "no group column": (TABLE, {**NAMES, "group": "g"}, ValueError, "group='g' must be a column"),
    "no split column": (TABLE, {**NAMES, "split_column": "fold"}, ValueError, "split='fold' must be a column"),
    "no mask column": (TABLE, {**NAMES, "mask": "seg"}, ValueError, "mask='seg' must be a column"),
    "no box columns": (TABLE, {**NAMES, "box": ("a", "b", "c", "d")}, ValueError, "a, b, c, d is not among"),
    "three box columns": ("image,label,left,top,right\na.jpg,0,1,1,2\n", {}, ValueError, "bottom is not among"),
    "box is no four": (TABLE, {**NAMES, "box": ("y", "y", "y")}, ValueError, "box must be the columns of left"),
    "box is text": (TABLE, {**NAMES, "box": "xywh"}, ValueError, "box must be the columns of left"),
    "short row": ("image,label\na.jpg\n", {}, ValueError, "line 2: a row must have 2 values"),
    "long row": ("image,label\na.jpg,0,1\n", {}, ValueError, "line 2: a row must have 2 values"),
    "bars": ("image|label\na.jpg|0\n", {}, ValueError, r"lacks image, label; it has image\|label"),
    "places of nothing": (
        TABLE,
        {**NAMES, "place": None, "places": ["land", "water"]},
        ValueError,
        "places= gives names",
    ),
    "wrong place": (TABLE.replace("1,2,0,/f", "1,2,7,/f"), NAMES, ValueError, "place has numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tables_have_their_own_errors(name: str, tmp_path: Path) -> None:
    text, options, kind, message = BROKEN[name]
    path = tmp_path / "metadata.csv" if text is None else table(tmp_path, text)
    with pytest.raises(kind, match=message):
        read_table(path, **options)


def test_damaged_images_are_named_when_opened(tmp_path: Path) -> None:
    dataset = LabelledTable(table(tmp_path), split=None, **NAMES)
    dataset.records[0].path.unlink()
    dataset.records[1].path.write_bytes(dataset.records[1].path.read_bytes()[:-40])
    bomb(dataset.records[2].path)
    dataset.records[3].path.write_text("<html>404</html>")
    with pytest.raises(FileNotFoundError, match=r"one\.jpg is not there"):
        dataset[0]
    for index, message in [(1, "is not complete"), (2, "not decoded"), (3, "not an image that Pillow can read")]:
        with pytest.raises(ValueError, match=message):
            dataset[index]


def test_a_columns_default_may_be_left_out(tmp_path: Path) -> None:
    path = table(tmp_path)
    dataset = LabelledTable(path, **NAMES, place=None, split_column=None)
    assert dataset.groups is None and len(dataset) == 4


def test_a_table_with_other_columns_says_how_to_name_them(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("file,species\na.jpg,cat\n")
    with pytest.raises(ValueError, match=r"lacks image, label; .*\. Name its columns with image="):
        read_table(tmp_path / "mine.csv")
