"""Reports of pictures that hold more than was read, or were passed over in silence."""

import struct
import warnings
from collections.abc import Callable
from io import BytesIO
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
    entries |= {
        339: (tags.get("sample_format", 1),) * bands,
        273: (),
        277: (bands,),
        278: (height,),
        279: (),
        284: (tags.get("planar", 2),),
        338: extra,
    }
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


def test_a_mark_of_65535_makes_no_white(tmp_path: Path) -> None:
    """Written into an image of 12 bits, it left 12 of 255 for the rest; beside nothing else it is white."""
    values = np.linspace(0, 4095, 96).round().astype(np.uint16).reshape(8, 12)
    values[:2, :2] = 65535
    Image.fromarray(values).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png has pixels of more than 8 bits, from 86 to 4095"):
        open_image(tmp_path / "x.png")
    Image.fromarray(np.uint16(65535) * (values == 65535)).save(tmp_path / "x.png")
    assert open_object_mask(tmp_path / "x.png").sum() == 4


def test_a_preview_before_the_full_picture_is_refused(tmp_path: Path) -> None:
    """As in DNG, whose full picture is in a part that Pillow does not open."""
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(np.zeros((6, 8, 3), np.uint8), subfiletype=1, subifds=1, photometric="rgb")
        file.write(np.ones((60, 80, 3), np.uint8), photometric="rgb")
    with pytest.raises(ValueError, match="a small picture before the full one, which would not be read"):
        open_image(tmp_path / "x.tif")


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
    "int16": (noise(1, 8, 9, most=32767), {"photometric": 1, "sample_format": 2}, "signed numbers, and nothing says"),
    "int8": (noise(1, 8, 9, most=127), {"photometric": 1, "sample_format": 2}, "signed numbers, and nothing says"),
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
    if kind != "12 bands":  # which Pillow does not open
        with pytest.raises(ValueError, match=message), Image.open(tmp_path / "x.tif") as opened:
            prepared(opened)


def prepared(image: object, channels: int = 3) -> torch.Tensor:
    """By a model's own preparation, to 4 x 8 pixels."""
    return Preprocessing((4, 8), (0.0,) * channels, (1.0,) * channels, crop=1.0).transform()(image)


def prepared_file(path: Path) -> torch.Tensor:
    with Image.open(path) as opened:
        return prepared(opened)


def test_a_palette_of_8_bits_is_not_read_as_black(tmp_path: Path) -> None:
    """TIFF's palettes have 16 bits; some programs write 0 to 255."""
    picture = Image.fromarray(noise(8, 9)).convert("P")
    picture.putpalette([value for grey in range(256) for value in (grey,) * 3])
    picture.save(tmp_path / "right.tif")
    right, wrong = (struct.pack("<768H", *(value * by for _ in range(3) for value in range(256))) for by in (256, 1))
    content = (tmp_path / "right.tif").read_bytes()
    assert right in content
    (tmp_path / "x.tif").write_bytes(content.replace(right, wrong))
    assert np.array_equal(np.asarray(open_image(tmp_path / "right.tif"))[..., 0], np.asarray(picture))
    with pytest.raises(ValueError, match="a palette of 8 bits"):
        open_image(tmp_path / "x.tif")


def test_inks_of_12_bits_are_refused(tmp_path: Path) -> None:
    """Little ink is nearly white, so the brightest value told nothing."""
    for most in (4095, 65535):
        write_tiff(tmp_path / "x.tif", np.full((4, 8, 9), most, np.uint16), planar=1, photometric=5)
        content = (tmp_path / "x.tif").read_bytes()
        (tmp_path / "x.tif").write_bytes(
            content.replace(struct.pack("<HHI", 338, 4, 1), struct.pack("<HHI", 700, 4, 1))
        )
        if most == 65535:
            assert np.asarray(open_image(tmp_path / "x.tif")).max() == 0
        else:
            with pytest.raises(ValueError, match="nothing says which value is white"):
                open_image(tmp_path / "x.tif")


