"""Reports of photographs that a camera has marked as turned (kind: masks and boxes against the picture as shown)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from aimwrap import Preprocessing
from aimwrap.data import LabelledTable, eval_transform, examine, read_table
from aimwrap.data.builder.draw import _open_cutout
from aimwrap.data.builder.sources import Cutout, cutouts_of
from aimwrap.data.doctor.checks import check_turned
from aimwrap.data.doctor.scan import look_at_image
from aimwrap.data.io import FORMATS, open_image, open_object_mask, size_and_orientation
from aimwrap.data.release import Release, read_sample
from aimwrap.report.images import PreparedImages

AVIF = pytest.param("x.avif", marks=pytest.mark.skipif("AVIF" not in FORMATS, reason="Pillow has no AVIF"))
CORNER = np.zeros((24, 16, 3), np.uint8)  # as shown: a bright object in the lower left corner
CORNER[16:, :6] = 255
BACK = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's numbers of turns, from as shown to as stored


def save_turned(path: Path, orientation: int, mode: str = "RGB") -> None:
    """The corner as a camera that was held so would store it."""
    picture, turn = Image.fromarray(CORNER).convert(mode), BACK[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (picture if turn is None else picture.transpose(Image.Transpose(turn))).save(path, exif=exif)


@pytest.mark.parametrize("orientation", BACK)
@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp", AVIF])
def test_every_orientation_is_shown_upright(tmp_path: Path, name: str, orientation: int) -> None:
    """Square photographs got their mask a quarter turned; portraits "belonged to different releases"."""
    path = tmp_path / name
    save_turned(path, orientation)
    read = open_image(path)
    assert read.size == (16, 24) and size_and_orientation(path)[0] == (24, 16)
    assert np.abs(np.asarray(read).astype(int) - CORNER)[::4, ::4].mean() < 12
    assert (open_object_mask(path)[0].round() == torch.from_numpy(CORNER[..., 0] > 0)).float().mean() > 0.97
    assert ImageOps.exif_transpose(read).tobytes() == read.tobytes(), "nobody turns it twice"


def test_pillows_own_turn_is_not_repeated(tmp_path: Path) -> None:
    """Docs and docstring say so, since a turn by hand keeps the EXIF data, and cannot be seen."""
    save_turned(tmp_path / "x.png", 6)
    prepare = Preprocessing((24, 16), (0.0,) * 3, (1.0,) * 3, "nearest", 1.0).transform()
    with Image.open(tmp_path / "x.png") as picture:
        assert torch.equal(prepare(ImageOps.exif_transpose(picture)), prepare(picture))
        assert torch.equal(prepare(picture), prepare(Image.fromarray(CORNER)))
    assert "ImageOps.exif_transpose" in (Preprocessing.transform.__doc__ or "")


def test_notes_behind_the_pixels_count(tmp_path: Path) -> None:
    """Some programs write EXIF or XMP to the end of a PNG; the doctor then called its mask another image's."""
    for number in range(2):
        save_turned(tmp_path / f"{number}.png", 6 + 2 * number)
        content = (tmp_path / f"{number}.png").read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        at = content.index(b"IEND") - 4
        moved = content[:start] + content[end:at] + content[start:end] + content[at:]
        (tmp_path / f"{number}.png").write_bytes(moved)
        Image.fromarray(CORNER).save(tmp_path / f"mask{number}.png")
    rows = "".join(f"{number}.png,{number},mask{number}.png\n" for number in range(2))
    (tmp_path / "t.csv").write_text("image,label,mask\n" + rows)
    release = read_table(tmp_path / "t.csv")
    assert np.array_equal(read_sample(release.records[0], release).image, CORNER)
    assert examine(tmp_path / "t.csv").healthy


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientations_turn_nothing(tmp_path: Path, orientation: int) -> None:
    """The header was said to be turned, and the picture was not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(CORNER).save(tmp_path / "x.png", exif=exif)
    assert size_and_orientation(tmp_path / "x.png") == ((24, 16), 0)
    assert np.array_equal(open_image(tmp_path / "x.png"), CORNER)


@pytest.mark.parametrize("orientation", BACK)
def test_a_mask_is_turned_by_its_own_note(tmp_path: Path, orientation: int) -> None:
    """Also of one bit and of a palette, as editors save them."""
    for mode in ("L", "1", "P", "RGBA"):
        save_turned(tmp_path / "x.png", orientation, mode)
        for any_value in (False, True):
            assert torch.equal(
                open_object_mask(tmp_path / "x.png", any_value)[0], torch.from_numpy(CORNER[..., 0] / 255).float()
            )


def test_damaged_notes_do_not_matter(tmp_path: Path) -> None:
    """The pixels are complete, and were read before."""
    Image.fromarray(CORNER).save(tmp_path / "x.png", exif=b"Exif\0\0MM\0\x2a\xff\xff")
    assert open_image(tmp_path / "x.png").size == (16, 24)


def test_masks_boxes_training_report_and_serving_agree(tmp_path: Path) -> None:
    """Serving turned pictures upright, training and report did not: another class for 2 of 18."""
    for number in range(2):
        save_turned(tmp_path / f"{number}.png", 6 + 2 * number)
        Image.fromarray(CORNER).save(tmp_path / f"mask{number}.png")
    rows = "".join(f"{number}.png,{number},mask{number}.png,0,16,6,24\n" for number in range(2))
    (tmp_path / "t.csv").write_text("image,label,mask,left,top,right,bottom\n" + rows)
    release = read_table(tmp_path / "t.csv")
    sample = read_sample(release.records[0], release)
    shown = torch.from_numpy(CORNER[..., 0] > 0)
    assert torch.equal(sample.object_mask[0].bool(), shown) and sample.boxes.tolist() == [[0, 16, 6, 24]]
    assert examine(tmp_path / "t.csv").healthy and examine(tmp_path / "t.csv", quick=True).healthy

    preprocessing = Preprocessing((24, 16), (0.0,) * 3, (1.0,) * 3, crop=1.0)
    with Image.open(tmp_path / "0.png") as file:  # as the model card and serve_onnx.py do
        served = preprocessing.transform()(file.convert("RGB"))
        by_tag = preprocessing.transform()(ImageOps.exif_transpose(file).convert("RGB"))
    trained = eval_transform(preprocessing)(sample).image
    reported = PreparedImages(LabelledTable(tmp_path / "t.csv"), [preprocessing], 24)[0].views[0].image
    assert all(torch.equal(each[0] > 0.5, shown) for each in (served, by_tag, trained, reported))


def boxed(tmp_path: Path, orientation: int) -> Release:
    """A square photograph with a box around the object as shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    square = Image.fromarray(np.repeat(CORNER, 3, axis=1)[:, :24])
    square.transpose(Image.Transpose(BACK[orientation])).save(tmp_path / "x.png", exif=exif)
    square.save(tmp_path / "y.png")
    (tmp_path / "t.csv").write_text("image,label,left,top,right,bottom\nx.png,0,0,16,18,24\ny.png,1,,,,\n")
    return read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_boxes_on_turned_pictures_are_named(tmp_path: Path, orientation: int) -> None:
    """The size of a half turned or square picture is the same, so nothing noticed boxes on the pixels on disk."""
    release = boxed(tmp_path, orientation)
    sample = read_sample(release.records[0], release)
    assert (np.asarray(sample.image)[16:, :18] == 255).all(), "boxes of a user's table are of the picture as shown"
    for quick in (True, False):
        found = examine(tmp_path / "t.csv", quick=quick)
        (turned,) = (check for check in found.checks if check.name == "turned images")
        assert turned.mark == "warning" and "remove the EXIF orientation" in turned.summary
        assert [str(finding.message) for finding in turned.findings] == [f"EXIF orientation {orientation}"]
        assert found.healthy


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_boxes_of_published_sets_count_the_pixels_on_disk(tmp_path: Path, orientation: int) -> None:
    """CUB's and ImageNet's boxes are older than browsers that turn pictures."""
    release = replace(boxed(tmp_path, orientation), boxes_as_stored=True)
    with Image.open(tmp_path / "x.png") as stored:
        assert np.array_equal(read_sample(release.records[0], release).image, stored)
    look = [(release.records[0], look_at_image(tmp_path / "x.png"), None)]
    assert check_turned(look, release) is None


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_cutouts_of_a_release_are_read_as_the_release_reads_them(tmp_path: Path, orientation: int) -> None:
    """The builder turned CUB's pictures, and not their masks: the background was pasted as the bird."""
    release = replace(boxed(tmp_path, orientation), boxes_as_stored=True)
    with Image.open(tmp_path / "x.png") as stored:
        stored.convert("L").save(tmp_path / "mask.png")
    turned = release.records[0]._replace(mask_path=tmp_path / "mask.png")
    cutout = np.asarray(_open_cutout(cutouts_of(replace(release, records=(turned,)))[0]))
    assert np.array_equal(cutout[..., 0], cutout[..., 3])


