"""Reports of pictures that hold more than was read, or were passed over in silence."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aimwrap import Preprocessing
from aimwrap.data import examine, read_folder
from aimwrap.data.io import FORMATS, open_image, open_object_mask, size_and_orientation

RNG = np.random.default_rng(0)


def write_tiff(path: Path, planes: np.ndarray, **tags: int) -> None:
    """Raw TIFF of (bands, H, W): in planes, or (H, W, bands) if tags say planar=1."""
    values = planes if tags.get("planar", 2) == 2 else planes.transpose(1, 2, 0)
    (bands, height, width), size = planes.shape, planes.dtype.itemsize
    bits, extra = (size * 8,) * bands, (0,) * max(0, bands - 3)
    entries = {256: (width,), 257: (height,), 258: bits, 259: (1,), 262: (tags.get("photometric", 2),)}
    entries |= {273: (), 277: (bands,), 278: (height,), 279: (), 284: (tags.get("planar", 2),), 338: extra}
    parts = bands if tags.get("planar", 2) == 2 else 1
    entries = {tag: value for tag, value in entries.items() if value or tag in (273, 279)}
    start = 8 + 2 + 12 * len(entries) + 4
    outside = b""
    data_at = start + 1000
    step = values.nbytes // parts
    entries[273], entries[279] = tuple(data_at + step * part for part in range(parts)), (step,) * parts
    listed = b""
    for tag, value in sorted(entries.items()):
        packed = struct.pack(f"<{len(value)}I", *value)
        if len(value) > 1:
            packed, outside = struct.pack("<I", start + len(outside)), outside + packed
        listed += struct.pack("<HHI", tag, 4, len(value)) + packed
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + listed + bytes(4) + outside
    path.write_bytes(head.ljust(data_at, b"\0") + values.tobytes())


def noise(*shape: int, most: int = 255) -> np.ndarray:
    return RNG.integers(0, most + 1, shape).astype(np.uint8 if most < 256 else np.uint16)


def png_of_16_bits(path: Path, values: np.ndarray) -> None:
    """RGB of 16 bits, which Pillow reads and does not write."""
    import zlib

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("opening", [open_image, open_object_mask])
def test_values_of_fewer_bits_than_the_file_are_refused(tmp_path: Path, bits: int, opening: object) -> None:
    """A PNG of 0..4095 was read as 0..16 of 255, and the doctor said "Healthy"; so was RGB."""
    values = np.linspace(0, 2**bits - 1, 96).round().astype(np.uint16).reshape(4, 8, 3)
    Image.fromarray(values[..., 0].copy()).save(tmp_path / "grey.png")
    png_of_16_bits(tmp_path / "rgb.png", values)
    write_tiff(tmp_path / "rgb.tif", values.transpose(2, 0, 1), planar=1)
    for name in ("grey.png", "rgb.png", "rgb.tif"):
        with pytest.raises(ValueError, match=rf"{name} has pixels of more than 8 bits.*which value is white"):
            opening(tmp_path / name)


def test_full_16_bits_are_read(tmp_path: Path) -> None:
    """Right before, and so it stays."""
    values = np.linspace(0, 65535, 96).astype(np.uint16).reshape(4, 8, 3)
    png_of_16_bits(tmp_path / "rgb.png", values)
    Image.fromarray(values[..., 0].copy()).save(tmp_path / "grey.png")
    assert np.abs(np.asarray(open_image(tmp_path / "rgb.png")) - values / 257).max() <= 1
    assert np.abs(np.asarray(open_image(tmp_path / "grey.png"))[..., 0] - values[..., 0] / 257).max() <= 0.5


@pytest.mark.parametrize("most", [200, 1023, 4095, 16383, 65535])
def test_readers_and_preparation_decide_alike_about_16_bits(tmp_path: Path, most: int) -> None:
    """Readers scaled grey of 16 bits and the preparation refused it; RGB of 12 bits passed the preparation as black."""
    values = np.linspace(0, most, 96).astype(np.uint16).reshape(4, 8, 3)
    png_of_16_bits(tmp_path / "rgb.png", values)
    Image.fromarray(values[..., 0].copy()).save(tmp_path / "grey.png")
    transform = Preprocessing((4, 8), (0.0,) * 3, (1.0,) * 3, crop=1.0).transform()
    for name in ("rgb.png", "grey.png"):
        if most == 65535:
            read = np.asarray(open_image(tmp_path / name), np.float32).transpose(2, 0, 1) / 255
            assert np.abs(transform(Image.open(tmp_path / name)).numpy() - read).max() < 1e-6
            continue
        said = []
        for reading in (lambda path: transform(Image.open(path)), open_image, open_object_mask):
            with pytest.raises(ValueError, match=r"with NumPy, \(values \* \(255 / white\)\)") as caught:
                reading(tmp_path / name)
            said.append(str(caught.value).replace(str(tmp_path / name), "image"))
        assert len({*said}) == 1


TIFFS = {
    "4 bands": (noise(4, 8, 9), {"planar": 1}, "4 bands, of which only 3 would be read"),
    "6 bands": (noise(6, 8, 9), {"planar": 1}, "6 bands, of which only 3 would be read"),
    "12 bands": (noise(12, 8, 9), {"planar": 1}, "is not an image that Pillow can read"),
    "16 bits in planes": (noise(3, 8, 9, most=65535), {}, "in a plane per colour, which Pillow reads wrong"),
    "0 is white": (noise(1, 8, 9, most=65535), {"photometric": 0}, "0 for white.*which Pillow reads wrong"),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_what_pillow_would_drop_or_read_wrong_is_refused(tmp_path: Path, kind: str) -> None:
    """Six bands were read as the first three, planes of 16 bits as noise; twelve bands were called "cut off"."""
    planes, tags, message = TIFFS[kind]
    write_tiff(tmp_path / "x.tif", planes, **tags)
    for opening in (open_image, open_object_mask, size_and_orientation):
        with pytest.raises(ValueError, match=message) as caught:
            opening(tmp_path / "x.tif")
        assert "with 8 bits" in str(caught.value) and "cut off" not in str(caught.value)


def test_planes_of_8_bits_are_read(tmp_path: Path) -> None:
    planes = noise(3, 8, 9)
    write_tiff(tmp_path / "x.tif", planes)
    assert np.array_equal(np.asarray(open_image(tmp_path / "x.tif")), planes.transpose(1, 2, 0))


@pytest.mark.parametrize("name", ["x.tif", "x.gif", "x.webp", "x.png"])
def test_several_pages_or_frames_are_refused(tmp_path: Path, name: str) -> None:
    """A TIFF of several pages was read as page 1."""
    first, *others = (Image.fromarray(noise(8, 9, 3)) for _ in range(3))
    first.save(tmp_path / name, save_all=True, append_images=others)
    with pytest.raises(ValueError, match=f"{name} has 3 pages or frames, of which only the first would be read"):
        open_image(tmp_path / name)
    with pytest.raises(ValueError, match="3 pages"):
        size_and_orientation(tmp_path / name)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="Pillow has no AVIF")
def test_avif_is_read_whatever_its_name(tmp_path: Path) -> None:
    """Called "cut off", although Pillow opens it."""
    Image.new("RGB", (16, 12), (200, 100, 50)).save(tmp_path / "x.avif")
    (tmp_path / "x.avif").rename(tmp_path / "x.jpg")
    assert open_image(tmp_path / "x.jpg").size == (16, 12)


def test_the_second_view_of_a_telephone_is_no_page(tmp_path: Path) -> None:
    """Multi-picture JPEG files were read before, and their first picture is the photograph."""
    views = [Image.new("RGB", (16, 12), (value, 0, 0)) for value in (200, 10)]
    views[0].save(tmp_path / "x.mpo", save_all=True, append_images=views[1:])
    (tmp_path / "x.mpo").rename(tmp_path / "x.jpg")
    assert open_image(tmp_path / "x.jpg").getpixel((3, 3))[0] > 180


def test_no_picture_is_passed_over_in_silence(tmp_path: Path) -> None:
    """Of 20 `.jfif` and 4 `.jpg` four were read, and the doctor said that nothing is left out."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for place, suffix in enumerate((".jpg", ".jfif", ".jpe", ".JFIF", ".gif")):
            kind = "GIF" if suffix == ".gif" else "JPEG"
            Image.new("RGB", (16, 12), (90 * number, 20 * place, 0)).save(tmp_path / name / f"{place}{suffix}", kind)
        (tmp_path / name / "telephone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert len(read_folder(tmp_path).records) == 10
    (unread,) = (check for check in examine(tmp_path).checks if check.name == "other files")
    assert unread.mark == "warning" and [finding.subject for finding in unread.findings] == [
        "cat/telephone.heic",
        "dog/telephone.heic",
    ]


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (40_000, 200)])
def test_long_and_narrow_pictures_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """179 bytes of 100,000 x 1 pixels asked for 26 GB at evaluation, whose resizing keeps proportions."""
    Image.new("L", size).save(tmp_path / "x.png")
    for opening in (open_image, open_object_mask):
        with pytest.raises(ValueError, match="a side more than 100 times the other; it was not decoded"):
            opening(tmp_path / "x.png")


@pytest.mark.parametrize("kind", [torch.int64, torch.uint16, torch.bool, torch.float32])
def test_values_of_another_kind_are_no_image(kind: torch.dtype) -> None:
    """0 to 255 as int64 were divided by 2 ** 63, and as floats by nothing."""
    transform = Preprocessing((4, 8), (0.0,) * 3, (1.0,) * 3, crop=1.0).transform()
    image = torch.full((3, 4, 8), 200).to(kind)
    with pytest.raises(ValueError, match=r"8 bits.*floats in"):
        transform(image)
    with pytest.raises(ValueError, match=r"8 bits.*floats in"):
        transform(image.permute(1, 2, 0).numpy())
    assert transform(torch.full((3, 4, 8), 200 / 255)).max() == 200 / 255
