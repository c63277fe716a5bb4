"""What all readers of ImageNet's relatives, class folders and tables have in common."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from imagenet_releases import class_folders, class_masks, hard_imagenet, imagenet100, imagewoof, mask, table
from PIL import Image

from aimwrap import data
from aimwrap.data.release import ReleaseDataset


def with_hard_imagenet(folder: Path) -> Callable[[str], ReleaseDataset]:
    root, imagenet = hard_imagenet(folder)
    return lambda home: data.HardImageNet(home + root.name, imagenet=home + imagenet.name)


def with_imagenet100(folder: Path) -> Callable[[str], ReleaseDataset]:
    root, classes, boxes = imagenet100(folder)
    return lambda home: data.ImageNet100(
        home + root.name, class_list=home + classes.name, annotations=home + boxes.name
    )


def with_imagewoof(folder: Path) -> Callable[[str], ReleaseDataset]:
    root = imagewoof(folder)
    return lambda home: data.ImageWoof(home + root.name)


def with_folder(folder: Path) -> Callable[[str], ReleaseDataset]:
    root = class_folders(folder)
    masks = class_masks(folder, root)
    return lambda home: data.LabelledFolder(home + root.name, masks=home + masks.name)


def with_table(folder: Path) -> Callable[[str], ReleaseDataset]:
    path = table(folder)
    return lambda home: data.LabelledTable(home + path.name, image="img_filename", label="y")


READERS = [with_hard_imagenet, with_imagenet100, with_imagewoof, with_folder, with_table]


@pytest.mark.parametrize("make", READERS)
def test_no_image_is_opened_before_it_is_asked_for(
    make: Callable[[Path], Callable[[str], ReleaseDataset]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = make(tmp_path)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened a picture"))
    assert len(opened(f"{tmp_path}/")) > 1


@pytest.mark.parametrize("make", READERS)
def test_every_sample_is_as_its_record_says(
    make: Callable[[Path], Callable[[str], ReleaseDataset]], tmp_path: Path
) -> None:
    dataset = make(tmp_path)(f"{tmp_path}/")
    assert len({record.id for record in dataset.records}) == len(dataset)
    for record, sample, label in zip(dataset.records, dataset, dataset.labels.tolist(), strict=True):
        assert (sample.id, sample.path, sample.label) == (record.id, str(record.path), record.label)
        assert label == record.label < len(dataset.classes)
        assert sample.image.mode == "RGB" and sample.image.size == (20, 16)
        assert (sample.object_mask is None) == (record.mask_path is None)


@pytest.mark.parametrize("make", READERS)
def test_the_home_folder_may_be_written_short(
    make: Callable[[Path], Callable[[str], ReleaseDataset]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = make(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened("~/").records == opened(f"{tmp_path}/").records


@pytest.mark.parametrize("make", READERS)
def test_data_sets_go_to_workers(make: Callable[[Path], Callable[[str], ReleaseDataset]], tmp_path: Path) -> None:
    dataset = make(tmp_path)(f"{tmp_path}/")
    again = pickle.loads(pickle.dumps(dataset))
    assert again.records == dataset.records and again[0].image.tobytes() == dataset[0].image.tobytes()


def test_masks_are_matched_by_name(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    masks = class_masks(tmp_path, root)
    mask(masks / "train" / "cat" / "10.png", value=0)
    dataset = data.LabelledFolder(root, masks=masks)
    assert [sample.id for sample in dataset if not sample.object_mask.any()] == ["train/cat/10.bmp"]