def write_pnm(path: Path, kind: int, values: np.ndarray, white: int, times: int = 1, end: bytes = b"") -> None:
    """A file of PPM's family, with as many images."""
    rows = " ".join(map(str, values.ravel())).encode() + b"\n"
    if kind > 3:
        rows = (
            np.packbits(values > 0, axis=1).tobytes()
            if kind == 4
            else values.astype(">u2" if white > 255 else "u1").tobytes()
        )
    maximum = b"" if kind in (1, 4) else b"%d\n" % white
    header = b"P%d\n# P6 is no header here\n%d %d\n%s" % (kind, values.shape[1], values.shape[0], maximum)
    path.write_bytes((header + rows) * times + end)


@pytest.mark.parametrize("kind", [2, 3, 5, 6])
@pytest.mark.parametrize("white", [100, 255, 1023, 4095, 65535])
def test_the_white_of_ppm_is_that_of_its_header(tmp_path: Path, kind: int, white: int) -> None:
    values = np.linspace(0, white, 96).round().astype(int).reshape(4, 8, 3)
    values = values if kind in (3, 6) else values[..., 0]
    write_pnm(tmp_path / "x.ppm", kind, values, white)
    right = np.broadcast_to(values.reshape(4, 8, -1) * 255 / white, (4, 8, 3))
    assert np.abs(np.asarray(open_image(tmp_path / "x.ppm")) - right).max() <= 1
    with Image.open(tmp_path / "x.ppm") as opened:
        assert np.abs(prepared(opened).numpy().transpose(1, 2, 0) * 255 - right).max() <= 1


@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_ppm_of_12_bits_with_the_white_of_16_is_refused(tmp_path: Path, kind: int) -> None:
    """P6 and P3 were read as 0..16 of 255."""
    values = np.linspace(0, 4095, 96).round().astype(int).reshape(4, 8, 3)
    write_pnm(tmp_path / "x.ppm", kind, values if kind in (3, 6) else values[..., 0], 65535)
    for reading in (open_image, open_object_mask, prepared_file):
        with pytest.raises(ValueError, match="which value is white"):
            reading(tmp_path / "x.ppm")


