"""Reports of users whose folders were one level off, and trained happily (kind: a layout that is misread)."""

import subprocess
from pathlib import Path

import pytest
from PIL import Image

from aimwrap.data import examine, read_folder, read_table
from aimwrap.data.registry import read_by_name


def folders(root: Path, *names: str) -> Path:
    """Two images in each."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for image in range(2):
            Image.new("RGB", (8, 8), (number, image, 0)).save(root / name / f"{image}.png")
    return root


REFUSED = {
    "the folder above": (("pets/cat", "pets/dog"), "one class only"),
    "the folder above, in splits": (("train/pets/cat", "train/pets/dog", "test/pets/cat"), "one class only"),
    "only one class": (("cat",), "one class only"),
    "two sets": (("mine/cat", "mine/dog", "yours/cat", "yours/dog"), "seem to be above the classes"),
    "pictures and masks": (("pictures/cat", "pictures/dog", "masks/cat", "masks/dog"), "hold kinds of files"),
    "flat pictures and masks": (("images", "masks"), "hold kinds of files"),
    "splits below classes": (("cat/train", "cat/test", "dog/train", "dog/test"), "seem to be above the classes"),
    "splits twice": (
        ("train/train/cat", "train/train/dog", "test/test/cat", "test/test/dog"),
        "seem to be above the classes",
    ),
    "splits without classes": (("train", "test1"), "has images of no class in "),
    "splits of other names": (
        ("seg_train/cat", "seg_train/dog", "seg_pred/cat", "seg_pred/dog"),
        "seem to be above the classes",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_layout_that_is_misread_is_refused_by_training_and_doctor(kind: str, tmp_path: Path) -> None:
    """`outer/pets/{cat,dog}` was one class and had accuracy 1.000; two sets or splits were two classes."""
    names, message = REFUSED[kind]
    root = folders(tmp_path / "outer", *names)
    with pytest.raises(ValueError, match=message):
        read_by_name("folder", str(root), None, {})
    found = examine(root, "folder")
    assert not found.healthy and message in found.faults[0].summary


@pytest.mark.parametrize(("below", "column"), [(("indoor", "outdoor"), "places"), (("train", "test"), "splits")])
def test_the_way_out_where_every_class_has_the_same_folders(
    tmp_path: Path, below: tuple[str, str], column: str
) -> None:
    """Refused, and nothing said how to go on; the message's own command makes a table that is read."""
    root = folders(tmp_path / "my pictures", *(f"{name}/{inner}" for name in ("cat", "dog") for inner in below))
    (root / "cat" / below[0] / ".DS_Store").touch()
    with pytest.raises(ValueError, match=f"with the same {column} in each") as caught:
        read_folder(root)
    subprocess.run(str(caught.value).partition("table:\n")[2], shell=True, cwd=root, check=True)
    release = read_table(root / "images.tsv")
    assert release.classes == ("cat", "dog") and [record.label for record in release.records] == [0] * 4 + [1] * 4
    found = [record.split if column == "splits" else release.places[record.place] for record in release.records]
    assert found == [name for name in sorted(below) for _ in range(2)] * 2


def test_splits_of_usual_names_are_splits(tmp_path: Path) -> None:
    """`{training_set,test_set}/{cat,dog}` was two classes named after the splits."""
    root = folders(tmp_path, "training_set/cat", "training_set/dog", "test_set/cat", "test_set/dog")
    release = read_folder(root)
    assert release.classes == ("cat", "dog")
    assert [record.split for record in release.records] == ["train"] * 4 + ["test"] * 4


def test_folders_within_classes_still_belong_to_them(tmp_path: Path) -> None:
    """Right before, and so it stays."""
    root = folders(tmp_path, "cat/one", "cat/two", "dog/one", "dog/three")
    assert read_folder(root).classes == ("cat", "dog")


def test_a_table_of_one_class_is_refused(tmp_path: Path) -> None:
    """One class is never a success, in whatever form the labels come."""
    folders(tmp_path, "cat")
    (tmp_path / "t.csv").write_text("image,label\ncat/0.png,cat\ncat/1.png,cat\n")
    with pytest.raises(ValueError, match="one class only"):
        read_by_name("table", str(tmp_path / "t.csv"), "train", {})
    assert not examine(tmp_path / "t.csv").healthy


@pytest.mark.parametrize("extra", ["masks", "@eaDir", "old"])
def test_a_folder_of_the_classes_names_is_no_class(tmp_path: Path, extra: str) -> None:
    """Masks, a server's thumbnails or a copy beside the classes became one more class."""
    root = folders(tmp_path, "cat", "dog", f"{extra}/cat", f"{extra}/dog")
    with pytest.raises(ValueError, match=r"folders named as the classes \(cat, dog\), so it is none"):
        read_folder(root)
    if extra == "masks":
        assert read_folder(root, masks=root / extra).classes == ("cat", "dog")


@pytest.mark.parametrize(("one", "other"), [("cat", "Cat"), ("caf\u00e9", "cafe\u0301"), ("cat", "cat ")])
def test_one_class_is_written_alike_in_all_splits(tmp_path: Path, one: str, other: str) -> None:
    """They were two classes, one of them never trained and the other never tested."""
    with pytest.raises(ValueError, match="differ in case, spaces or accents only"):
        read_folder(folders(tmp_path / "a", f"train/{one}", "train/dog", f"test/{other}", "test/dog"))
    if one != "caf\u00e9":
        assert len(read_folder(folders(tmp_path / "b", f"train/{one}", f"train/{other}")).classes) == 2
