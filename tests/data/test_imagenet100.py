"""ImageNet-100 from a complete ImageNet and from its own folder, with labels as ImageFolder has them."""

import shutil
from pathlib import Path

import pytest
from imagenet_releases import CLASSES, imagenet100, picture, write_annotation
from torchvision.datasets import ImageFolder

from aimwrap.data import ImageNet100, read_imagenet100
from aimwrap.data.sets import imagenet100 as module

OTHER = "n01440764"


def test_labels_are_those_of_image_folder_on_the_subset(tmp_path: Path) -> None:
    root, class_list, _ = imagenet100(tmp_path)
    release = read_imagenet100(root, class_list)
    assert release.classes == CLASSES
    shutil.rmtree(root / "train" / OTHER)
    shutil.rmtree(root / "val" / OTHER)
    assert read_imagenet100(root, class_list).records == release.records
    for split in ("train", "val"):
        samples = [(str(record.path), record.label) for record in release.records if record.split == split]
        assert samples == ImageFolder(root / split).samples
    assert any("0 is n01558993, and not n02869837" in note for note in release.notes)


def test_validation_samples_have_their_boxes(tmp_path: Path) -> None:
    root, class_list, annotations = imagenet100(tmp_path)
    val = ImageNet100(root, "val", class_list=class_list, annotations=annotations)
    for sample in val:
        assert sample.boxes.tolist() == [[0, 0, 20, 16], [4, 5, 5, 6]]
        assert tuple(sample.boxes.canvas_size) == (16, 20)
    assert ImageNet100(root, class_list=class_list, annotations=annotations)[0].boxes is None
    assert ImageNet100(root, "val", class_list=class_list)[0].boxes is None


def test_only_boxes_of_the_own_class_are_taken(tmp_path: Path) -> None:
    root, class_list, annotations = imagenet100(tmp_path)
    folder = annotations / "Annotations" / "CLS-LOC" / "val"
    write_annotation(folder, "ILSVRC2012_val_00000010", [(OTHER, (1, 1, 2, 2)), (CLASSES[0], (3, 3, 9, 9))])
    val = ImageNet100(root, "val", class_list=class_list, annotations=folder)
    assert val[0].boxes.tolist() == [[2, 2, 9, 9]]


def test_the_list_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, class_list, _ = imagenet100(tmp_path)
    note = read_imagenet100(root, class_list).notes[0]
    md5 = note.partition("(MD5 ")[2][:32]
    assert "is not the list of Contrastive Multiview Coding" in note and "It has 3 classes, not 100" in note
    monkeypatch.setattr(module, "CMC_LIST_MD5", md5)
    assert "is the list of Contrastive Multiview Coding" in read_imagenet100(root, class_list).notes[0]
    class_list.write_bytes(class_list.read_bytes().replace(b"\n", b"\r\n"))
    assert "is the list of Contrastive Multiview Coding" in read_imagenet100(root, class_list).notes[0]
    class_list.write_text("".join(f"{wnid}\n" for wnid in CLASSES))  # sorted: another file
    assert "is not the list" in read_imagenet100(root, class_list).notes[0]


def test_validation_alone_is_enough(tmp_path: Path) -> None:
    root, class_list, _ = imagenet100(tmp_path)
    shutil.rmtree(root / "train")
    release = read_imagenet100(root, class_list)
    assert {record.split for record in release.records} == {"val"}
    assert any("The split train is left out" in note for note in release.notes)


def test_a_resized_image_is_refused_with_boxes(tmp_path: Path) -> None:
    root, class_list, annotations = imagenet100(tmp_path)
    val = ImageNet100(root, "val", class_list=class_list, annotations=annotations)
    picture(val.records[0].path, size=(40, 32))
    with pytest.raises(ValueError, match=r"32 x 40 pixels .* and 16 x 20 in the release"):
        val[0]
    assert ImageNet100(root, "val", class_list=class_list)[0].image.size == (40, 32)


def boxes_folder(annotations: Path) -> Path:
    return annotations / "Annotations" / "CLS-LOC" / "val"


def shuffle(root: Path, class_list: Path, annotations: Path) -> None:
    folder = boxes_folder(annotations)
    (folder / "ILSVRC2012_val_00000011.xml").replace(folder / "ILSVRC2012_val_00000010.xml")
    write_annotation(folder, "ILSVRC2012_val_00000011", [(CLASSES[1], (1, 1, 2, 2))])