@pytest.mark.parametrize("kind", range(1, 7))
@pytest.mark.parametrize("white", [255, 65535])
def test_several_images_in_ppm_are_refused(tmp_path: Path, kind: int, white: int) -> None:
    """They were read as the first."""
    values = noise(8, 9, 3).astype(int) * (white // 255) if kind not in (1, 4) else noise(8, 9, 3, most=1)
    values = values if kind in (3, 6) else values[..., 0]
    for end in (b"", b"\n", b"  \n\n", b"left by an editor"):
        if not (end.strip() and kind < 4):  # which Pillow refuses
            write_pnm(tmp_path / "x.ppm", kind, values, white, end=end)
            assert open_image(tmp_path / "x.ppm").size == (9, 8)
    write_pnm(tmp_path / "x.ppm", kind, values, white, times=2)
    for reading in (open_image, size_and_orientation, prepared_file):
        with pytest.raises(ValueError, match="several images, of which only the first would be read"):
            reading(tmp_path / "x.ppm")


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
    with Image.open(tmp_path / name) as opened:
        with pytest.raises(ValueError, match="image has 3 pages"):  # the preparation took the first
            prepared(opened)
        assert prepared(opened.copy()).shape == (3, 4, 8), "the page was chosen"
        opened.seek(2)
        assert torch.equal(prepared(opened), prepared(opened.copy()))


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


def test_pictures_of_other_kinds_and_without_suffix_are_named(tmp_path: Path) -> None:
    """The doctor said nothing of them; notes, code and data beside the pictures are none."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 12), (90 * number, 20, 0)).save(tmp_path / name / "a.jpg")
    unread = [*(f"x.{kind}" for kind in ("mpo", "TGA", "psd", "arw", "cr3", "RAF", "svg", "ico", "exr")), "y", "z"]
    for name in unread:
        Image.new("RGB", (16, 12)).save(tmp_path / "cat" / name, "PNG" if name == "y" else "WEBP")
    for name in ("README", "notes.txt", "empty", "Makefile", "icons.json", "x.rawdata", "x.icon", ".hidden", "x.csv"):
        (tmp_path / "cat" / name).write_text("" if name == "empty" else "P6 and BM are words here")
    (found,) = (check for check in examine(tmp_path).checks if check.name == "other files")
    assert found.mark == "warning" and [each.subject for each in found.findings] == sorted(
        f"cat/{name}" for name in unread
    )


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


@pytest.mark.parametrize("mode", ["P", "L", "1", "CMYK", "RGB", "LA", "YCbCr"])
def test_four_channels_are_not_made_of_others(mode: str) -> None:
    """A palette's numbers and grey became all four, and inks the model's own."""
    picture = Image.new("RGB", (16, 8), (200, 100, 50)).convert(mode)
    with pytest.raises(ValueError, match=f"4 channels, got mode {mode}; pass a tensor"):
        prepared(picture, 4)
    for channels in (1, 3):
        assert prepared(picture, channels).shape == (channels, 4, 8)


def test_four_channels_are_taken() -> None:
    """Pillow resizes colours by their opacity, which the fourth channel may not be."""
    values = noise(8, 16, 4)
    tensor = torch.from_numpy(values).permute(2, 0, 1)
    assert torch.equal(prepared(Image.fromarray(values), 4), prepared(tensor, 4))
    assert torch.equal(prepared(values, 4), prepared(tensor, 4)) and prepared(tensor[None], 4).shape == (1, 4, 4, 8)
    assert prepared(tensor[:1], 3).shape == (3, 4, 8), "grey is all three colours"
    for channels, wrong in ((3, values), (3, values[..., :2]), (1, values), (1, values[..., :2]), (2, values)):
        with pytest.raises(
            ValueError, match=rf"the model's {channels} channels, got .*image\[\.\.\., :{channels}\] has"
        ):
            prepared(wrong, channels)  # Pillow took the last one for opacity, and left it out
    for channels, wrong in ((4, tensor[:1]), (3, tensor), (1, tensor[:3])):
        with pytest.raises(ValueError, match=f"the model's {channels} channels, got"):
            prepared(wrong, channels)


@pytest.mark.parametrize(
    "name", ["a.dcm", "a.DICOM", "a.nii", "a.nii.gz", "a.svs", "a.ndpi", "a.czi", "a.dds", "a.fits"]
)
def test_pictures_of_medicine_and_science_are_named(tmp_path: Path, name: str) -> None:
    """A folder of DICOM with a few PNG files was healthy. What may be no picture is not named."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        Image.fromarray(noise(8, 8, 3)).save(tmp_path / label / "1.png")
        for other in (name, "features.npy", "notes.pdf", "a.dcmtk", "all.h5"):
            (tmp_path / label / other).write_bytes(b"x")
    (found,) = (check for check in examine(tmp_path).checks if check.name == "other files")
    assert found.mark == "warning" and [each.subject for each in found.findings] == [f"cat/{name}", f"dog/{name}"]


def test_an_opened_picture_of_12_bits_is_refused_again(tmp_path: Path) -> None:
    """It was near-black the second time, or after it was shown: Pillow had forgotten the bits of the file."""
    png_of_16_bits(tmp_path / "12.png", RNG.integers(0, 4096, (32, 32, 3)))
    Image.new("RGB", (32, 32)).save(tmp_path / "8.png")
    transform = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3).transform()
    deep, usual = Image.open(tmp_path / "12.png"), Image.open(tmp_path / "8.png")
    for _ in range(2):
        with pytest.raises(ValueError, match="more than 8 bits"):
            transform(deep)
        assert transform(usual).eq(-1).all()


@pytest.mark.parametrize("name", ["12.png", "12.tif"])
def test_a_loaded_picture_of_12_bits_without_a_file_name_is_refused(tmp_path: Path, name: str) -> None:
    """As a server opens what it was sent: once something had looked at its pixels, it was near-black."""
    values = RNG.integers(0, 4096, (32, 32, 3)).astype(np.uint16)
    png_of_16_bits(tmp_path / "12.png", values)
    write_tiff(tmp_path / "12.tif", values.transpose(2, 0, 1), planar=1)
    opened = Image.open(BytesIO((tmp_path / name).read_bytes()))
    opened.load()
    with pytest.raises(ValueError, match="more than 8 bits"):
        prepared(opened)