def test_a_mask_of_the_pixels_on_disk_cuts_them_out(tmp_path: Path) -> None:
    """As in the readers, where only one way to read the picture has the mask's size."""
    save_turned(tmp_path / "x.png", 6)
    with Image.open(tmp_path / "x.png") as stored:
        stored.convert("L").save(tmp_path / "mask.png")
    cutout = np.asarray(_open_cutout(Cutout("x", tmp_path / "x.png", "cat", tmp_path / "mask.png")))
    assert np.array_equal(cutout[..., 0], cutout[..., 3])


def test_cutouts_with_their_own_opacity_are_turned_too(tmp_path: Path) -> None:
    """The builder reads by the same rule."""
    save_turned(tmp_path / "x.png", 6, "RGBA")
    with Image.open(tmp_path / "x.png") as stored:
        exif = stored.getexif()
        stored.putalpha(stored.getchannel("R").point(lambda value: 255 * (value > 127)))
        stored.save(tmp_path / "x.png", exif=exif)
    cutout = np.asarray(_open_cutout(Cutout("x", tmp_path / "x.png", "cat")))
    assert np.array_equal(cutout[..., :3], CORNER)
    assert np.array_equal(cutout[..., 3] == 255, CORNER[..., 0] > 127)


def test_tensors_and_plain_pictures_pass_the_preparation_as_before() -> None:
    """Only a PIL image can say that it is turned."""
    transform = Preprocessing((24, 16), (0.0,) * 3, (1.0,) * 3, crop=1.0).transform()
    image = Image.fromarray(CORNER)
    assert torch.equal(transform(image), transform(v2.functional.pil_to_tensor(image)))