BROKEN = {
    "no root": (lambda r, c, a: shutil.rmtree(r), FileNotFoundError, "root must be a folder with train/ or val/"),
    "no list": (lambda r, c, a: c.unlink(), FileNotFoundError, "class_list must be a text file"),
    "empty list": (lambda r, c, a: c.write_text("\n"), ValueError, "has no line"),
    "list of names": (
        lambda r, c, a: c.write_text("n02869837 bonnet\n"),
        ValueError,
        "1 other lines, such as 'n028698",
    ),
    "a picture as list": (lambda r, c, a: picture(c.with_name("x.png")).replace(c), ValueError, "WordNet numbers"),
    "repeated class": (lambda r, c, a: c.write_text(f"{CLASSES[0]}\n" * 2), ValueError, "n01558993 more than once"),
    "enormous list": (lambda r, c, a: c.write_text("n02869837\n" * 10_000), ValueError, "too long for one"),
    "lacking class": (
        lambda r, c, a: shutil.rmtree(r / "val" / CLASSES[2]),
        FileNotFoundError,
        r"val lacks 1 of the 3 classes .*n13037406",
    ),
    "empty class": (
        lambda r, c, a: [path.unlink() for path in (r / "train" / CLASSES[0]).iterdir()],
        FileNotFoundError,
        "n01558993 has no image",
    ),
    "class full of other files": (
        lambda r, c, a: [path.rename(path.with_suffix(".tar")) for path in (r / "train" / CLASSES[0]).iterdir()],
        FileNotFoundError,
        "n01558993 has no image",
    ),
    "picture in the wrong class": (
        lambda r, c, a: (r / "train" / CLASSES[0] / f"{CLASSES[0]}_2.JPEG").rename(
            r / "train" / CLASSES[1] / f"{CLASSES[0]}_2.JPEG"
        ),
        ValueError,
        "is in the folder of n02869837 and is named as an image of n01558993",
    ),
    "no annotations": (lambda r, c, a: shutil.rmtree(a), FileNotFoundError, "annotations must be the folder"),
    "lacking annotation": (
        lambda r, c, a: (boxes_folder(a) / "ILSVRC2012_val_00000012.xml").unlink(),
        FileNotFoundError,
        r"lacks the annotations of 1 of 3 validation images, such as ILSVRC2012_val_00000012\.xml",
    ),
    "shuffled annotations": (
        shuffle,
        ValueError,
        "annotation of ILSVRC2012_val_00000011, and not of ILSVRC2012_val_00000010",
    ),
    "boxes of another class": (
        lambda r, c, a: write_annotation(boxes_folder(a), "ILSVRC2012_val_00000010", [(OTHER, (1, 1, 2, 2))]),
        ValueError,
        "has boxes of n01440764, and none of n01558993",
    ),
    "no boxes": (
        lambda r, c, a: write_annotation(boxes_folder(a), "ILSVRC2012_val_00000010", []),
        ValueError,
        "has boxes of nothing",
    ),
    "truncated annotation": (
        lambda r, c, a: (boxes_folder(a) / "ILSVRC2012_val_00000010.xml").write_text("<annotation><fold"),
        ValueError,
        r"00000010\.xml is not a complete XML",
    ),
}


def test_a_placeholder_for_the_name_is_no_other_name(tmp_path: Path) -> None:
    root, class_list, annotations = imagenet100(tmp_path)
    write_annotation(boxes_folder(annotations), "ILSVRC2012_val_00000010", [(CLASSES[0], (1, 1, 2, 2))], filename="%s")
    assert ImageNet100(root, "val", class_list=class_list, annotations=annotations)[0].boxes.tolist() == [[0, 0, 2, 2]]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_variants_have_their_own_errors(name: str, tmp_path: Path) -> None:
    spoil, kind, message = BROKEN[name]
    root, class_list, annotations = imagenet100(tmp_path)
    spoil(root, class_list, annotations)
    with pytest.raises(kind, match=message):
        read_imagenet100(root, class_list, annotations)


def test_flat_validation_is_explained(tmp_path: Path) -> None:
    root, class_list, _ = imagenet100(tmp_path)
    shutil.rmtree(root / "val")
    picture(root / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(ValueError, match=r"1 images are there unsorted.*LOC_val_solution\.csv"):
        read_imagenet100(root, class_list)


def test_the_list_may_come_from_windows(tmp_path: Path) -> None:
    root, class_list, _ = imagenet100(tmp_path)
    before = ImageNet100(root, class_list=class_list)
    class_list.write_bytes(b"\xef\xbb\xbf" + class_list.read_bytes().replace(b"\n", b"\r\n"))
    after = ImageNet100(root, class_list=class_list)
    assert (after.records, after.release.notes) == (before.records, before.release.notes)
