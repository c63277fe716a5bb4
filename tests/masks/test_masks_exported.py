"""Masks as files: names, sizes, formats as their own readers see them, continuing, and refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import TinyNet, lively

from aimwrap import AIM, Preprocessing, SecondLook, explain, export_masks
from aimwrap.data import LabelledTable
from aimwrap.masks import exporting
from aimwrap.masks.formats import above

SIZES = {"a/wide.jpg": (128, 96), "a/tall.PNG": (70, 150), "b/same.jpg": (96, 96), "b/same.png": (40, 40)}
PREPROCESSING = Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)
SILENT: dict[str, Any] = {"progress": False, "batch_size": 3}


@pytest.fixture(scope="module")
def model() -> AIM:
    torch.manual_seed(0)
    model = lively(AIM(TinyNet(3), [2, 3], mask_width=8)).eval()
    model.preprocessing, model.class_names = PREPROCESSING, ("cat", "dog", "owl")
    return model


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(path)
    return tmp_path / "pictures"


def read_png(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def lines_of(folder: Path) -> dict[str, Any]:
    return {line["image"]: line for line in map(json.loads, (folder / "masks.jsonl").read_text().splitlines())}


def test_every_kind_and_format(model: AIM, pictures: Path, tmp_path: Path) -> None:
    what = ["merged", "stages", "contributions", "overlay"]
    out = tmp_path / "out"
    found = export_masks(model, pictures, out, what=what, formats=["png", "npy", "yolo"], **SILENT)
    assert found[1:] == (4, 4, ("merged", "stage_2", "stage_3", "contributions", "overlay"))
    names = {"a/wide", "a/tall", "b/same.jpg", "b/same.png"}  # two of one name keep their suffix
    for kind in found.kinds[:-1]:
        assert {p.relative_to(out / kind).as_posix()[:-4] for p in (out / kind).rglob("*.npy")} == names
    for name, (width, height) in SIZES.items():
        stem = name if name.startswith("b") else name[:-4]
        mask, merged = (read_png(out / kind / f"{stem}.png") for kind in ("stage_3", "merged"))
        assert merged.shape == mask.shape == (height, width) and set(np.unique(merged)) <= {0, 255}
        assert np.array_equal(np.load(out / "merged" / f"{stem}.npy"), merged > 0)
        explained = explain(model, PREPROCESSING.transform()(Image.open(pictures / name))[None])
        contributions, predicted = np.load(out / "contributions" / f"{stem}.npy"), int(explained.logits.argmax())
        assert contributions.dtype == np.float32 and contributions.shape == (height, width)
        expected = explained.contributions[0, predicted].sum().item()
        assert contributions.sum() == pytest.approx(expected, abs=1e-3)
        line = lines_of(out)[name]
        assert (line["predicted"], line["size"]) == (predicted, [height, width])
        assert line["masks"]["merged"]["pixels"] == int((merged > 0).sum())
        shown = read_png(out / "overlay" / f"{stem}.jpg")
        assert shown.shape == (height, width, 3)
        rows, columns = (merged > 0).any(1).nonzero()[0], (merged > 0).any(0).nonzero()[0]
        number, x, y, wide, high = map(float, (out / "merged" / f"{stem}.txt").read_text().split())
        corners = [(x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height]
        assert number == predicted
        assert corners == pytest.approx([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], abs=0.01)
    assert (out / "classes.txt").read_text() == "cat\ndog\nowl\n"
    assert not (out / "contributions" / "a" / "wide.txt").exists(), "without a threshold they are no mask"


def test_an_overlay_is_darker_outside_the_mask(model: AIM, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 200, 200)).save(tmp_path / "x.png")
    export_masks(model, tmp_path / "x.png", tmp_path / "out", what=["merged", "overlay"], **SILENT)
    kept = read_png(tmp_path / "out" / "merged" / "x.png") > 0
    shown = read_png(tmp_path / "out" / "overlay" / "x.jpg").mean(2)
    assert 0 < kept.mean() < 1
    assert shown[kept].mean() == pytest.approx(200, abs=6) and shown[~kept].mean() == pytest.approx(60, abs=6)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its own, with NumPy 2
def test_pycocotools_reads_it(model: AIM, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    out, options = tmp_path / "out", {"what": ["merged", "contributions"], "threshold": "otsu"}
    export_masks(model, pictures, out, formats=["coco", "png"], **options, **SILENT)
    for kind in ("merged", "contributions"):
        read = COCO(str(out / f"{kind}.json"))
        assert {image["file_name"] for image in read.imgs.values()} == set(SIZES)
        assert [each["name"] for each in read.cats.values()] == ["cat", "dog", "owl"]
        for number, image in read.imgs.items():
            stem = image["file_name"] if image["file_name"].startswith("b") else image["file_name"][:-4]
            mask = read_png(out / kind / f"{stem}.png") > 0
            found = read.loadAnns(read.getAnnIds([number]))
            assert len(found) == mask.any() and (mask.any() or kind == "contributions")
            if not mask.any():  # where nothing speaks for the class
                continue
            (annotation,) = found
            assert np.array_equal(read.annToMask(annotation) > 0, mask)
            assert annotation["area"] == mask.sum()
            left, top, width, height = annotation["bbox"]
            assert mask[top : top + height, left : left + width].sum() == mask.sum()
            assert mask[:, left].any() and mask[top].any() and mask[:, left + width - 1].any()
            assert annotation["category_id"] == lines_of(out)[image["file_name"]]["predicted"] + 1
    capsys.readouterr()


def test_a_second_looks_own_kept_pixels(model: AIM, pictures: Path, tmp_path: Path) -> None:
    second = SecondLook(model, margin=0).eval()
    found = export_masks(second, [pictures / "a" / "wide.jpg"], tmp_path / "out", formats=["npy"], **SILENT)
    assert found.kinds == ("kept",)
    with Image.open(pictures / "a" / "wide.jpg") as picture:
        kept = second(PREPROCESSING.transform()(picture)[None]).kept
    mask = np.load(tmp_path / "out" / "kept" / "wide.npy")
    assert not mask[:, :15].any() and mask.mean() == pytest.approx(kept.mean().item() * 84 * 84 / (96 * 128), abs=0.02)


def test_an_interrupted_run_continues(
    model: AIM, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    options: dict[str, Any] = {"formats": ["png", "yolo"], "progress": False, "batch_size": 1}
    export_masks(model, pictures, whole, **options)
    looked, look = [], exporting.look

    def killed(*arguments: Any) -> Any:
        if len(looked) == 2:
            raise KeyboardInterrupt
        looked.append(1)
        return look(*arguments)

    monkeypatch.setattr(exporting, "look", killed)
    with pytest.raises(KeyboardInterrupt):
        export_masks(model, pictures, out, **options)
    with (out / "masks.jsonl").open("a") as journal:
        journal.write('{"image": "a/wi')  # killed while it wrote
    monkeypatch.setattr(exporting, "look", look)
    assert export_masks(model, pictures, out, **options).written == 2
    files = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert files == {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    before = (out / "merged" / "a" / "wide.png").read_bytes()
    Image.new("RGB", (50, 60), "red").save(pictures / "a" / "wide.jpg")
    Image.new("RGB", (50, 60), "blue").save(pictures / "new.png")
    assert export_masks(model, pictures, out, **options)[1:3] == (5, 2), "a changed one and a new one"
    assert (out / "merged" / "a" / "wide.png").read_bytes() != before


@pytest.mark.parametrize("removed", ["merged/a/wide.png", "merged/a/wide.txt", "contributions", "overlay/a/wide.jpg"])
def test_files_that_were_removed_are_written_again(model: AIM, pictures: Path, tmp_path: Path, removed: str) -> None:
    """The message was that they were there already."""
    out = tmp_path / "out"
    what: Any = {"what": ["merged", "contributions", "overlay"], "formats": ["png", "yolo"]}
    export_masks(model, pictures, out, **what, **SILENT)
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    path = out / removed
    path.unlink() if path.is_file() else shutil.rmtree(path)
    found = export_masks(model, pictures, out, **what, **SILENT)
    assert found.written == (1 if "." in removed else found.images)
    assert all(path.read_bytes() == content for path, content in before.items() if path.suffix in (".png", ".txt"))
    assert export_masks(model, pictures, out, **what, **SILENT).written == 0


def test_a_data_sets_labels_and_its_own_frame(model: AIM, tmp_path: Path) -> None:
    """The class is the label, and masks have the size of the data set's own, here of a photograph that is turned."""
    rows = []
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        Image.fromarray(np.full((40, 60, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.png", exif=exif)
        Image.new("L", (40, 60), 255).save(tmp_path / f"{number}_mask.png")
        rows.append(f"{number}.png,{['cat', 'dog', 'owl'][number]},{number}_mask.png,train")
    (tmp_path / "t.csv").write_text("image,label,mask,split\n" + "\n".join(rows) + "\n")
    images, out = LabelledTable(tmp_path / "t.csv", "train"), tmp_path / "out"
    export_masks(model, images, out, formats=["png", "yolo"], **SILENT)
    for number in range(3):
        assert read_png(out / "merged" / f"{number}.png").shape == (60, 40)
        assert lines_of(out)[f"{number}.png"]["class"] == number
    with pytest.raises(ValueError, match="as_stored is for folders and files"):
        export_masks(model, images, tmp_path / "other", as_stored=True)
    folder = tmp_path / "folder"
    for as_stored, size in ((False, (60, 40)), (True, (40, 60))):
        export_masks(model, [tmp_path / "1.png"], folder / str(as_stored), as_stored=as_stored, **SILENT)
        assert read_png(folder / str(as_stored) / "merged" / "1.png").shape == size
    pair = [read_png(folder / each / "merged" / "1.png") for each in ("False", "True")]
    assert np.array_equal(np.rot90(pair[0]), pair[1])


def test_a_note_after_the_pixels_turns_masks_back(model: AIM, tmp_path: Path) -> None:
    """Some programs write it there in PNG: masks for the pixels in the file were those of the picture as shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((40, 60, 3), 60, np.uint8)).save(tmp_path / "1.png", exif=exif)
    content = (tmp_path / "1.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    (tmp_path / "1.png").write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    for as_stored, size in ((False, (60, 40)), (True, (40, 60))):
        export_masks(model, [tmp_path / "1.png"], tmp_path / str(as_stored), as_stored=as_stored, **SILENT)
        assert read_png(tmp_path / str(as_stored) / "merged" / "1.png").shape == size


def test_other_masks_are_not_mixed_in(model: AIM, pictures: Path, tmp_path: Path) -> None:
    export_masks(model, pictures, tmp_path / "out", **SILENT)
    with pytest.raises(ValueError, match="holds masks with other formats; name another folder"):
        export_masks(model, pictures, tmp_path / "out", formats=["npy"], **SILENT)
    other = lively(AIM(TinyNet(3), [2, 3], mask_width=8)).eval()
    other.preprocessing = PREPROCESSING._replace(crop=1.0)
    torch.nn.init.zeros_(other.classifier.bias)
    torch.nn.init.ones_(other.classifier.weight)
    with pytest.raises(ValueError, match="holds masks with other weights, images; name another folder"):
        export_masks(other, pictures, tmp_path / "out", **SILENT)
    (tmp_path / "out" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json is damaged"):
        export_masks(model, pictures, tmp_path / "out", **SILENT)


def test_what_was_written_is_no_image(model: AIM, pictures: Path) -> None:
    """Into a folder below the images: the second time there are no more of them."""
    assert export_masks(model, pictures, pictures / "masks", **SILENT).images == 4
    assert export_masks(model, pictures, pictures / "masks", **SILENT)[1:3] == (4, 0)


def test_pictures_of_kinds_that_are_not_read_are_named(model: AIM, pictures: Path, tmp_path: Path) -> None:
    (pictures / "c.heic").write_bytes(b"no picture that is read")
    with pytest.warns(UserWarning, match=r"1 images of kinds that are not read \(\.heic\) are left out"):
        export_masks(model, pictures, tmp_path / "out", **SILENT)


@pytest.mark.parametrize(
    "names",
    [("0.jpg", "masks/0.png"), ("images/0.jpg", "masks/0.png"), ("0.jpg", "0_mask.png"), ("0.jpg", "outlines/0.png")],
)
def test_masks_among_the_images_are_warned_of(model: AIM, tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (40, 40)).save(tmp_path / name)
    with pytest.warns(UserWarning, match="^0 is perhaps an image and its mask; --data leaves out"):
        assert export_masks(model, tmp_path, tmp_path / "out", **SILENT).images == 2


def test_earlier_masks_are_no_images(model: AIM, pictures: Path) -> None:
    """Of another output below the images."""
    export_masks(model, pictures, pictures / "masks" / "first", **SILENT)
    assert export_masks(model, pictures, pictures / "masks" / "second", **SILENT).images == 4


def test_a_corrected_label_is_written(model: AIM, pictures: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "out"
    for first, second in (("cat", "dog"), ("owl", "dog")):
        table.write_text(f"image,label\npictures/a/wide.jpg,{first}\npictures/b/same.jpg,{second}\n")
        images = LabelledTable(table, classes=("cat", "dog", "owl"))
        found = export_masks(model, images, out, formats=["yolo", "coco"], **SILENT)
        names = [("cat", "dog", "owl").index(name) for name in (first, second)]
        assert [
            lines_of(out)[record.path.relative_to(tmp_path).as_posix()]["class"] for record in images.records
        ] == names
        annotations = json.loads((out / "merged.json").read_text())["annotations"]
        assert [one["category_id"] - 1 for one in annotations] == names
        assert (out / "merged" / "pictures" / "a" / "wide.txt").read_text().startswith(str(names[0]))
    assert found.written == 1, "the other label is the same"
    assert len((out / "masks.jsonl").read_text().splitlines()) == 2


def test_a_folder_of_masks_is_of_one_folder_of_images_and_one_second_look(
    model: AIM, pictures: Path, tmp_path: Path
) -> None:
    """They have equal names, and no weight tells a margin."""
    second = SecondLook(model, margin=1)
    export_masks(second, pictures / "a", tmp_path / "out", **SILENT)
    with pytest.raises(ValueError, match="holds masks with other folder of images; name another folder"):
        export_masks(second, pictures / "b", tmp_path / "out", **SILENT)
    export_masks(second, [pictures / "b" / "same.png"], tmp_path / "out", **SILENT)  # of a list, nothing is said
    second.margin = 0
    with pytest.raises(ValueError, match="holds masks with other second look; name another folder"):
        export_masks(second, pictures / "a", tmp_path / "out", **SILENT)


def test_classes_in_another_order_are_refused(model: AIM, tmp_path: Path) -> None:
    for name in ("dog", "cat", "owl"):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text("image,label\ndog.png,dog\ncat.png,cat\nowl.png,owl\n")
    images = LabelledTable(tmp_path / "t.csv", classes=("owl", "dog", "cat"))
    with pytest.raises(ValueError, match="the model's classes are cat, dog, owl, and the data set's owl, dog, cat"):
        export_masks(model, images, tmp_path / "out", **SILENT)
    other = AIM(TinyNet(4), [2, 3], mask_width=8)
    other.preprocessing = PREPROCESSING
    with pytest.raises(ValueError, match="the model's classes are 4 without names, and the data set's owl, dog, cat"):
        export_masks(other, images, tmp_path / "out", **SILENT)


@pytest.mark.parametrize(("logit", "number", "confidence"), [(2.0, 1, 0.880797), (-1.0, 0, 0.731059)])
def test_the_confidence_of_one_logit_is_its_sigmoid(
    logit: float, number: int, confidence: float, pictures: Path, tmp_path: Path
) -> None:
    """It was that of twice the logit."""
    model = AIM(TinyNet(1), [2, 3], num_classes=1, mask_width=8).eval()
    model.preprocessing = PREPROCESSING
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.constant_(model.classifier.bias, logit)
    export_masks(model, pictures, tmp_path / "out", **SILENT)
    for line in lines_of(tmp_path / "out").values():
        assert (line["class"], line["predicted"], line["confidence"]) == (number, number, confidence)


def test_logits_that_are_not_finite_are_refused(pictures: Path, tmp_path: Path) -> None:
    broken = lively(AIM(TinyNet(3), [2, 3], mask_width=8))
    broken.preprocessing = PREPROCESSING
    torch.nn.init.constant_(broken.classifier.bias, float("nan"))
    with pytest.raises(ValueError, match=r"tall\.PNG: the model's logits are not finite"):
        export_masks(broken, pictures, tmp_path / "out", **SILENT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"what": "merged"}, "what must be a list of some of merged, stages, kept, contributions, overlay"),
        ({"formats": ["jpg"]}, "formats must be a list of some of png, npy, coco, yolo"),
        ({"what": ["kept"]}, "'kept' is of a second look, and the model is an AIM"),
        ({"threshold": "otsu"}, "threshold is for contributions"),
        ({"what": ["contributions"], "threshold": 1.0}, "threshold must be a share"),
        ({"what": ["contributions"], "formats": ["yolo"]}, "yolo need a mask; of contributions, pass threshold='otsu'"),
    ],
)
def test_arguments_that_do_not_fit(model: AIM, pictures: Path, tmp_path: Path, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        export_masks(model, pictures, tmp_path / "out", **options, **SILENT)
    assert not (tmp_path / "out").exists()


def test_images_that_are_not_there(model: AIM, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least one picture"):
        export_masks(model, tmp_path / "empty", tmp_path / "out", **SILENT)
    with pytest.raises(FileNotFoundError, match=r"nothing\.png is not there"):
        export_masks(model, tmp_path / "nothing.png", tmp_path / "out", **SILENT)
    (pictures / "b" / "same.png").write_bytes(b"\x89PNG no picture")
    with pytest.raises(ValueError, match=r"same\.png"):
        export_masks(model, pictures, tmp_path / "out", **SILENT)


def test_thresholds_of_contributions() -> None:
    threshold_otsu = pytest.importorskip("skimage.filters").threshold_otsu
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.2, 500), rng.normal(3, 0.4, 100), -rng.random(300)]).reshape(30, 30)
    positive = values[values > 0]
    assert np.array_equal(above(values, 0.5), values > positive.max() / 2)
    ours = above(values, "otsu")
    theirs = values > threshold_otsu(positive)
    assert (ours != theirs).sum() <= 5 and 90 <= ours.sum() <= 110
    assert not above(-np.ones((2, 2)), "otsu").any()
    assert above(np.array([[0.0, 2.0]]), "otsu").tolist() == [[False, True]]