@pytest.mark.parametrize("copying", [lambda image: image.copy(), lambda image: image.convert("RGB")])
def test_a_nearly_black_copy_is_warned_of(tmp_path: Path, copying: Callable[[Image.Image], Image.Image]) -> None:
    """A copy does not know the bits of the file, so a picture of 12 bits was near-black in silence."""
    png_of_16_bits(tmp_path / "12.png", RNG.integers(0, 4096, (32, 32, 3)))
    with pytest.warns(UserWarning, match="image is nearly black; if it is a copy of an opened picture with more"):
        prepared(copying(Image.open(tmp_path / "12.png")))
    for usual in (Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (0, 0, 16))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            prepared(copying(usual))


@pytest.mark.parametrize(("images", "refused"), [(5, True), (12, True), (1, False)])
def test_slices_after_one_header_are_refused(tmp_path: Path, images: int, refused: bool) -> None:
    """As ImageJ writes large stacks, and says so in the description only: the first slice was the picture."""
    path = tmp_path / "stack.tif"
    said = f"ImageJ=1.54f\nimages={images}\nslices={images}\nloop=false\n"
    Image.fromarray(noise(8, 9)).save(path, tiffinfo={270: said})
    path.write_bytes(path.read_bytes() + noise(images - 1, 8, 9).tobytes())
    if refused:
        with pytest.raises(ValueError, match="several slices, of which only the first would be read"):
            open_image(path)
    else:
        assert open_image(path).size == (9, 8)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_fourth_band_that_nothing_names_is_refused(tmp_path: Path, kind: type) -> None:
    """Near infrared passed for opacity: a mask of an object, or nothing."""
    write_tiff(tmp_path / "x.tif", RNG.integers(0, np.iinfo(kind).max + 1, (4, 8, 9)).astype(kind), planar=1)
    content = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(content.replace(struct.pack("<HHI", 338, 4, 1), struct.pack("<HHI", 700, 4, 1)))
    for opening in (open_image, open_object_mask, prepared_file):
        with pytest.raises(ValueError, match="4 bands, and nothing says whether the last is opacity"):
            opening(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as opened:
        assert prepared(opened, 4).shape == (4, 4, 8), "where all four are read"
    Image.new("RGBA", (9, 8), (9, 9, 9, 128)).save(tmp_path / "named.tif")
    assert open_image(tmp_path / "named.tif").size == (9, 8)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((1, 1, 8, 8, 3), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((8, 8), object),
        np.zeros((0, 8, 3), np.uint8),
        torch.zeros(3, 0, 8),
        torch.zeros(8, 8),
        Image.new("RGB", (0, 8)),
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'shape', ())}",
)
def test_other_layouts_are_named(image: object) -> None:
    """A row of numbers was an image, and others ended in errors of Pillow's and torchvision's own."""
    with pytest.raises(
        ValueError, match=r"image must be an array \(H, W\) or \(H, W, C\), or a tensor \(C, H, W\) .*, got \("
    ):
        prepared(image, 3)


@pytest.mark.parametrize("image", ["x.png", Path("x.png"), None, [[1, 2]]], ids=str)
def test_what_is_no_image_is_refused(image: object) -> None:
    """A path came back as it was."""
    with pytest.raises(TypeError, match=r"a PIL image, array or tensor, got \w+; PIL.Image.open\(path\) opens a file"):
        prepared(image, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.99])
def test_floats_far_from_0_to_1_are_refused(value: float) -> None:
    image = torch.rand(3, 8, 8)
    image[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"floats in \[0, 1\], got torch.float32, \S+ to (nan|inf|1.99); divide"):
        prepared(image, 3)


def test_a_normalised_tensor_is_not_normalised_again() -> None:
    transform = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3).transform()
    picture = torch.rand(3, 32, 32)
    with pytest.raises(ValueError, match=r"floats in \[0, 1\].*do not normalise it"):
        transform((picture - 0.5) / 0.5)
    assert transform(picture - 0.1).shape == (3, 32, 32)  # as bicubic resizing may overshoot
