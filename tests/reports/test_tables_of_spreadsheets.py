"""Reports of tables as spreadsheets write them, and of tables that hang."""

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from aimwrap.data import examine, read_table
from aimwrap.data.io import header_of
from aimwrap.data.registry import parse_reader_arguments, read_by_name
from aimwrap.data.release import Release

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


def test_points_of_thousands_are_no_fractions(tmp_path: Path) -> None:
    """Next to a decimal comma "1.234,5" was no number; 1.234 next to 800 was a box of less than two pixels."""
    table = "image;label;left;top;right;bottom\na.png;a;{}\nb.png;b;;;;\n"
    for texts, box in (
        ("0;10,5;1.234,5;-1.234.567,5", None),
        ("-0,5;10,5;1.234,5;1.234.567,25", (-0.5, 10.5, 1234.5, 1234567.25)),
        ("0.125;1.250;12.500;20.000", (0.125, 1.25, 12.5, 20)),
        ("0;0;800;20.5", (0, 0, 800, 20.5)),
        ("0;0;800,25;1.234,125", (0, 0, 800.25, 1234.125)),
        ("0;0;1.234;800", None),
        ("0;0;1.234;800,5", None),
        ("0;0;12,34,5;800", None),
        ("0;0;12.34,5;800", None),
    ):
        (tmp_path / "t.csv").write_text(table.format(texts))
        if box is None:
            with pytest.raises(
                ValueError, match=r"line 2: left, top, right, bottom must be .*thousands without a point"
            ):
                read_table(tmp_path / "t.csv")
        else:
            assert read_table(tmp_path / "t.csv").records[0].boxes == (box,)


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


def read(folder: Path, text: str, **arguments: object) -> Release:
    (folder / "t.csv").write_text(text)
    return read_by_name("table", str(folder / "t.csv"), None, arguments).release


FOUR = "image,label{}\na.png,cat{}\nb.png,dog{}\nc.png,cat{}\nd.png,dog{}\n"


@pytest.mark.parametrize("column", ["Split", "splits", "subset", "phase"])
def test_a_column_of_splits_by_another_name_is_not_passed_over(tmp_path: Path, column: str) -> None:
    """All images, those of the test too, were training images."""
    text = FOUR.format(f",{column}", ",train", ",train", ",Test", ",test")
    with pytest.raises(ValueError, match=f"pass split_column= with {column}, or None to go without"):
        read(tmp_path, text)
    assert [one.split for one in read(tmp_path, text, split_column=column).records] == ["train"] * 2 + ["test"] * 2
    without = parse_reader_arguments(["split_column=None"])
    assert {one.split for one in read(tmp_path, text, **without).records} == {"train"}


@pytest.mark.parametrize("column", ["Place", "Mask", "GROUP"])
def test_a_column_in_another_case_is_not_passed_over(tmp_path: Path, column: str) -> None:
    text = FOUR.format(f",{column}", *[",0", ",1"] * 2)
    with pytest.raises(ValueError, match=f"pass {column.lower()}= with {column}, or None to go without"):
        read(tmp_path, text)
    assert not read(tmp_path, text, **{column.lower(): None}).places


def test_boxes_in_another_case_are_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass the columns of left, top, right and bottom, or None"):
        read(tmp_path, FOUR.format(",Left,Top,Right,Bottom", *[",0,0,8,8"] * 4))


@pytest.mark.parametrize("other", ["Cat", "cat\u200b", "CAT", "c\u00adat", "\uff43at", "c\u00e2t", "C-at"])
def test_one_label_written_in_two_ways_is_refused(tmp_path: Path, other: str) -> None:
    """They were two classes."""
    text = FOUR.format(*[""] * 5).replace("c.png,cat", f"c.png,{other}")
    with pytest.raises(ValueError, match=r"label has .*, which differ in case, spaces, accents or dashes only"):
        read(tmp_path, text)
    assert read(tmp_path, text, classes=["cat", other, "dog"]).classes == ("cat", other, "dog")


@pytest.mark.parametrize("signs", ["-\u2010", "-\u2011", "\u2013-", "'\u2019", "\u00e9\u0065\u0301", "\u00b22"])
def test_signs_that_look_alike_are_one(tmp_path: Path, signs: str) -> None:
    """Spreadsheets write other dashes and quotes than keyboards; composed and decomposed accents look the same."""
    one, other = f"x{signs[0]}y", f"x{signs[1:]}y"
    text = f"image,label\na.png,{one}\nb.png,{other}\nc.png,z\n"
    with pytest.raises(ValueError, match=r"label has .*\\[ux].*, which differ in case"):
        read(tmp_path, text)


