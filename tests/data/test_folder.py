"""Folders of classes are read as torchvision's ImageFolder reads them, with masks next to them."""

import shutil
from pathlib import Path

import pytest
import torch
from imagenet_releases import class_folders, class_masks, mask, picture
from torchvision.datasets import ImageFolder

from aimwrap.data import LabelledFolder, read_folder
from aimwrap.data.io import pictures_below


@pytest.mark.parametrize("splits", [("train", "val"), ("Train", "Valid", "TEST"), ()])
def test_samples_are_those_of_image_folder(splits: tuple[str, ...], tmp_path: Path) -> None:
    root = class_folders(tmp_path, splits)
    release = read_folder(root)
    assert release.classes == ("cat", "dog")
    names = {"Train": "train", "Valid": "val", "TEST": "test"}
    for split in splits or ("",):
        shutil.rmtree(root / split / ".ipynb_checkpoints")  # ImageFolder takes it for a class
        known = names.get(split, split or "train")
        samples = [(str(record.path), record.label) for record in release.records if record.split == known]
        assert samples == ImageFolder(root / split).samples
    assert len(release.records) == 8 * len(splits or [1])
    assert release.records[0].id == "/".join([*splits[:1], "cat", "10.bmp"])


def test_files_in_deeper_folders_are_ordered_as_in_image_folder(tmp_path: Path) -> None:
    for relative in (
        "a/b/1.jpg",
        "a/2.jpg",
        "a-b/3.jpg",
        "a/b-c/4.jpg",
        "a.d/5.jpg",
        "B/6.jpg",
        "a/b/c/7.jpg",
        "a/b.jpg",
    ):
        picture(tmp_path / "root" / "only" / relative)
    found = [str(tmp_path / "root" / "only" / relative) for relative in pictures_below(tmp_path / "root" / "only")]
    assert found == [path for path, _ in ImageFolder(tmp_path / "root").samples]


def test_masks_of_the_same_name_are_read(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    masks = class_masks(tmp_path, root)
    dataset = LabelledFolder(root, "val", masks=masks)
    assert len(dataset) == 8
    for record, sample in zip(dataset.records, dataset, strict=True):
        assert record.mask_path == (masks / record.id).with_suffix(".png")
        assert float(sample.object_mask.mean()) == 0.5
    assert LabelledFolder(root, "val")[0].object_mask is None


@pytest.mark.parametrize("value", [1, 7, 255])
def test_any_value_can_mean_the_object(value: int, tmp_path: Path) -> None:
    root = class_folders(tmp_path, ())
    masks = class_masks(tmp_path, root)
    for path in masks.rglob("*.png"):
        mask(path, value=value)
    sample = LabelledFolder(root, masks=masks, any_value_is_object=True)[0]
    assert sample.object_mask.unique().tolist() == [0, 1] and float(sample.object_mask.mean()) == 0.5


def test_masks_may_lie_inside_of_root_and_be_there_for_one_split(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    masks = class_masks(tmp_path, root).rename(root / "masks")
    shutil.rmtree(masks / "train")
    release = read_folder(root, masks=masks)
    assert all((record.mask_path is not None) == (record.split == "val") for record in release.records)
    assert any("The split train has no masks" in note for note in release.notes)


def test_a_split_without_a_class_keeps_the_numbers(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    shutil.rmtree(root / "val" / "cat")
    release = read_folder(root)
    assert {(record.path.parent.name, record.label) for record in release.records if record.split == "val"} == {
        ("dog", 1),
        ("more", 1),
    }
    assert any("The split val lacks the classes cat" in note for note in release.notes)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "car"):
        picture(tmp_path / "vehicles" / name / "1.jpg")
    release = read_folder(tmp_path / "vehicles")
    assert release.classes == ("car", "train")
    assert release.notes == ("The folder train is read as a class, not as a split.",)


@pytest.mark.parametrize("name", ["test", "val", "Testing", "Train set", "test_images", "PublicTest"])
def test_loose_images_of_a_split_are_no_class(name: str, tmp_path: Path) -> None:
    for folder in ("cat", "dog", name):
        picture(tmp_path / "pets" / folder / "1.jpg")
    with pytest.raises(ValueError, match=f"has images of no class in {name}; .* rename the folder"):
        read_folder(tmp_path / "pets")


def test_linked_folders_are_followed_and_dangling_links_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path, ())
    (tmp_path / "elsewhere").mkdir()
    picture(tmp_path / "elsewhere" / "1.jpg")
    (root / "emu").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "z.jpg").symlink_to(tmp_path / "gone.jpg")
    (root / "dog" / "itself").symlink_to(root / "dog" / "itself")
    dataset = LabelledFolder(root)
    assert dataset.classes == ("cat", "dog", "emu") and dataset[-1].label == 2
    with pytest.raises(FileNotFoundError, match=r"z\.jpg is not there"):
        dataset[-3]  # before dog/more/c.Jpeg and emu/1.jpg


