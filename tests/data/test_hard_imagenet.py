"""Hard-ImageNet in its official layout, and each way in which copies are broken."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from imagenet_releases import HARD_WNIDS, bomb, hard_imagenet, mask, picture, write_pickle

from aimwrap.data import HardImageNet, read_hard_imagenet


def test_masks_find_their_images_and_labels_follow_the_list(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    release = read_hard_imagenet(root, imagenet)
    assert release.classes == ("class 537", "class 770", "class 655")
    found = [(record.split, record.id, record.label) for record in release.records]
    assert found == [
        ("train", "n03218198_1", 0),
        ("train", "n03218198_2", 0),
        ("train", "n03770439_1", 2),
        ("train", "n03770439_2", 2),
        ("train", "n04120489_1", 1),
        ("train", "n04120489_2", 1),
        ("val", "ILSVRC2012_val_00000000", 0),
        ("val", "ILSVRC2012_val_00000002", 2),
        ("val", "ILSVRC2012_val_00000001", 1),
    ]
    for record in release.records:
        wnid = list(HARD_WNIDS.values())[[537, 770, 655].index(int(release.classes[record.label].split()[1]))]
        assert record.path == imagenet / record.split / wnid / f"{record.id}.JPEG"
        assert record.path.is_file()
        assert record.mask_path == root / record.split / f"{wnid}_{record.id}.JPEG"
    assert any("another than the order" in note for note in release.notes)


def test_any_value_is_object_and_masks_may_be_empty(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    expected = torch.zeros(1, 16, 20)
    expected[..., :10] = 1
    train = HardImageNet(root, imagenet=imagenet)
    for sample in train:  # values 1, 101 and 201
        assert torch.equal(sample.object_mask.as_subclass(torch.Tensor), expected)
    val = HardImageNet(root, "val", imagenet=imagenet)
    assert [float(sample.object_mask.sum()) for sample in val] == [0, 160, 160]  # L, RGBA and RGB
    assert val[1].image.size == (20, 16) and val[1].label == 2
    assert any("empty" in note for note in val.release.notes)


def test_the_folder_above_and_kaggles_layout_will_do(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    kaggle = tmp_path / "kaggle" / "ILSVRC" / "Data"
    kaggle.mkdir(parents=True)
    imagenet.rename(kaggle / "CLS-LOC")
    release = read_hard_imagenet(str(tmp_path), tmp_path / "kaggle")
    assert release.root == root and len(release.records) == 9
    assert all(record.path.is_file() for record in release.records)


def test_without_meta_labels_are_sorted_and_a_note_says_so(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path, meta=False)
    release = read_hard_imagenet(root, imagenet)
    assert release.classes == tuple(sorted(HARD_WNIDS.values()))
    assert [record.label for record in release.records] == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert any("Labels count the 3 sorted WordNet numbers" in note and "has 15" in note for note in release.notes)


@pytest.mark.parametrize(
    "names", [None, ["cat"], {537: "howler"}, "cat" * 1000, {537: ["howler"], 770: ["patio"], 655: ["skirt"]}]
)
def test_without_names_by_number_classes_are_wordnets(names: object, tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    (root / "meta" / "imagenet_classnames.pkl").unlink()
    if names is not None:
        write_pickle(root / "meta" / "imagenet_classnames.pkl", names)
    assert read_hard_imagenet(root, imagenet).classes == ("n03218198", "n04120489", "n03770439")


def test_validation_alone_is_enough(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    shutil.rmtree(imagenet / "train")
    release = read_hard_imagenet(root, imagenet)
    assert {record.split for record in release.records} == {"val"}
    assert any("The split train is left out" in note for note in release.notes)
    with pytest.raises(ValueError, match="split must be among 'val'"):
        HardImageNet(root, imagenet=imagenet)


def test_masks_and_images_may_have_other_suffixes(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    name = "n03218198_n03218198_1"
    (root / "train" / f"{name}.JPEG").rename(root / "train" / f"{name}.png")
    folder = imagenet / "train" / "n03218198"
    (folder / "n03218198_1.JPEG").rename(folder / "n03218198_1.jpg")
    sample = HardImageNet(root, imagenet=imagenet)[0]
    assert sample.path.endswith("n03218198_1.jpg") and float(sample.object_mask.sum()) == 160


def test_a_missing_image_is_noted_and_named_when_opened(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    (imagenet / "train" / "n03218198" / "n03218198_2.JPEG").unlink()
    dataset = HardImageNet(root, imagenet=imagenet)
    assert any("1 of 6 images of train are missing" in note for note in dataset.release.notes)
    with pytest.raises(FileNotFoundError, match=r"n03218198_2\.JPEG is not there"):
        dataset[1]


def sort_out(root: Path, imagenet: Path) -> None:
    for path in list((imagenet / "val").rglob("*.JPEG")):
        path.rename(imagenet / "val" / path.name)
    for folder in list((imagenet / "val").iterdir()):
        if folder.is_dir():
            folder.rmdir()


def rename(folder: str, old: str, new: str):
    return lambda root, imagenet: (root / folder / old).rename(root / folder / new)


FIRST, VAL = "n03218198_n03218198_1.JPEG", "n03218198_ILSVRC2012_val_00000000.JPEG"
BROKEN = {
    "no masks at all": (
        lambda root, imagenet: shutil.rmtree(root),
        FileNotFoundError,
        "root must be the folder hardIm",
    ),
    "no imagenet": (lambda root, imagenet: shutil.rmtree(imagenet), FileNotFoundError, "imagenet must be a folder"),
    "empty masks": (
        lambda root, imagenet: [path.unlink() for path in (root / "val").iterdir()],
        FileNotFoundError,
        "must have masks named",
    ),
    "flat val": (sort_out, ValueError, "are there unsorted.*torchvision.datasets.ImageNet"),
    "lacking class": (
        lambda root, imagenet: shutil.rmtree(imagenet / "val" / "n03770439"),
        FileNotFoundError,
        "lacks the classes n03770439",
    ),
    "no wnid folders": (
        lambda root, imagenet: [path.rename(path.with_name("x" + path.name)) for path in (imagenet / "val").iterdir()],
        FileNotFoundError,
        "folder per WordNet number",
    ),
    "nested masks": (
        lambda root, imagenet: [shutil.rmtree(root / "train"), (root / "train" / "n03218198").mkdir(parents=True)],
        FileNotFoundError,
        "its folders are flat",
    ),
    "two classes in a name": (
        rename("train", FIRST, "n03218198_n03770439_1.JPEG"),
        ValueError,
        "must have the name of",
    ),
    "no class": (rename("train", FIRST, "n03218198_1.JPEG"), ValueError, "must have the name of its image"),
    "other name": (rename("train", FIRST, "mask 1.JPEG"), ValueError, "must have the name of its image"),
    "train mask in val": (rename("val", VAL, FIRST), ValueError, "a mask of val must have the name"),
    "val mask in train": (rename("train", FIRST, VAL), ValueError, "a mask of train must have the name"),
    "two masks": (
        lambda root, imagenet: mask(root / "train" / FIRST.replace("JPEG", "png")),
        ValueError,
        "two masks of n03218198_1",
    ),
    "one list alone": (
        lambda root, imagenet: (root / "meta" / "idx_to_wnid.pkl").unlink(),
        FileNotFoundError,
        r"idx_to_wnid\.pkl is not there",
    ),
    "the other list alone": (
        lambda root, imagenet: (root / "meta" / "hard_imagenet_idx.pkl").unlink(),
        FileNotFoundError,
        r"hard_imagenet_idx\.pkl is not there",
    ),
    "class not listed": (
        lambda root, imagenet: write_pickle(root / "meta" / "hard_imagenet_idx.pkl", [537, 770]),
        ValueError,
        "masks of n03770439, which .* does not list",
    ),
    "list of text": (
        lambda root, imagenet: write_pickle(root / "meta" / "hard_imagenet_idx.pkl", ["537"]),
        ValueError,
        "must hold a list of ImageNet's class numbers",
    ),
    "no list": (
        lambda root, imagenet: write_pickle(root / "meta" / "hard_imagenet_idx.pkl", 537),
        ValueError,
        "must hold a list of ImageNet's class numbers",
    ),
    "repeated number": (
        lambda root, imagenet: write_pickle(root / "meta" / "hard_imagenet_idx.pkl", [537, 770, 655, 655]),
        ValueError,
        "WordNet number of its own",
    ),
    "number without wnid": (
        lambda root, imagenet: write_pickle(root / "meta" / "idx_to_wnid.pkl", {537: "n03218198"}),
        ValueError,
        "must hold a dictionary",
    ),
    "wnids of another kind": (
        lambda root, imagenet: write_pickle(
            root / "meta" / "idx_to_wnid.pkl", {number: f"../{number}" for number in HARD_WNIDS}
        ),
        ValueError,
        "must hold a dictionary",
    ),
    "truncated list": (
        lambda root, imagenet: os.truncate(root / "meta" / "idx_to_wnid.pkl", 20),
        ValueError,
        r"idx_to_wnid\.pkl is not a pickle of numbers",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_variants_have_their_own_errors(name: str, tmp_path: Path) -> None:
    spoil, kind, message = BROKEN[name]
    root, imagenet = hard_imagenet(tmp_path)
    spoil(root, imagenet)
    with pytest.raises(kind, match=message):
        read_hard_imagenet(root, imagenet)


@pytest.mark.parametrize("name", ["hard_imagenet_idx", "idx_to_wnid", "imagenet_classnames"])
def test_hostile_lists_run_nothing(name: str, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "witness"),)

    root, imagenet = hard_imagenet(tmp_path)
    (root / "meta" / f"{name}.pkl").write_bytes(pickle.dumps([Hostile()]))
    with pytest.raises(ValueError, match=rf"{name}\.pkl is not a pickle of .*asks for .*mkdir.*hostile"):
        read_hard_imagenet(root, imagenet)
    assert not (tmp_path / "witness").exists()


def test_the_ranking_is_never_opened(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    (root / "meta" / "paths_by_rank.pkl").write_bytes(b"no pickle")
    assert len(read_hard_imagenet(root, imagenet).records) == 9


def test_damaged_files_are_named_when_opened(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    dataset = HardImageNet(root, imagenet=imagenet)
    mask(dataset.records[0].mask_path, size=(10, 8))
    os.truncate(dataset.records[1].path, dataset.records[1].path.stat().st_size - 60)
    os.truncate(dataset.records[2].mask_path, 50)
    bomb(dataset.records[3].path)
    bomb(dataset.records[4].mask_path)
    dataset.records[5].path.unlink()
    dataset.records[5].path.symlink_to(tmp_path / "annex" / "gone")
    for index, message in enumerate(
        ["8 x 10 pixels", "is not complete", "is not complete", "not decoded", "not decoded"]
    ):
        with pytest.raises(ValueError, match=message):
            dataset[index]
    with pytest.raises(FileNotFoundError, match="is not there"):
        dataset[5]


def test_cmyk_and_grey_images_come_as_rgb(tmp_path: Path) -> None:
    root, imagenet = hard_imagenet(tmp_path)
    dataset = HardImageNet(root, imagenet=imagenet)
    for index, mode in enumerate(["CMYK", "L"]):
        picture(dataset.records[index].path, mode=mode)
        assert dataset[index].image.mode == "RGB"