def test_letters_in_two_cases_are_two_classes(tmp_path: Path) -> None:
    assert read(tmp_path, "image,label\na.png,A\nb.png,a\nc.png,B\n").classes == ("A", "B", "a")


@pytest.mark.parametrize("names", ["e \u00e9", "A- A", "v1-1 v11", "b\u00f2 b\u01a1", "\u304b\u304d \u304b\u304e"])
def test_names_of_which_neither_is_the_other_without_its_accents(tmp_path: Path, names: str) -> None:
    one, other = names.split()
    assert {*read(tmp_path, f"image,label\na.png,{one}\nb.png,{other}\nc.png,z\n").classes} == {one, other, "z"}


OTHERS = ["#N/D", "#I/T", "#\u00bfNOMBRE?", "#\u0418\u041c\u042f?", "#SAYI/0!", "#YOK", "Err:502", "NaT"]


@pytest.mark.parametrize("error", ["#N/A", "#REF!", "#NAME?", "#DIV/0!", "#NV", "<NA>", "NULL", *OTHERS])
def test_what_a_spreadsheet_writes_for_no_value_is_no_class(tmp_path: Path, error: str) -> None:
    text = FOUR.format(*[""] * 5).replace("c.png,cat", f"c.png,{error}")
    with pytest.raises(ValueError, match=r"line 4: label must have a value, and is .*, pass classes= with all names$"):
        read(tmp_path, text)
    assert read(tmp_path, text, classes=["cat", "dog", error]).records[2].label == 2


@pytest.mark.parametrize("label", ["none", "None", "NA", "C#", "#cat", "#1", "#B", "#1/2", "Err: what?"])
def test_ordinary_words_stay_classes(tmp_path: Path, label: str) -> None:
    assert label in read(tmp_path, FOUR.format(*[""] * 5).replace("c.png,cat", f"c.png,{label}")).classes


def test_empty_columns_and_rows_are_left_out(tmp_path: Path) -> None:
    """Which spreadsheets write where something was once: "has a column twice: image, label, , "."""
    text = FOUR.format(",,", *[",,"] * 4) + ",,,\n,,,\n"
    assert [record.label for record in read(tmp_path, text).records] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"a column twice: image, label, label. Rename or remove one"):
        read(tmp_path, FOUR.format(",label", *[",x"] * 4))


def test_a_class_of_a_table_needs_training_images(tmp_path: Path) -> None:
    text = FOUR.format(",split", ",train", ",train", ",test", ",test").replace("c.png,cat", "c.png,cats")
    with pytest.raises(ValueError, match="no training image of cats, which other splits have"):
        read(tmp_path, text)
    assert not examine(tmp_path / "t.csv").healthy
    assert (
        len(
            read(
                tmp_path, FOUR.format(",split", ",train", ",train", ",test", ",test"), classes=["cat", "dog", "owl"]
            ).classes
        )
        == 3
    )


@pytest.mark.parametrize(
    "names", ["Training PublicTest PrivateTest", "train_set val_set test-set", "trn validation tst"]
)
def test_usual_names_of_splits_are_read(tmp_path: Path, names: str) -> None:
    """The first is a set of faces that many use: its column was passed over, and all images were training images."""
    train, *others = names.split()
    text = FOUR.format(",split", *[f",{name}" for name in (train, train, *others)])
    assert [one.split for one in read(tmp_path, text).records] == ["train", "train", "val", "test"]
    with pytest.raises(ValueError, match="pass split_column= with Usage, or None to go without"):
        read(tmp_path, text.replace("split", "Usage"))


@pytest.mark.parametrize("other", ["dev", "eval", "holdout", "held-out"])
def test_a_column_of_training_and_something_else_is_not_passed_over(tmp_path: Path, other: str) -> None:
    text = FOUR.format(",subset", ",train", ",train", ",train", f",{other}")
    with pytest.raises(ValueError, match="pass split_column= with subset, or None to go without"):
        read(tmp_path, text)
    with pytest.raises(ValueError, match=r"must be one of 0, 1, 2, .* pass splits= with what the table's values mean"):
        read(tmp_path, text, split_column="subset")


@pytest.mark.parametrize("column", ["is_train", "train", "test", "is_valid"])
@pytest.mark.parametrize("values", ["0011", "1111"])
def test_a_flag_is_not_read_as_the_number_of_a_split(tmp_path: Path, column: str, values: str) -> None:
    """Images with is_train=1 were the validation split, and those with 0 the training."""
    text = FOUR.format(f",{column}", *[f",{value}" for value in values])
    with pytest.raises(ValueError, match=r"says yes \(1\) or no \(0\); pass splits= with what that means"):
        read(tmp_path, text, split_column=column)
    found = read(tmp_path, text, split_column=column, splits={"1": "train", "0": "test"}).records
    assert [one.split for one in found] == [("test", "train")[int(value)] for value in values]