def test_many_files_are_listed_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder is listed once, and no file is looked at by itself."""
    import os

    from aimwrap.data import io as listing

    root = class_folders(tmp_path)
    scanned = []
    scan = os.scandir
    monkeypatch.setattr(listing.os, "scandir", lambda folder: scanned.append(str(folder)) or scan(folder))
    monkeypatch.setattr(Path, "is_file", lambda self: pytest.fail("is_file"))
    monkeypatch.setattr(Path, "exists", lambda self: pytest.fail("exists"))
    assert len(read_folder(root).records) == 16
    below = [path for path in scanned if "cat" in path or "dog" in path]
    assert len(below) == len(set(below)) == 8  # two splits, two classes, a folder in each


def loop(root: Path, masks: Path) -> None:
    (root / "train" / "cat" / "loop").symlink_to(root / "train")


BROKEN = {
    "no root": (lambda root, masks: shutil.rmtree(root), FileNotFoundError, "root must be a folder"),
    "empty root": (
        lambda root, masks: [shutil.rmtree(root), root.mkdir()],
        FileNotFoundError,
        "must have a folder per class, and has none",
    ),
    "empty class": (
        lambda root, masks: (root / "val" / "emu").mkdir(),
        FileNotFoundError,
        "emu has no image, so its class would be empty; remove the folder",
    ),
    "class of other files": (
        lambda root, masks: [(root / "val" / "emu").mkdir(), (root / "val" / "emu" / "a.gif.txt").write_text("")],
        FileNotFoundError,
        "emu has no image",
    ),
    "empty split": (
        lambda root, masks: [shutil.rmtree(root / "val"), (root / "val").mkdir()],
        ValueError,
        r"folders of splits \(train\) and others \(val\)",
    ),
    "masks among the splits": (
        lambda root, masks: class_masks(root, root / "val"),
        ValueError,
        r"folders of splits \(train, val\) and others \(masks\)",
    ),
    "a class among the splits": (
        lambda root, masks: picture(root / "emu" / "1.jpg"),
        ValueError,
        r"and others \(emu\)",
    ),
    "two splits of one name": (
        lambda root, masks: shutil.copytree(root / "val", root / "validation"),
        ValueError,
        "two folders of the split val, val and validation",
    ),
    "loop": (loop, ValueError, "is a link that leads back"),
    "lacking mask": (
        lambda root, masks: (masks / "val" / "cat" / "a.png").unlink(),
        FileNotFoundError,
        r"lacks the masks of 1 of 8 images, such as that of cat/a\.png",
    ),
    "two masks": (
        lambda root, masks: mask(masks / "val" / "cat" / "a.bmp"),
        ValueError,
        "two masks of one name",
    ),
    "pictures of one name": (
        lambda root, masks: picture(root / "val" / "cat" / "a.jpg"),
        ValueError,
        "2 images named cat/a without their suffixes, which would share one mask",
    ),
    "masks of something else": (
        lambda root, masks: [shutil.rmtree(masks), picture(masks / "x" / "1.png")],
        FileNotFoundError,
        "masks must be a folder with the same folders",
    ),
    "no masks": (lambda root, masks: shutil.rmtree(masks), FileNotFoundError, "masks must be a folder with the same"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_variants_have_their_own_errors(name: str, tmp_path: Path) -> None:
    spoil, kind, message = BROKEN[name]
    root = class_folders(tmp_path)
    masks = class_masks(tmp_path, root)
    spoil(root, masks)
    with pytest.raises(kind, match=message):
        read_folder(root, masks=masks)


def test_images_outside_of_classes_are_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path, ())
    picture(root / "1.jpg")
    with pytest.raises(ValueError, match=r"1 images next to its folders of classes, such as 1\.jpg"):
        read_folder(root)


def test_masks_of_other_sizes_are_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path, ())
    masks = class_masks(tmp_path, root)
    mask(masks / "cat" / "10.png", size=(16, 20))  # turned
    dataset = LabelledFolder(root, masks=masks)
    with pytest.raises(ValueError, match="20 x 16 pixels"):
        dataset[0]
    assert isinstance(dataset[1].object_mask, torch.Tensor)


@pytest.mark.parametrize("links", [("cat/x",), ("cat/x", "dog/y"), ("cat/x", "cat/z", "dog/y", "dog/w")])
def test_links_that_lead_in_a_circle_are_refused(links: tuple[str, ...], tmp_path: Path) -> None:
    """Two folders that link to each other, twice, would be listed 2 to the 40th times."""
    for name in ("cat", "dog"):
        picture(tmp_path / "pets" / name / "1.jpg")
    for link in links:
        (tmp_path / "pets" / link).symlink_to(tmp_path / "pets" / ("dog" if link.startswith("cat") else "cat"))
    if links == ("cat/x",):
        assert len(LabelledFolder(tmp_path / "pets")) == 3, "a link to a folder that leads nowhere else is followed"
    else:
        with pytest.raises(ValueError, match="link that leads back to a folder above"):
            LabelledFolder(tmp_path / "pets")
