"""Images of one or n channels, 16 bits, signed values or fractions, read through a window."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from aimwrap import Preprocessing
from aimwrap.data import LabelledFolder, eval_transform, examine, read_table, train_transform
from aimwrap.data.io import as_picture, read_image
from aimwrap.data.release import ReleaseDataset
from aimwrap.masks import mask_grid

BITS_4 = bytes.fromhex(  # a PNG of 4 bits, 0 to 14, which older versions of Pillow do not write
    "89504e470d0a1a0a0000000d4948445200000005000000030400000000bbad77250000001449444154789c6364549265"
    "095592605cad240c00088f01b6ad64c8f80000000049454e44ae426082"
)
RNG = np.random.default_rng(0)
DEEP = np.array([[0, 100, 1000], [2000, 4095, 65535]], np.uint16)
SHARES = torch.tensor([[0, 0, 900 / 3995], [1900 / 3995, 1, 1]])  # of DEEP, from 100 to 4095


def through(low: float, high: float, channels: int = 1) -> Preprocessing:
    return Preprocessing((2, 3), (0.0,) * channels, (1.0,) * channels, "nearest", 1.0, window=(low, high))


KINDS = {
    "16 bits, PNG": ("x.png", DEEP, (100, 4095), SHARES),
    "16 bits, TIFF": ("x.tif", DEEP, (100, 4095), SHARES),
    "Hounsfield units": ("x.tif", DEEP.clip(0, 4000).astype(np.int16) - 1024, (-1024, 976), None),
    "fractions": ("x.tif", (DEEP / 65535).astype(np.float32), (0.0, 0.5), None),
    "double": ("x.tif", DEEP / 65535 - 0.25, (-0.25, 0.25), None),
    "32 bits": ("x.tif", DEEP.astype(np.uint32) * 1000, (0, 4_000_000), None),
    "8 bits, PNG": ("x.png", np.array([[0, 50, 100], [150, 200, 255]], np.uint8), (50, 150), None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_linear_in_the_window_and_cut_off_outside(tmp_path: Path, kind: str) -> None:
    name, values, (low, high), shares = KINDS[kind]
    expected = torch.from_numpy(np.clip((values.astype(float) - low) / (high - low), 0, 1)).float()
    assert shares is None or torch.allclose(expected, shares)
    (Image.fromarray(values).save if name == "x.png" else lambda path: tifffile.imwrite(path, values))(tmp_path / name)
    read = read_image(tmp_path / name, prepared=through(low, high))
    assert read.dtype == torch.float32 and torch.allclose(read, expected[None], atol=1e-6)
    assert torch.equal(read_image(tmp_path / name, prepared=through(low, high, 3)), read.expand(3, -1, -1)), "grey"
    prepared = through(low, high)._replace(mean=(0.5,), std=(0.25,)).transform()
    for given in (values, values[..., None], torch.from_numpy(values)[None]):
        assert torch.allclose(prepared(given), (read - 0.5) / 0.25, atol=1e-5)
    if name == "x.png":
        assert torch.allclose(prepared(Image.open(tmp_path / name)), (read - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_1_bit_is_black_and_white_in_every_format(tmp_path: Path, name: str) -> None:
    """In TIFF it was 0 and 1, both nearly black."""
    Image.fromarray(DEEP > 1000).save(tmp_path / name)
    read = read_image(tmp_path / name, prepared=through(0, 255))
    assert read.flatten().tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(through(0, 255).transform()(DEEP > 1000), read)


@pytest.mark.parametrize(("axes", "options"), {"CYX": {"imagej": True}, "YXS": {"photometric": "minisblack"}}.items())
def test_channels_of_tiff(tmp_path: Path, axes: str, options: dict[str, Any]) -> None:
    values = RNG.integers(0, 4096, (5, 7, 9)).astype(np.uint16)
    expected = torch.from_numpy(values / 4095).float()
    stored = np.moveaxis(values, 0, -1) if axes == "YXS" else values
    kind = {"planarconfig": "contig"} if axes == "YXS" else {"metadata": {"axes": axes}}
    tifffile.imwrite(tmp_path / "x.tif", stored, **options, **kind)
    tifffile.imwrite(tmp_path / "pages.tif", values)  # of which nothing is said
    for name in ("x.tif", "pages.tif"):
        assert torch.allclose(read_image(tmp_path / name, prepared=through(0, 4095, 5)), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"the model's 3 channels, got 5 of \(7, 9\).*--channels"):
        read_image(tmp_path / "x.tif", prepared=through(0, 4095, 3))
    with pytest.raises(ValueError, match=r"the axes QYX of \[5, 7, 9\] for a model of 3 channels"):
        read_image(tmp_path / "pages.tif", prepared=through(0, 4095, 3))


def test_colours_with_8_bits_and_more(tmp_path: Path) -> None:
    """Grey of colours, where the model takes one channel, is Pillow's; opacity is a channel of four."""
    colours = RNG.integers(0, 256, (7, 9, 4)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "x.png")
    for channels, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        shown = np.asarray(Image.fromarray(colours).convert(mode)).reshape(7, 9, -1)
        read = read_image(tmp_path / "x.png", prepared=through(0, 255, channels))
        assert torch.equal(read, torch.from_numpy(shown / np.float32(255)).movedim(-1, 0))
    tifffile.imwrite(tmp_path / "x.tif", colours[..., :3].astype(np.uint16) * 16)
    read = read_image(tmp_path / "x.tif", prepared=through(0, 4080, 3))
    assert torch.allclose(read, torch.from_numpy(colours[..., :3] / 255).movedim(-1, 0).float(), atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_grey_with_opacity_or_a_palette_is_read_as_grey(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 63).astype(np.uint8).reshape(7, 9)
    Image.fromarray(np.stack([grey, 255 - grey], -1)).save(tmp_path / "opacity.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png", transparency=bytes(range(256)))
    for name in ("opacity.png", "palette.png"):
        for channels in (1, 3):
            read = read_image(tmp_path / name, prepared=through(50, 150, channels))
            expected = ((torch.from_numpy(grey).float() - 50) / 100).clamp(0, 1)
            assert torch.allclose(read, expected.expand(channels, 7, 9))


def test_large_numbers_keep_their_differences(tmp_path: Path) -> None:
    """Which float32 would round to the same."""
    tifffile.imwrite(tmp_path / "x.tif", np.array([[1_000_000_001, 1_000_000_003]], np.uint32))
    read = read_image(tmp_path / "x.tif", prepared=through(1_000_000_000, 1_000_000_004))
    assert read.tolist() == [[[0.25, 0.75]]]


def tiff(path: Path, values: np.ndarray, **options: Any) -> None:
    tifffile.imwrite(path, values, **options)


REFUSED = {
    "a volume": ({"imagej": True, "metadata": {"axes": "ZYX"}}, "the axes ZYX of .* for a model of 5 channels"),
    "a film": ({"imagej": True, "metadata": {"axes": "TYX"}}, "the axes TYX of .* for a model of 5 channels"),
    "0 for white": ({"photometric": "miniswhite"}, "colours of the kind .*MINISWHITE"),
    "turned": ({"extratags": [(274, 3, 1, 6, True)]}, "a note that turns it"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_one_upright_image_is_refused(tmp_path: Path, kind: str) -> None:
    options, message = REFUSED[kind]
    tifffile.imwrite(tmp_path / "x.tif", RNG.integers(0, 4096, (5, 7, 9)).astype(np.uint16), **options)
    with pytest.raises(ValueError, match=rf"{message}.*Save each slice, frame or position as a file of its own"):
        read_image(tmp_path / "x.tif", prepared=through(0, 4095, 5))


def test_of_a_pyramid_the_full_resolution_is_read(tmp_path: Path) -> None:
    full, half = np.full((64, 48), 1000, np.uint16), np.zeros((32, 24), np.uint16)
    for name, below in (("inside", 1), ("pages", 0)):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as file:
            file.write(full, subifds=below)
            file.write(half, subfiletype=1)
        read = read_image(tmp_path / f"{name}.tif", prepared=through(0, 4000))
        assert read.shape == (1, 64, 48) and read.unique() == 0.25


def test_damaged_and_several_images_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        for side in (7, 8):
            file.write(np.zeros((side, 9), np.uint16))
    with pytest.raises(ValueError, match="2 images of different sizes"):
        read_image(tmp_path / "two.tif", prepared=through(0, 4095))
    tifffile.imwrite(tmp_path / "cut.tif", np.ones((70, 90), np.uint16))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "cut.tif").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut.tif cannot be read as one image: failed to read.*get it again"):
        read_image(tmp_path / "cut.tif", prepared=through(0, 4095))
    with pytest.raises(FileNotFoundError, match=r"x.tif is not there"):
        read_image(tmp_path / "x.tif", prepared=through(0, 4095))


def test_values_that_the_window_does_not_fit_are_refused(tmp_path: Path) -> None:
    """Each would be dark, or wrong, in silence."""
    Image.fromarray(np.full((7, 9), 200, np.uint8)).save(tmp_path / "8.png")
    tifffile.imwrite(tmp_path / "8.tif", np.full((7, 9), 200, np.uint8))
    (tmp_path / "12.pgm").write_bytes(b"P5\n9 7\n4095\n" + np.full(63, 2000, ">u2").tobytes())
    tifffile.imwrite(tmp_path / "nan.tif", np.full((7, 9), np.nan, np.float32))
    wrong = {
        "8.png": "8 bits with values from 200 to 200, and the window goes from 0 to 4095",
        "8.tif": "8 bits",
        "12.pgm": "Pillow changes",
        "nan.tif": "NaN",
    }
    for name, message in wrong.items():
        with pytest.raises(ValueError, match=rf"{name} has .*{message}"):
            read_image(tmp_path / name, prepared=through(0, 4095))


@pytest.mark.parametrize(
    ("window", "values"),
    [
        ((-160, 240), np.full((7, 9), 200, np.uint8)),  # a JPEG of a CT
        ((0, 1), np.full((7, 9), 200, np.uint8)),
        ((0, 0.9), np.full((7, 9), 20000, np.uint16)),
        ((300, 3100), torch.rand(1, 7, 9)),  # as torchvision's ToTensor gives
        ((-160, 240), torch.rand(1, 7, 9)),
    ],
)
def test_values_of_another_kind_than_the_window_are_refused(window: tuple[float, float], values: Any) -> None:
    with pytest.raises(ValueError, match=f"the window goes from {window[0]} to {window[1]}; pass the values that"):
        through(*window).transform()(values)


def test_values_are_not_taken_where_pillow_changes_them(tmp_path: Path) -> None:
    """It scales 2 and 4 bits and PGM's to 255, makes large numbers negative, and swaps no bytes of some fractions."""
    (tmp_path / "4.png").write_bytes(BITS_4)
    (tmp_path / "100.pgm").write_bytes(b"P5\n5 3\n100\n" + bytes(range(0, 90, 6)))
    (tmp_path / "plain.pgm").write_text("P2\n5 1\n100\n0 10 20 50 100\n")
    tifffile.imwrite(tmp_path / "32.tif", np.full((7, 9), 3_000_000_000, np.uint32))
    tifffile.imwrite(tmp_path / "f.tif", np.full((7, 9), 7, ">f4"), byteorder=">", compression="zlib")
    for name in ("4.png", "100.pgm", "plain.pgm", "32.tif", "f.tif"):
        prepared = through(0, 14 if name == "f.tif" else 200)
        with (
            Image.open(tmp_path / name) as picture,
            pytest.raises(ValueError, match=r"Pillow changes. Pass its values"),
        ):
            prepared.transform()(picture)
        if name[-3:] == "tif":
            assert read_image(tmp_path / name, prepared=prepared).unique() in (0.5, 1)
        else:
            with pytest.raises(ValueError, match="whose values Pillow changes"):
                read_image(tmp_path / name, prepared=prepared)
    (tmp_path / "255.pgm").write_text("P2\n5 1\n255\n0 10 20 50 100\n")
    assert read_image(tmp_path / "255.pgm", prepared=through(0, 100)).flatten().tolist() == pytest.approx(
        [0, 0.1, 0.2, 0.5, 1]
    )


def test_a_window_that_was_turned_round_is_refused() -> None:
    """``_replace`` checks nothing; the image would be a negative."""
    for window in ((4095, 0), (5, 5)):
        with pytest.raises(ValueError, match="a window of two numbers, the first smaller"):
            through(0, 1)._replace(window=window).transform()(DEEP)


@pytest.mark.parametrize("shape", [(2, 1, 7, 9), (7, 9)])
def test_tensors_of_other_axes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image must be an array \(H, W\) .*, got .* of torch.float32"):
        through(0, 4095).transform()(torch.rand(shape) * 4095)


def test_parts_of_an_image_in_other_files_are_not_read(tmp_path: Path) -> None:
    """OME's table of files may point anywhere, and what is missing would be black."""
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    size = 'SizeC="2" SizeT="1" SizeX="9" SizeY="7" SizeZ="1" Type="uint16" DimensionOrder="XYZCT"'
    uuids = ["urn:uuid:00000000-0000-0000-0000-00000000000a", "urn:uuid:00000000-0000-0000-0000-00000000000b"]
    (tmp_path / "below").mkdir()
    for files in (("a.ome.tif", "../b.ome.tif"), ("one.ome.tif",)):
        data = "".join(
            f'<TiffData FirstC="{n}" IFD="0" PlaneCount="1"><UUID FileName="{file}">{uuids[n]}</UUID></TiffData>'
            for n, file in enumerate(files)
        )
        pixels = f'<Image ID="Image:0"><Pixels ID="Pixels:0" {size}>{data}</Pixels></Image>'
        for n, file in enumerate(files):
            text = f'<?xml version="1.0"?><OME xmlns="{schema}" UUID="{uuids[n]}">{pixels}</OME>'
            values = np.full((7, 9), 100 + 100 * n, np.uint16)
            tifffile.imwrite(tmp_path / "below" / file, values, description=text, metadata=None)
        with pytest.raises(ValueError, match=r"not in this file|got 1 of"):
            read_image(tmp_path / "below" / files[0], prepared=through(0, 400, 2))


def test_without_a_window_the_message_says_how(tmp_path: Path) -> None:
    Image.fromarray(np.minimum(DEEP, 4095)).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", np.ones((7, 9), np.float32))
    tifffile.imwrite(tmp_path / "volume.tif", np.ones((5, 7, 9), np.uint8))
    for name in ("x.png", "x.tif", "volume.tif"):
        with pytest.raises(ValueError, match=r"--window LOW,HIGH, in Python aimwrap.Preprocessing\(window=\)"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match=r"in 5 channels; for that, say which values are black and white: --window"):
        read_image(tmp_path / "x.png", prepared=Preprocessing((2, 3), (0.0,) * 5, (1.0,) * 5))


def test_the_transform_tells_the_reader(tmp_path: Path) -> None:
    """A table with a mask and a column of hospitals: the mask moves with the image, and groups are of both columns."""
    rows = ["image,label,hospital,mask"]
    for number in range(8):
        values = RNG.integers(0, 4096, (20, 30)).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"{number}.tif", values)
        Image.fromarray(np.where(values > 2000, 255, 0).astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.tif,{'ill' if number % 2 else 'well'},{'north' if number < 4 else 'south'},{number}.png")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    release = read_table(tmp_path / "scans.csv", place="hospital")
    prepared = Preprocessing((20, 30), (0.0,), (1.0,), "nearest", 1.0, window=(0, 4095))
    images = ReleaseDataset(release, "train", eval_transform(prepared))
    assert images.group_names == ("ill, north", "ill, south", "well, north", "well, south")
    for sample in images:
        assert sample.image.shape == (1, 20, 30)
        assert torch.equal(sample.object_mask > 0.5, sample.image > 2000.5 / 4095)
    images.transform = train_transform(prepared._replace(image_size=(16, 16)))
    assert images[0].image.shape == (1, 16, 16)
    images.transform = None
    with pytest.raises(ValueError, match="--window"):
        images[0]


def test_a_transform_with_a_window_takes_only_what_was_read_through_it(tmp_path: Path) -> None:
    """Inside a function, nothing tells the data set of the window: 8 bits would be taken as they are, in silence."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((20, 30), 100, np.uint8)).save(tmp_path / name / "x.png")
    inner = eval_transform(through(50, 150, 3)._replace(image_size=(20, 30)))
    (first, _) = LabelledFolder(tmp_path, transform=inner)
    assert (first.image == 0.5).all()
    other = LabelledFolder(tmp_path, transform=lambda sample: inner(sample))
    for sample in (first._replace(image=first.image * 100), first._replace(image=torch.ones(3, 20, 30).short())):
        with pytest.raises(ValueError, match=r"not read through the window \(50, 150\); pass this transform itself"):
            inner(sample)
    with pytest.raises(ValueError, match="not read through the window"):
        other[0]


def test_a_grey_model_reads_colours_as_grey(tmp_path: Path) -> None:
    """Without a window: the same as its own preparation of the opened file."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(tmp_path / name / "x.png")
    prepared = Preprocessing((16, 16), (0.4,), (0.2,))
    (first, _) = LabelledFolder(tmp_path, transform=eval_transform(prepared))
    assert torch.equal(first.image, prepared.transform()(Image.open(tmp_path / "a" / "x.png")))


def test_pictures_to_look_at() -> None:
    """Three channels in colour; of others the mean, as in the logs."""
    five, three = torch.rand(5, 6, 8), torch.rand(3, 6, 8)
    shown = np.asarray(as_picture(five))
    assert shown.shape == (6, 8, 3) and np.abs(shown / 255 - five.mean(0)[..., None].numpy()).max() < 0.003
    assert np.abs(np.asarray(as_picture(three)).transpose(2, 0, 1) / 255 - three.numpy()).max() < 0.003
    grid = mask_grid(five[None], torch.ones(1, 1, 3, 4))
    assert grid.shape == (3, 10, 22) and (grid[0, 2:8, 2:10] / 255 - five.mean(0)).abs().max() < 0.003


def test_turned_scans_fit_masks_of_both_kinds(tmp_path: Path) -> None:
    """As of 8 bits: a mask counts the pixels as shown, or as stored, and its size says which."""
    turned, mask, values = Image.Exif(), np.zeros((20, 30), np.uint8), np.full((20, 30), 1000, np.uint16)
    turned[0x0112] = 6
    mask[:5], values[:5] = 255, 4095
    for name, content in (("shown", np.rot90(mask, -1)), ("stored", mask)):
        Image.fromarray(values).save(tmp_path / f"{name}.png", exif=turned)
        Image.fromarray(content).save(tmp_path / f"{name}-mask.png")
    (tmp_path / "set.csv").write_text("image,label,mask\nshown.png,a,shown-mask.png\nstored.png,b,stored-mask.png\n")
    prepared = through(0, 4095)._replace(image_size=(20, 20))
    images = ReleaseDataset(read_table(tmp_path / "set.csv"), "train", eval_transform(prepared))
    for sample in images:
        assert torch.equal(sample.object_mask, (sample.image == 1).float())
    with Image.open(tmp_path / "shown.png") as picture:
        assert torch.equal(prepared.transform()(picture), images[0].image)
    found = examine(tmp_path / "set.csv", preprocessing=prepared)
    assert {check.name: check.mark for check in found.checks}["sizes"] == "ok"


def test_the_doctor_reads_through_the_window(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "x.tif", RNG.integers(0, 4096, (2, 20, 30)).astype(np.uint16), imagej=True,
                         metadata={"axes": "CYX"})  # fmt: skip
    assert examine(tmp_path).exit_code == 1
    for quick in (True, False):
        found = examine(tmp_path, preprocessing=through(0, 4095, 2), quick=quick)
        assert found.exit_code == 0 and not found.next_lines[1].endswith("train[0])'")
    again = examine(tmp_path, preprocessing=through(-1.5, 1048575, 3)).next_lines
    assert "--window=-1.5,1048575 --channels=3" in again[0]
    grey = Preprocessing((1, 1), (0.0,), (1.0,))
    assert "--channels=1" in examine(tmp_path, preprocessing=grey).next_lines[0]