@pytest.mark.parametrize("odd", ["dev", "unlabeled", "", "holdout"])
def test_a_column_of_splits_with_an_unusual_value_is_not_passed_over(tmp_path: Path, odd: str) -> None:
    """With one value that is not a split's name, all images were training images."""
    text = FOUR.format(",subset", ",train", ",test", ",Train", f",{odd}")
    with pytest.raises(ValueError, match="pass split_column= with subset, or None to go without"):
        read(tmp_path, text)
    assert len(read(tmp_path, text, split_column=None).records) == 4


@pytest.mark.parametrize(
    ("column", "named"),
    [
        *[("is_train", "train"), ("Is_Test", "test"), ("is_valid", "val"), ("Train", "train"), ("in_train", "train")],
        *[("is_training_image", "train"), ("test_set", "test"), ("holdout", "test"), ("training?", "train")],
        *[("train_test", "train"), ("Held-out", "test"), ("isTest", "test"), ("val_mask", "val")],
    ],
)
@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("True", "False"), ("yes", "no"), ("x", "")])
def test_a_flag_of_a_split_is_not_passed_over(tmp_path: Path, column: str, named: str, yes: str, no: str) -> None:
    """All images were training images."""
    text = FOUR.format(f",{column}", *[f",{yes}"] * 2, *[f",{no}"] * 2)
    with pytest.raises(ValueError, match=f"with {re.escape(column)} and splits= with what its values mean, or"):
        read(tmp_path, text)
    splits = {yes.lower(): named, no.lower(): "test" if named == "train" else "train"}
    assert read(tmp_path, text, split_column=column, splits=splits).records[0].split == named


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[("trainval", "test"), ("train", "test_unseen"), ("training", "external validation"), ("tr", "te")],
        *[("development", "test"), ("learn", "test"), ("train", "unknown"), ("Training", "Public Test"), ("A", "val")],
    ],
)
def test_splits_with_other_common_words_are_not_passed_over(tmp_path: Path, train: str, test: str) -> None:
    """All images were training images."""
    text = FOUR.format(",cohort", f",{train}", f",{train}", f",{test}", f",{test}")
    with pytest.raises(ValueError, match="pass split_column= with cohort, or None to go without"):
        read(tmp_path, text)
    splits = {train.lower(): "train", test.lower(): "test"}
    found = read(tmp_path, text, split_column="cohort", splits=splits).records
    assert [one.split for one in found] == ["train", "train", "test", "test"]
    assert {one.split for one in read(tmp_path, text, split_column=None).records} == {"train"}


@pytest.mark.parametrize(
    "values",
    [
        *[("train", "car", "bus", "train"), ("1", "0", "0", "1"), ("valid", "invalid", "valid", "valid")],
        *[("train_station", "beach", "beach", "forest"), ("tr", "us", "de", "us"), ("contest", "latest", "a", "a")],
    ],
)
def test_columns_that_are_not_of_splits_are_passed_over(tmp_path: Path, values: tuple[str, ...]) -> None:
    text = FOUR.format(",kind", *[f",{value}" for value in values])
    assert {one.split for one in read(tmp_path, text).records} == {"train"}
    text = "image,is_valid\na.png,0\nb.png,1\n"
    assert read(tmp_path, text, label="is_valid").classes == ("0", "1")


@pytest.mark.parametrize("third", ["0,0,1,1", "-0.02,0.2,1.0031,0.8", "10,20,300,400"])
def test_boxes_in_shares_of_the_image_are_refused(tmp_path: Path, third: str) -> None:
    """They were boxes of less than a pixel in the corner; one edge just outside made all of them pass."""
    text = FOUR.format(",left,top,right,bottom", ",0,0,1,1", ",,,,", f",{third}", ",0.1,0.2,0.5,1.0005")
    line = 4 if "-" in third else 5
    with pytest.raises(ValueError, match=rf"line {line}: .* multiply left and right by the image's width, .* box=None"):
        read(tmp_path, text)
    assert read(tmp_path, text, box=None).records[0].boxes is None


def test_boxes_of_a_pixel_stay_boxes(tmp_path: Path) -> None:
    text = FOUR.format(",left,top,right,bottom", ",0,0,1,1", ",5.5,0.5,6.4,1.4", ",0,0,8,8", ",0.5,0.5,1.5,1.5")
    assert [each.boxes for each in read(tmp_path, text).records][::3] == [((0, 0, 1, 1),), ((0.5, 0.5, 1.5, 1.5),)]


