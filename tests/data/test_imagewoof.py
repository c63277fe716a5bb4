"""ImageWoof's layout, its noisy labels, and which of its images pretrained networks have seen."""

import csv
import shutil
from pathlib import Path

import pytest
from imagenet_releases import WRONG_BREEDS, imagewoof, picture
from torchvision.datasets import ImageFolder

from aimwrap.data import ImageWoof, read_imagewoof
from aimwrap.data.sets.imagewoof import BREEDS, WNIDS


@pytest.mark.parametrize("table", [True, False])
def test_labels_are_those_of_image_folder(table: bool, tmp_path: Path) -> None:
    root = imagewoof(tmp_path)
    (root / "train" / WNIDS[0] / "._hidden.JPEG").unlink()  # ImageFolder reads it as an image
    if not table:
        (root / "noisy_imagewoof.csv").unlink()
    release = read_imagewoof(root)
    for split in ("train", "val"):
        samples = [(str(record.path), record.label) for record in release.records if record.split == split]
        assert samples == ImageFolder(root / split).samples
    assert release.classes == tuple(BREEDS.values()) and list(WNIDS) == sorted(WNIDS)
    assert any("not known whether images are missing" in note for note in release.notes) is not table
    assert any("has 9025 training and 3929 validation images" in note for note in release.notes)


@pytest.mark.parametrize("name", ["imagewoof2", "imagewoof2-320", "imagewoof2-160", "dogs"])
def test_the_folder_above_will_do(name: str, tmp_path: Path) -> None:
    root = imagewoof(tmp_path, name)
    assert read_imagewoof(root).root == root
    if name == "dogs":
        with pytest.raises(FileNotFoundError, match="root must be imagewoof2"):
            read_imagewoof(tmp_path)
    else:
        assert read_imagewoof(str(tmp_path)).root == root


def test_several_sizes_need_a_choice(tmp_path: Path) -> None:
    imagewoof(tmp_path, "imagewoof2")
    imagewoof(tmp_path, "imagewoof2-320")
    with pytest.raises(ValueError, match=r"imagewoof2 and imagewoof2-320.*pass one"):
        read_imagewoof(tmp_path)


def test_seen_images_are_known_by_their_names(tmp_path: Path) -> None:
    root = imagewoof(tmp_path)
    val = ImageWoof(root, "val")
    expected = [not Path(sample.path).name.startswith("ILSVRC") for sample in val]
    assert val.seen_in_pretraining.tolist() == expected and sum(expected) == 9
    unseen = ImageWoof(root, "val", unseen_only=True)
    assert [record.id for record in unseen.records] == ["ILSVRC2012_val_00000042"]
    assert not unseen.seen_in_pretraining.any() and unseen[0].label == 4
    assert [record.id for record in ImageWoof(root, unseen_only=True).records] == ["ILSVRC2012_val_00000041"]
    assert "1 training images remain, and 1 validation images are few" in unseen.release.notes[-1]
    assert any("1 validation images are few" in note and "58.8 points" in note for note in unseen.release.notes)
    note = next(note for note in val.release.notes if "pretrained" in note)
    assert "trained on 9 of the 10 validation images, and not on the other 1" in note
    assert "1 of the 20 training images are of ImageNet's validation set" in note


def test_nothing_unseen_is_an_error(tmp_path: Path) -> None:
    root = imagewoof(tmp_path)
    (root / "noisy_imagewoof.csv").unlink()
    for path in root.rglob("ILSVRC*"):
        path.rename(path.with_name(f"{path.parent.name}_1.JPEG"))
    with pytest.raises(ValueError, match="unseen_only=True leaves no image"):
        read_imagewoof(root, unseen_only=True)


@pytest.mark.parametrize("share", [1, 5, 25, 50])
def test_noise_changes_training_labels_alone(share: int, tmp_path: Path) -> None:
    root = imagewoof(tmp_path)
    clean, noisy = read_imagewoof(root), read_imagewoof(root, noisy_labels=share)
    assert [record.path for record in clean.records] == [record.path for record in noisy.records]
    for before, after in zip(clean.records, noisy.records, strict=True):
        changed = before.label < WRONG_BREEDS[share] and before.split == "train" and before.id.endswith("_20")
        assert after.label == ((before.label + 1) % 10 if changed else before.label)
    assert any(f"{share} % noise" in note for note in noisy.notes)
    train = ImageWoof(root, noisy_labels=share)
    assert train[0].label == 1  # n02086240_20
    assert int((train.labels != ImageWoof(root).labels).sum()) == WRONG_BREEDS[share]


