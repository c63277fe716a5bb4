"""Reports of users whose folders were one level off, and trained happily (kind: a layout that is misread)."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from aimwrap import AIM, Preprocessing
from aimwrap.cli.app import app
from aimwrap.data import examine, read_folder, read_table
from aimwrap.data.registry import read_by_name
from aimwrap.train import Settings
from aimwrap.train.data import read_splits


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
    "splits in the classes' names": (("cat_train", "cat_test", "dog_train", "dog_test"), "one class in several splits"),
    "splits before the classes' names": (("trainA", "trainB", "testA", "testB"), "one class in several splits"),
    "some splits in the classes' names": (("cat", "cat-test", "dog", "dog-test"), "one class in several splits"),
    "masks in the classes' names": (("cat", "cat_masks", "dog", "dog_masks"), "in several splits, or with its masks"),
    "images and masks in the names": (("cat_images", "cat_masks", "dog"), "in several splits, or with its masks"),
    "different splits below classes": (("cat/train", "cat/val", "dog/train"), "seem to be above the classes"),
    "two sets that share a class": (("setA/cat", "setA/dog", "setB/cat", "setB/bird"), "seem to be above the classes"),
    "parts of an archive": (("skin_images_part_1", "skin_images_part_2"), "hold kinds of files or parts"),
    "a class of the test only": (
        ("train/cat", "train/dog", "test/cats", "test/dogs"),
        "no training image of cats, dogs, which other splits have",
    ),
    "masks in a class's folder": (("cat", "cat/masks", "dog"), "cat has masks or thumbnails among its images"),
    "masks beside images in a class": (
        ("cat/images", "cat/masks", "dog"),
        "cat has masks or thumbnails among its images",
    ),
    "short names of splits without classes": (("trn", "tst"), "has images of no class in "),
    "short splits in the classes' names": (("cat_trn", "cat_tst", "dog_trn", "dog_tst"), "one class in several splits"),
    "a copy of a class": (("cat", "cat - Copy", "dog"), "one class in several splits, or with its masks or copies"),
    "a second copy of a class": (("cat", "dog", "dog (1)"), "one class in several splits, or with its masks or copies"),
    "augmented copies": (("cat", "cat_augmented", "dog", "dog_augmented"), "or with its masks or copies"),
    "thumbnails in a class's folder": (("cat", "cat/thumb", "dog"), "cat has masks or thumbnails among its images"),
    "classes below patients": (("p1/well", "p2/well", "p2/ill", "p3/well", "p3/ill"), "above the classes (ill, well)"),
    "classes below patients, of whom none has two": (("1/a", "2/a", "3/b", "4/b"), "above the classes (a, b)"),
    "two archives of one folder": (
        ("photos-001/photos/cat", "photos-001/photos/dog", "photos-002/photos/cat", "photos-002/photos/dog"),
        "seem to be above the classes (cat, dog)",
    ),
    "years, two levels off": (
        ("2022/photos/cat", "2022/photos/dog", "2023/pictures/cat", "2023/pictures/dog"),
        "seem to be above the classes (cat, dog)",
    ),
    "a backup, two levels off": (("cat", "dog", "old/photos/cat", "old/photos/dog"), "named as the classes (cat, dog)"),
    **{
        f"{ends} beside the classes": ((*("cat", "dog"), f"cat_{ends}", f"dog_{ends}"), "or with its masks or copies")
        for ends in ("seg", "gt", "mask", "thumbs", "thumbnails")
    },
    **{f"flat images and {kind}": (("images", kind), "hold kinds of files") for kind in ("GT", "groundtruth", "thumb")},
    **{
        f"{copy} beside a class": (("cat", copy, "dog"), "one class in several splits, or with its masks or copies")
        for copy in (
            *("Copy of cat", "Copy (2) of cat", "Kopie von cat", "cat 2", "cat copy 2"),
            *(
                "cat_aug",
                "cat-augmented",
                "aug_cat",
                "cat_rot90",
                "cat_rotated",
                "cat flipped",
                "cat_hflip",
                "cat_aug2",
            ),
        )
    },
    **{
        f"{one} and {other}": ((one, other), "hold kinds of files")
        for one, other in (("JPEGImages", "SegmentationClass"), ("original", "segmented"), ("img", "mask_binary"))
    },
    "labelled and not": (("labelled/cat", "labelled/dog", "unlabelled"), "hold kinds of files"),
    "labeled and not": (("labeled/cat", "labeled/dog", "unlabeled"), "hold kinds of files"),
    "numbered splits": (("1.train/cat", "1.train/dog", "2.test/mixed"), "or to hold kinds of files or parts"),
    "splits and numbers in the names": (
        ("cat-train-1", "cat-test-1", "dog-train-1", "dog-test-1"),
        "in several splits",
    ),
    **{
        f"splits within {first}": ((first, other), "one class in several splits")
        for first, other in (
            ("ISIC_2019_Training_Input", "ISIC_2019_Test_Input"),
            ("stage_2_train_images", "stage_2_test_images"),
            ("data_train_128x128", "data_val_128x128"),
            ("myTrainData", "myTestData"),
        )
    },
    "a set beside its copies": (("d/train/ok", "d/test/ok", "d512/ok", "d512/bad"), "or another set"),
    "a set beside its classes": (("cat", "dog", "set/train/cat", "set/test/cat"), "or another set"),
    "first letters above the classes": (("a/abbey", "a/alley", "b/beach"), "above the classes (abbey, alley, beach)"),
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
    with pytest.raises(ValueError, match=re.escape(message)):
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


def test_no_table_of_other_labels_is_offered_two_levels_off(tmp_path: Path) -> None:
    """Its labels would be the years, and its places "photos"."""
    root = folders(tmp_path, *(f"{year}/photos/{name}" for year in (2022, 2023) for name in ("cat", "dog")))
    with pytest.raises(ValueError, match="seem to be above the classes") as caught:
        read_folder(root)
    assert "images.tsv" not in str(caught.value)


@pytest.mark.parametrize(("train", "test"), [("training_set", "test_set"), ("trn", "tst"), ("Training", "PrivateTest")])
def test_splits_of_usual_names_are_splits(tmp_path: Path, train: str, test: str) -> None:
    """`{training_set,test_set}/{cat,dog}` was two classes named after the splits."""
    root = folders(tmp_path, f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog")
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


@pytest.mark.parametrize("extra", ["masks", "old"])
def test_a_folder_of_the_classes_names_is_no_class(tmp_path: Path, extra: str) -> None:
    """Masks or a copy beside the classes became one more class."""
    root = folders(tmp_path, "cat", "dog", f"{extra}/cat", f"{extra}/dog")
    with pytest.raises(ValueError, match=r"folders named as the classes \(cat, dog\), so it is none"):
        read_folder(root)
    if extra == "masks":
        assert read_folder(root, masks=root / extra).classes == ("cat", "dog")


@pytest.mark.parametrize("above", ["", "train"])
def test_a_flat_folder_of_masks_is_no_class(tmp_path: Path, above: str) -> None:
    """Beside the classes, also in each split; three were trained, and the doctor said "Healthy"."""
    root = folders(tmp_path, "gloves", "hats", "masks") / above
    for name in ("gloves", "hats", "masks") if above else ():
        (tmp_path / name).rename((root / name) if root.is_dir() else root.mkdir() or root / name)
    assert len(read_folder(tmp_path).classes) == 3, "of numbered images, and not one of each of the others"
    for path in (root / "masks").iterdir():
        path.unlink()
    for name in ("gloves", "hats"):
        for path in (root / name).iterdir():
            path.rename(path.with_name(f"{name}{path.name}"))
            Image.new("L", (8, 8)).save(root / "masks" / f"{name}{path.stem}_mask.png")
    with pytest.raises(ValueError, match="masks has a file named as each image of the classes, so it is none"):
        read_folder(tmp_path)
    (root / "masks").rename(root / "scarves")
    assert len(read_folder(tmp_path).classes) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [("cat", "Cat"), ("caf\u00e9", "cafe\u0301"), ("cat", "cat "), ("\u00e9", "e\u0301"), ("big cat", "big_cat")],
)
def test_one_class_is_written_in_one_way(tmp_path: Path, one: str, other: str) -> None:
    """They were two classes: in two splits one of them was never trained and the other never tested."""
    for name, splits in (("a", ("train", "test")), ("b", ("train", "train"))):
        root = folders(tmp_path / name, f"{splits[0]}/{one}", f"{splits[1]}/{other}", "train/dog")
        with pytest.raises(ValueError, match="differ in case, spaces, accents or dashes only; move the images") as told:
            read_folder(root)
        assert ("\\u0301" in str(told.value)) == ("\u0301" in other), "accents that look alike are written out"
        assert not examine(root, "folder").healthy


ORDINARY = (
    ("cat", "dog"),
    ("A", "a", "B", "b"),
    ("1_1", "11", "1_11", "type 1_1", "type 11"),
    ("A", "A-", "B", "B+"),
    tuple("0123456789"),
    ("c0", "c1", "c2"),
    ("type_1", "type_2"),
    ("grade1", "grade2"),
    ("with_mask", "without_mask"),
    ("mask", "no_mask"),
    ("labels", "stickers"),
    ("real_images", "fake_images"),
    ("face", "face_masks", "hat"),
    ("cat/train", "dog/train"),
    ("toy_train", "toy_car", "train"),
    ("crash_test", "test_tube", "contest"),
    ("trainer", "tester"),
    ("blood", "blood_test", "skin"),
    ("batch_ok", "batch_bad"),
    ("part_a_ok", "part_b_bad"),
    ("part 1", "part 2"),
    ("copy", "original"),
    ("type (1)", "type (2)", "book copy"),
    ("2019_jul", "2019_aug", "august rose", "rose_rot", "rose"),
    ("cat/1", "cat/2", "dog/2", "dog/3", "owl/4"),
    ("#1", "@home", "$5", "thumbs"),
    ("type 1", "type 2", "2"),
    ("copy of a master", "master", "Boeing 747", "Boeing 2000"),
    ("cat/a/1", "cat/a/2", "dog/b/3", "dog/b/4"),
    ("cat/photos", "dog/photos"),
    ("carnival/masks", "carnival/hats", "office/suits"),
    ("train/n01440764", "train/n01443537", "val/n01440764"),
    ("val/cat", "val/dog"),
    ("01.train", "02.bus", "03.car"),
    ("1_train", "2_train_station"),
    ("0", "1", "10"),
    ("cat 1", "cat 2", "cat 10"),
    ("original", "fake"),
    ("blood_test_1", "blood_test_2"),
    ("type_1_mask", "type_2_hat", "type_3_seg"),
    ("labeled", "spoiled"),
    ("Apple Red 1", "Grape White", "Grape White 2", "Grape White 3", "Plum", "Plum 2"),
    ("crash_test_dummy", "rapid_test_kit", "dog_training_photo", "dog_photo"),
    ("A/1", "A/2", "B/1", "B/3"),
)


@pytest.mark.parametrize("names", ORDINARY, ids=", ".join)
def test_ordinary_names_of_classes_are_not_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    release = read_by_name("folder", str(folders(tmp_path, *names)), None, {}).release
    assert {*release.classes} == {name.removeprefix("train/").removeprefix("val/").split("/")[0] for name in names}
    assert len(release.records) == 2 * len(names)


@pytest.mark.parametrize("inside", ["", "cat/"])
@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", ".ipynb_checkpoints", "#recycle", "$RECYCLE.BIN", "Thumbnails"])
def test_folders_that_tools_make_are_left_out(tmp_path: Path, name: str, inside: str) -> None:
    """They were classes, or images of the class that they are in."""
    release = read_folder(folders(tmp_path, "cat", "dog", f"{inside}{name}", f"{inside}{name}/cat"))
    assert release.classes == ("cat", "dog") and len(release.records) == 4
    assert examine(tmp_path).healthy


MORE_MASKS = ["{}_label.png", "{}_annotation.bmp", "mask_{}.png", "{}_superpixels.png", "{}Mask.png", "{}_overlay.jpg"]


@pytest.mark.parametrize(
    "mask", ["{}_mask.png", "{}_Mask_1.png", "{} seg.png", "{}-gt.png", "GT/{}.bmp", "thumbs/{}.jpg", *MORE_MASKS]
)
def test_masks_named_after_their_images_are_not_images(tmp_path: Path, mask: str) -> None:
    """As in a set of ultrasound pictures that many use: every second image of a class was a mask."""
    root = folders(tmp_path, "benign", "malignant")
    for number in range(2):
        (root / "benign" / mask.format(number)).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / "benign" / mask.format(number))
    with pytest.raises(ValueError, match="benign has masks or thumbnails among its images, such as those of 0"):
        read_folder(root)


def test_one_image_may_be_called_a_mask(tmp_path: Path) -> None:
    root = folders(tmp_path, "party", "office")
    for name in ("a", "b", "hat", "hat_mask"):
        Image.new("RGB", (8, 8)).save(root / "party" / f"{name}.png")
    assert len(read_folder(root).records) == 8


@pytest.mark.parametrize("name", ["mask{}", "facemask{}", "wine_label_{}"])
def test_images_of_masks_and_labels_are_no_masks(tmp_path: Path, name: str) -> None:
    root = folders(tmp_path, "with", "without")
    for number in range(5):
        Image.new("RGB", (8, 8)).save(root / "with" / f"{name.format(number)}.png")
    assert len(read_folder(root).records) == 9


def test_folders_within_classes_are_noted(tmp_path: Path) -> None:
    """Two sets of other names that share a class cannot be told from classes with folders: training says it."""
    release = read_folder(folders(tmp_path, "mine/cat", "mine/dog", "yours/cat", "yours/bird"))
    assert release.notes == (
        "Images in folders within a class count as that class, such as those in mine/cat, mine/dog, yours/bird, "
        "yours/cat.",
    )


def test_images_of_kinds_that_are_not_read_are_noted(tmp_path: Path) -> None:
    """Only the doctor named them: training went on with the other half of a class."""
    root = folders(tmp_path, "cat", "dog")
    for name in ("a.heic", "b.HEIC", "c.nef", "d.pjpeg", "e.PJP", "f.jif", "g.jfi", "n.txt", ".hidden.heic", "READ"):
        (root / "dog" / name).touch()
    (root / "dog" / "IMG_0").write_bytes(b"\xff\xd8\xff\xe0 as cameras write them")
    if hasattr(os, "mkfifo"):
        os.mkfifo(root / "dog" / "pipe")  # opening it would never end
    assert read_folder(root).notes == (
        "8 images of kinds that are not read (.heic, .jfi, .jif, .nef, .pjp, .pjpeg, no suffix) are left out, such as "
        "dog/IMG_0.",
    )


@pytest.mark.parametrize("command", ["report", "masks"])
def test_results_name_images_that_are_not_read(tmp_path: Path, command: str) -> None:
    """Training said it; the report was on the other images, and its page did not say so either."""
    root, model = folders(tmp_path / "pets", "cat", "dog"), AIM("test_resnet", backbone_kwargs={"num_classes": 2})
    (root / "cat" / "a.heic").touch()
    model.save_pretrained(tmp_path / "model", preprocessing=Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3))
    page, given = tmp_path / "page.html", ["--workers", "0", "--out", str(tmp_path / "page.html")]
    given = [str(root), "--data", "folder", *given] if command == "masks" else ["folder", str(root), *given]
    more = ["--no-verify", "--background-images", "0"] if command == "report" else []
    found = CliRunner().invoke(app, [command, str(tmp_path / "model"), *given, *more])
    said = "1 images of kinds that are not read (.heic) are left out, such as cat/a.heic."
    assert found.exit_code == 0 and f"note: {said}\n" in found.stderr, found.output
    assert command == "masks" or said in page.read_text()


NUMBERED = ("scan.001", "Photo 2021-03-04 at 12.30.45", "1.2.840.113619.2.55.3", "Shot at 12.30.45 PM")


KINDS = [
    "lsm",
    "nd2",
    "lif",
    "oir",
    "vsi",
    "scn",
    "mrxs",
    "jpx",
    "jpf",
    "j2c",
    "jls",
    "wdp",
    "hdp",
    "mrw",
    "kdc",
    "dcr",
]
KINDS += ["erf", "rwl", "gpr", "fit", "nrrd", "MHA"]


@pytest.mark.parametrize("name", [*NUMBERED, ".IMG_1.jpg.icloud", "a.jpg (1)", *(f"a.{kind}" for kind in KINDS)])
@pytest.mark.parametrize("start", [b"\xff\xd8\xff\xe0", bytes(128) + b"DICM"], ids=["JPEG", "DICOM"])
def test_images_of_more_kinds_and_names_are_noted(tmp_path: Path, name: str, start: bytes) -> None:
    """They were passed over in silence: a number after a dot is no suffix, and placeholders are hidden files."""
    (folders(tmp_path, "cat", "dog") / "dog" / name).write_bytes(start)
    assert f"such as dog/{name}." in str(read_folder(tmp_path).notes)
    assert any(each.name == "other files" and each.mark == "warning" for each in examine(tmp_path).checks)


@pytest.mark.parametrize(
    "name", ["v1.2.3", "archive.001", "a.txt", ".notes.txt.icloud", ".a.jpg", "a.npy", "a.7z", "x.c~"]
)
def test_other_files_are_no_images(tmp_path: Path, name: str) -> None:
    start = b"PK\3\4" if name[-1].isdecimal() else b"\xff\xd8\xff"
    (folders(tmp_path, "cat", "dog") / "dog" / name).write_bytes(start)
    assert not read_folder(tmp_path).notes


def test_a_class_may_lack_test_images(tmp_path: Path) -> None:
    release = read_folder(folders(tmp_path, "train/cat", "train/dog", "train/bird", "test/cat", "test/dog"))
    assert len(release.classes) == 3 and examine(tmp_path).healthy


def test_holding_out_leaves_every_class_a_training_image(tmp_path: Path) -> None:
    """The only image of a small class could be held out: it was validated, and never trained."""
    folders(tmp_path, "cat", "dog")
    (tmp_path / "dog" / "1.png").unlink()
    with pytest.raises(ValueError, match="no training image of dog, which other splits have"):
        read_splits(Settings(data="folder", root=str(tmp_path), hold_out=0.6))
    assert len(read_splits(Settings(data="folder", root=str(tmp_path), hold_out=0.4)).train) == 2


def test_a_stray_picture_does_not_hide_that_folders_are_one_level_off(tmp_path: Path) -> None:
    """Years above the classes became the classes, because of one overview in one of them."""
    root = folders(tmp_path, *(f"{year}/{name}" for year in (2019, 2020) for name in ("bird", "cat", "dog", "owl")))
    Image.new("RGB", (8, 8)).save(root / "2019" / "overview.png")
    with pytest.raises(ValueError, match="seem to be above the classes"):
        read_folder(root)
    for number in range(2):
        Image.new("RGB", (8, 8)).save(root / "2019" / f"{number}.png")
    assert read_folder(root).classes == ("2019", "2020")


def test_classes_with_one_folder_and_few_own_images_stay(tmp_path: Path) -> None:
    root = folders(tmp_path, *(f"{name}/{inner}" for name in ("cat", "dog") for inner in ("a/1", "a/2", "a/3", "a/4")))
    for name in ("cat", "dog"):
        Image.new("RGB", (8, 8)).save(root / name / "own.png")
    assert len(read_folder(root).records) == 18
