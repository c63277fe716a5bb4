"""The doctor on the sets of ImageNet's images, and on sets of one's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from imagenet_releases import (
    class_folders,
    class_masks,
    hard_imagenet,
    imagenet100,
    imagewoof,
    mask,
    picture,
    table,
    write_annotation,
)
from PIL import Image

from aimwrap.data.doctor import Examination, examine

WOOF = "n02086240"


def findings(found: Examination) -> dict[str, list[str]]:
    """All that is not in order: mark and name of the check, and what it found."""
    return {
        f"{check.mark} {check.name}": [f"{finding.subject}: {finding.message}" for finding in check.findings]
        or [check.summary]
        for check in found.checks
        if check.mark != "ok"
    }


def examine_hard(tmp_path: Path) -> Examination:
    return examine(tmp_path / "hardImageNet", imagenet=tmp_path / "imagenet", official=False)


def examine_hundred(tmp_path: Path) -> Examination:
    return examine(
        tmp_path / "imagenet",
        class_list=tmp_path / "classes.txt",
        annotations=tmp_path / "ILSVRC",
        official=False,
    )


def examine_woof(tmp_path: Path) -> Examination:
    return examine(tmp_path / "imagewoof2-160", official=False)


def test_hard_imagenet_is_healthy_with_its_empty_masks(tmp_path: Path) -> None:
    hard_imagenet(tmp_path)
    found = examine_hard(tmp_path)
    assert findings(found) == {}
    (empty,) = next(check for check in found.checks if check.name == "mask contents").findings
    assert empty.subject.startswith("val/")
    assert any("empty" in note for note in found.notes)


def test_imagenet100_and_imagewoof_are_healthy(tmp_path: Path) -> None:
    imagenet100(tmp_path)
    assert findings(examine_hundred(tmp_path)) == {}
    imagewoof(tmp_path)
    assert findings(examine_woof(tmp_path)) == {}


def test_official_numbers(tmp_path: Path) -> None:
    imagewoof(tmp_path)
    assert findings(examine(tmp_path / "imagewoof2-160"))["fault counts"][0].endswith("the official release has 9,025")
    root, class_list, _ = imagenet100(tmp_path)
    seen = findings(examine(root, class_list=class_list))
    assert seen["fault labels"] == ["3 classes, and the official release has 100"]
    assert "val: 3 images, and the official release has 150" in seen["fault counts"]  # fifty of each class
    assert not any(text.startswith("train") for text in seen["fault counts"])


def folders_of_different_pictures(tmp_path: Path) -> Path:
    """``class_folders``, where images of one name are the same, with other pixels in each."""
    root = class_folders(tmp_path)
    for number, path in enumerate(
        sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"))
    ):
        picture(path, seed=number)
    return root


def test_a_folder_per_class_with_masks(tmp_path: Path) -> None:
    root = folders_of_different_pictures(tmp_path)
    assert findings(examine(root)) == {}
    masks = class_masks(tmp_path, root)
    found = examine(root, masks=masks)
    assert findings(found) == {} and found.checks[4].summary == "all 16 are there"
    mask(masks / "train" / "cat" / "a.png", size=(8, 8))
    assert findings(examine(root, masks=masks)).keys() == {"fault sizes"}
    shutil.copy(root / "train" / "cat" / "a.png", root / "train" / "cat" / "copy.png")
    assert findings(examine(root)) == {}  # no leak: one split, one label
    shutil.copy(root / "train" / "cat" / "a.png", root / "val" / "cat" / "a.png")
    assert findings(examine(root)).keys() == {"fault duplicates"}


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    rows = ("001.A/one.jpg,a,train", "001.A/two.jpg,a,test", "002.B/three.jpg,b,train", "002.B/four.JPG,b,test")
    table(tmp_path, "\n".join(["image,label,split", *rows]))
    assert findings(examine(tmp_path)) == {}
    table(tmp_path, "\n".join(["image,label,split", *rows[:3]]))
    assert findings(examine(tmp_path)).keys() == {"warning labels", "warning other files"}


def lost_image(tmp_path: Path) -> None:
    next((tmp_path / "imagenet" / "train" / "n04120489").glob("*_1.JPEG")).unlink()


def resized_image(tmp_path: Path) -> None:
    picture(tmp_path / "imagenet" / "train" / "n04120489" / "n04120489_1.JPEG", size=(30, 30))


def full_mask(tmp_path: Path) -> None:
    Image.new("L", (20, 16), 9).save(tmp_path / "hardImageNet" / "train" / "n04120489_n04120489_1.JPEG", "PNG")


def pickle_that_runs_code(tmp_path: Path) -> None:
    (tmp_path / "hardImageNet" / "meta" / "hard_imagenet_idx.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")


@pytest.mark.parametrize(
    ("plant", "check", "named"),
    [
        (lost_image, "fault images", "n04120489_1.JPEG: missing"),
        (resized_image, "fault sizes", "20 x 16 pixels (W x H), and its image 30 x 30"),
        (full_mask, "fault mask contents", "full: every pixel is object"),
        (pickle_that_runs_code, "fault tables", "hard_imagenet_idx.pkl"),
    ],
)
def test_faults_of_hard_imagenet(tmp_path: Path, plant: Callable[[Path], None], check: str, named: str) -> None:
    hard_imagenet(tmp_path)
    plant(tmp_path)
    seen = findings(examine_hard(tmp_path))
    assert seen.keys() == {check}
    assert named in seen[check][0]


def test_faults_of_imagenet100(tmp_path: Path) -> None:
    root, _, annotations = imagenet100(tmp_path)
    picture(root / "val" / "n01558993" / "ILSVRC2012_val_00000010.JPEG", size=(50, 50))
    seen = findings(examine_hundred(tmp_path))
    assert "50 x 50 pixels (W x H), and 20 x 16 in the release" in seen["fault sizes"][0]
    write_annotation(next(annotations.rglob("*.xml")).parent, "ILSVRC2012_val_00000010", [("n13037406", (1, 1, 2, 2))])
    assert findings(examine_hundred(tmp_path)).keys() == {"fault tables"}


def test_faults_of_imagewoof(tmp_path: Path) -> None:
    root = imagewoof(tmp_path)
    (lost, *_) = sorted((root / "train" / WOOF).glob("n*.JPEG"))
    lost.unlink()
    seen = findings(examine_woof(tmp_path))
    assert seen.keys() == {"fault images"} and lost.name in seen["fault images"][0]
    picture(root / "train" / "n02086240" / "n02086240_9999.JPEG")
    assert findings(examine_woof(tmp_path)).keys() == {"fault tables"}


def test_copies_across_splits_are_the_release_s_own_in_imagenet(tmp_path: Path) -> None:
    root = imagewoof(tmp_path)
    (first, *_) = sorted((root / "train" / WOOF).glob("n*.JPEG"))
    (other, *_) = sorted((root / "val" / "n02087394").glob("*.JPEG"))
    shutil.copy(first, other)
    found = examine_woof(tmp_path)
    assert findings(found).keys() == {"warning duplicates"} and found.exit_code == 0
    (text,) = findings(found)["warning duplicates"]
    assert f"{WOOF}/{first.name} (train, Shih-Tzu): the same as val/n02087394/{other.name} (val, Rhodesian" in text


def test_a_table_by_its_own_name_and_columns(tmp_path: Path) -> None:
    path = table(tmp_path)
    found = examine(path, columns={"image": "img_filename", "label": "y"}, workers=1)
    assert found.kind == "table" and found.exit_code == 0, findings(found)
    assert (len(found.classes), len(found.places)) == (2, 2)
    assert "fault tables" in findings(examine(path, columns={"image": "file"}))
    with pytest.raises(ValueError, match=r"columns must be among image, .*; got 'picture'"):
        examine(path, columns={"picture": "img_filename"})
    with pytest.raises(ValueError, match="is a table, and --as is 'cub'"):
        examine(path, "cub")
    with pytest.raises(ValueError, match="its columns are fixed: leave --column out"):
        examine(tmp_path, columns={"image": "img_filename"})


def test_a_table_in_a_folder_by_its_columns(tmp_path: Path) -> None:
    table(tmp_path, "file,species\n001.A/one.jpg,a\n002.B/three.jpg,b\n")
    found = examine(tmp_path, columns={"image": "file", "label": "species"}, workers=1)
    assert (found.kind, found.reason) == ("table", "metadata.csv has the columns file and species")
    assert 'image="file", label="species"' in found.next_lines[-1]


def test_the_next_command_says_what_was_said(tmp_path: Path) -> None:
    root = folders_of_different_pictures(tmp_path)
    masks = class_masks(tmp_path, root)
    mask(masks / "train" / "cat" / "a.png", size=(8, 8))
    again = f"aimwrap data doctor {root} --masks {masks} --any-value-is-object   # again, after it is fixed"
    assert examine(root, masks=masks, any_value_is_object=True).next_lines == (again,)
    (masks / "train" / "cat" / "a.png").unlink()
    assert examine(root, masks=masks, any_value_is_object=True).next_lines == (again,)


def test_masks_of_ones_of_ones_own(tmp_path: Path) -> None:
    root = folders_of_different_pictures(tmp_path)
    masks = class_masks(tmp_path, root)
    for path in masks.rglob("*.png"):
        mask(path, value=1)
    assert findings(examine(root, masks=masks, any_value_is_object=True)) == {}
    assert findings(examine(root, masks=masks)) != {}