@pytest.mark.parametrize("column", ["partition", "subset", "split_id", "data_split", "set", "Usage", "phase"])
def test_a_column_of_splits_by_number_is_not_passed_over(tmp_path: Path, column: str) -> None:
    """As in a set of faces that many use, whose table has the column partition: all were training images."""
    text = FOUR.format(f",{column}", ",0", ",0", ",1", ",2")
    with pytest.raises(ValueError, match=f"pass split_column= with {column}, or None to go without"):
        read(tmp_path, text)
    assert [one.split for one in read(tmp_path, text, split_column=column).records] == ["train", "train", "val", "test"]


@pytest.mark.parametrize("column", ["fold", "Fold_id", "kfold", "cv_fold"])
def test_a_column_of_folds_is_not_passed_over(tmp_path: Path, column: str) -> None:
    """The folds that a table's authors test on were training images."""
    for values in ("0134", ["1.0", "2.0", "", "3.0"], ["fold1", "fold2", "fold3", "fold4"]):
        text = FOUR.format(f",{column}", *(f",{value}" for value in values))
        with pytest.raises(ValueError, match=f"pass split_column= with {column} and splits= with what its values mean"):
            read(tmp_path, text)
        assert {one.split for one in read(tmp_path, text, split_column=None).records} == {"train"}
    splits = {"fold1": "train", "fold2": "train", "fold3": "val", "fold4": "test"}
    assert read(tmp_path, text, split_column=column, splits=splits).records[3].split == "test"


@pytest.mark.parametrize("column", ["folder", "scaffold", "manifold"])
def test_what_only_sounds_like_a_fold_is_passed_over(tmp_path: Path, column: str) -> None:
    assert {one.split for one in read(tmp_path, FOUR.format(f",{column}", *[",1", ",2"] * 2)).records} == {"train"}


SPLITS_ELSEWHERE = [
    "Training Validierung Testdaten",
    "entra\u00eenement validation essai",
    "entrainement apprentissage test",
    "entrenamiento validaci\u00f3n prueba",
    "treino valida\u00e7\u00e3o teste",
    "addestramento convalida prova",
    "\u8bad\u7ec3 \u9a8c\u8bc1\u96c6 \u6d4b\u8bd5",
    "\u043e\u0431\u0443\u0447 \u0432\u0430\u043b\u0438\u0434 \u0442\u0435\u0441\u0442",
]


@pytest.mark.parametrize("values", SPLITS_ELSEWHERE)
def test_splits_in_other_languages_are_not_passed_over(tmp_path: Path, values: str) -> None:
    first, second, third = values.split()
    for column, way_out in (("conjunto", "pass split_column= with conjunto"), ("split", "pass splits= with what")):
        text = FOUR.format(f",{column}", f",{first}", f",{first}", f",{second}", f",{third}")
        with pytest.raises(ValueError, match=way_out):
            read(tmp_path, text)


@pytest.mark.parametrize("joined", ["cat|dog", "dog;cat", '"cat, dog"'])
def test_an_image_of_several_classes_is_refused(tmp_path: Path, joined: str) -> None:
    """As in a set of X-rays that many use: of 15 findings every combination was a class."""
    text = FOUR.format(*[""] * 5).replace("d.png,dog", f"d.png,{joined}")
    with pytest.raises(ValueError, match="which are several of its names, and an image has one"):
        read(tmp_path, text)
    assert len(read(tmp_path, text, classes=["cat", "dog", joined.strip('"')]).classes) == 3
    assert len(read(tmp_path, f"image,label\na.png,cat\nb.png,{joined}\nc.png,black & white\n").classes) == 3


@pytest.mark.parametrize("columns", ["x,y,w,h", "x,y,Width,Height", "bbox_x,bbox_y,bbox_w,bbox_h"])
def test_columns_of_width_and_height_are_no_edges(tmp_path: Path, columns: str) -> None:
    """Where the width is larger than x, they made a box."""
    text = FOUR.format(f",{columns}", *[",1,1,8,8"] * 4)
    with pytest.raises(ValueError, match="the last two are named as width and height: write right = x"):
        read(tmp_path, text, box=columns.split(","))
    assert read(tmp_path, text.replace(columns, "x1,y1,x2,y2"), box=["x1", "y1", "x2", "y2"]).records[0].boxes