@pytest.mark.parametrize("swapped", [(1, 5), (5, 25), (25, 50)])
def test_columns_of_noise_must_have_their_noise(tmp_path: Path, swapped: tuple[int, int]) -> None:
    """With two columns swapped, results with 5 % of noise were results with 50 %."""
    root, levels = imagewoof(tmp_path), (1, 5, 25, 50)
    with (root / "noisy_imagewoof.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number in range(5000):
        wnid, other = WNIDS[number % 10], WNIDS[(number + 1) % 10]
        noisy = {f"noisy_labels_{level}": other if number // 10 % 100 < level else wnid for level in levels}
        path = f"train/{wnid}/{wnid}_{number + 1000}.JPEG"
        rows.append({"path": path, "noisy_labels_0": wnid, **noisy, "is_valid": "False"})
    header = ["path", "noisy_labels_0", *(f"noisy_labels_{level}" for level in levels), "is_valid"]
    for names in (dict(zip(levels, levels, strict=True)), dict(zip(swapped, swapped[::-1], strict=True))):
        with (root / "noisy_imagewoof.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for row in rows:
                level_of = {f"noisy_labels_{level}": f"noisy_labels_{names.get(level, level)}" for level in levels}
                writer.writerow([row[level_of.get(column, column)] for column in header])
        for level in swapped:
            if names[level] == level:
                assert len(read_imagewoof(root, noisy_labels=level).records) == 5030
            else:
                with pytest.raises(
                    ValueError, match=rf"must have {level} % wrong training labels, and has {names[level]}"
                ):
                    read_imagewoof(root, noisy_labels=level)


def test_a_listed_image_that_is_missing_is_named_when_opened(tmp_path: Path) -> None:
    root = imagewoof(tmp_path)
    (root / "val" / WNIDS[3] / f"{WNIDS[3]}_7.JPEG").rename(root / "val" / WNIDS[3] / "ILSVRC2012_val_00000043.JPEG")
    with pytest.raises(ValueError, match=r"00000043.JPEG and 0 more images are not in"):
        read_imagewoof(root)
    (root / "val" / WNIDS[3] / "ILSVRC2012_val_00000043.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match="n02089973 has no image"):
        read_imagewoof(root)
    (root / "train" / WNIDS[3] / f"{WNIDS[3]}_3.JPEG").unlink()
    picture(root / "val" / WNIDS[3] / f"{WNIDS[3]}_7.JPEG")
    train = ImageWoof(root)
    assert len(train) == 20
    with pytest.raises(FileNotFoundError, match=r"n02089973_3\.JPEG is not there"):
        train[[record.id for record in train.records].index("n02089973_3")]


def change(column: str, value: str, line: int = -1):
    def spoil(root: Path) -> None:
        path = root / "noisy_imagewoof.csv"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        rows[line][column] = value
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    return spoil


def replace(old: str, new: str):
    def spoil(root: Path) -> None:
        path = root / "noisy_imagewoof.csv"
        path.write_text(path.read_text().replace(old, new))

    return spoil


first = f"train/{WNIDS[0]}/{WNIDS[0]}_3.JPEG"  # the last line of the table; its first is val/n02115641/...
BROKEN = {
    "no folder": (shutil.rmtree, FileNotFoundError, "root must be imagewoof2"),
    "no val": (lambda root: shutil.rmtree(root / "val"), FileNotFoundError, "with train/ and val/ in it"),
    "no table": (lambda root: (root / "noisy_imagewoof.csv").unlink(), FileNotFoundError, "csv is not there"),
    "lacking breed": (lambda root: shutil.rmtree(root / "val" / WNIDS[9]), FileNotFoundError, "folders of n02115641"),
    "imagenette's class": (lambda root: picture(root / "train/n01440764/n01440764_1.JPEG"), ValueError, "n01440764"),
    "wrong breed": (
        lambda root: (root / first).rename(root / "train" / WNIDS[1] / f"{WNIDS[0]}_3.JPEG"),
        ValueError,
        "is in the folder of n02087394 and is named as an image of n02086240",
    ),
    "renamed": (
        lambda root: (root / first).rename((root / first).with_name("0.jpg")),
        ValueError,
        "named as in ImageNet",
    ),
    "added": (lambda root: picture(root / "val" / WNIDS[0] / f"{WNIDS[0]}_9.JPEG"), ValueError, "are not in"),
    "lacking column": (replace("noisy_labels_25", "noisy"), ValueError, "lacks noisy_labels_25"),
    "climbing": (change("path", f"train/../{first}"), ValueError, r"without '\.\.'"),
    "absolute": (change("path", f"/{first}"), ValueError, "without a leading '/'"),
    "other split": (change("path", first.replace("train", "test")), ValueError, "path must be train/ or val/"),
    "deeper": (change("path", first.replace("train", "train/a")), ValueError, "path must be train/ or val/"),
    "no picture": (change("path", first.replace("n02086240_3", "x")), ValueError, "path must be train/ or val/"),
    "no WordNet number": (change("path", first.replace("n02086240/", "dog/")), ValueError, "'n02086240' and"),
    "wrong split": (change("is_valid", "True"), ValueError, "is_valid must be True for val/ and False for train/"),
    "split as code": (change("is_valid", "0"), ValueError, "is_valid must be True for val/"),
    "unknown label": (change("noisy_labels_25", "n01440764"), ValueError, "one of the ten breeds'"),
    "label as number": (change("noisy_labels_25", "3"), ValueError, "one of the ten breeds'"),
    "wrong clean label": (change("noisy_labels_0", WNIDS[1]), ValueError, "must be the folder's WordNet number"),
    "noise in validation": (change("noisy_labels_25", WNIDS[1], 0), ValueError, r"in val/ the same"),
    "repeated line": (change("path", first, -2), ValueError, "is there twice"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_variants_have_their_own_errors(name: str, tmp_path: Path) -> None:
    spoil, kind, message = BROKEN[name]
    root = imagewoof(tmp_path)
    spoil(root)
    with pytest.raises(kind, match=message):
        read_imagewoof(root, noisy_labels=25)


@pytest.mark.parametrize("value", [2, "25", 100, -1, None])
def test_noise_must_be_one_of_the_releases(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="noisy_labels must be 0, 1, 5, 25 or 50"):
        read_imagewoof(imagewoof(tmp_path), noisy_labels=value)