@pytest.mark.parametrize("start", ["sep=;\n", "\ufeffsep=;\r\n"])
def test_excels_line_about_the_separator_is_no_header(tmp_path: Path, start: str) -> None:
    """It "lacks image, label; it has sep="."""
    table = tmp_path / "t.csv"
    table.write_text(f"{start}image;label\n1.png;cat\n2.png;dog\n", encoding="utf-8")
    assert read_table(table).classes == ("cat", "dog") and header_of(table) == (";", ["image", "label"])


def test_whole_numbers_with_a_fraction_of_zero(tmp_path: Path) -> None:
    """As pandas writes a column of whole numbers that had an empty cell."""
    table = tmp_path / "t.csv"
    rows = "1.png,cat,0.0,0.0\n2.png,dog,0.0,1.0\n3.png,cat,2.0,0.0\n4.png,dog,2.0,1.0\n"
    table.write_text(f"image,label,split,group\n{rows}")
    records = read_table(table, group="group").records
    assert [record.split for record in records] == ["train", "train", "test", "test"]
    table.write_text(f"image,label,is_train,group\n{rows.replace('2.0', '1.0')}")
    with pytest.raises(ValueError, match=r"is_train of .* says yes \(1\) or no \(0\)"):
        read_table(table, split_column="is_train")


def test_folders_of_splits_are_not_passed_over(tmp_path: Path) -> None:
    """All images, those in the folder of the test too, were training images."""
    text = "image,label\ndata/train/a.png,cat\ndata/train/b.png,dog\ndata/Test/1.png,cat\n"
    with pytest.raises(
        ValueError, match=r"no column of splits, and images or folders named after test, train: .* pass split"
    ):
        read(tmp_path, text)
    assert {one.split for one in read(tmp_path, text, split_column=None).records} == {"train"}
    for other in ("data/bus/1.png", "data/train/test/1.png", "test.png"):  # a class, one split, a file
        assert len(read(tmp_path, text.replace("data/Test/1.png", other)).records) == 3


@pytest.mark.parametrize("name", ["{}_1.png", "cat-{}-1.png", "COCO_{}2014_01.jpg", "data_{}/1.png", "{} images/1.png"])
def test_names_of_splits_in_paths_are_not_passed_over(tmp_path: Path, name: str) -> None:
    """Only folders with a split's name alone were asked about; these images of the test were training images."""
    train, test = (f"a/{name.format(split)}" for split in ("train", "val"))
    text = f"image,label\n{train},cat\n{test},cat\na/{train},dog\n"
    with pytest.raises(ValueError, match="images or folders named after train, val: write a column split, or pass"):
        read(tmp_path, text)
    assert len(read(tmp_path, text, split_column=None).records) == 3
    for other in ("latest_1.png", "a/contest/1_2.png", f"{train}/val_1.png"):  # no split, and the same one
        assert len(read(tmp_path, text.replace(f"\n{test}", f"\n{other}")).records) == 3


def test_groups_that_count_from_1_are_not_read_from_0(tmp_path: Path) -> None:
    """They became three places, of which one was the first of a label and the second of the other."""
    text = FOUR.format(",group", ",1", ",3", ",2", ",4")
    with pytest.raises(
        ValueError, match=r"3 places fit the .* labels, unless they count from 1: then subtract 1. Pass"
    ):
        read(tmp_path, text)
    assert read(tmp_path, text, places=["x", "y", "z"]).places == ("x", "y", "z")
    for groups, number in ((",0 ,2 ,1 ,3", 2), (",1 ,2 ,1 ,3", 2), (",0 ,3 ,2 ,5", 3)):  # the second lacks group 0
        assert len(read(tmp_path, FOUR.format(",group", *groups.split())).places) == number


def test_errors_of_rows_say_which(tmp_path: Path) -> None:
    """A sum at the end blamed the first row, and an equal row "differs in more than its box"."""
    with pytest.raises(ValueError, match=r"line 2: .* has 'cat' here and '2' in line 6\. Fix the table"):
        read(tmp_path, FOUR.format(*[""] * 5) + "Total,2\n")
    with pytest.raises(ValueError, match=r"line 6: a\.png is there a second time, and not for another box"):
        read(tmp_path, FOUR.format(*[""] * 5) + "a.png,cat\n")


def test_spaces_after_the_commas_do_not_keep_the_quotation_marks(tmp_path: Path) -> None:
    """`a.png, "cat"` was of the class `"cat"`, with its quotation marks, beside the class cat."""
    release = read(tmp_path, 'image, "label"\na.png, "cat"\nb.png, cat\nc.png,  "dog, brown"\n')
    assert release.classes == ("cat", "dog, brown") and [one.label for one in release.records] == [0, 0, 1]
    assert header_of(tmp_path / "t.csv") == (",", ["image", "label"])
