"""Reports of masks whose object is not what is bright: class numbers, colours, transparency."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aimwrap.data.io import open_object_mask

ROWS, COLUMNS = np.mgrid[:32, :40]
DISTANCE = (ROWS - 16) ** 2 + (COLUMNS - 18) ** 2
OBJECT, BORDER = DISTANCE < 80, (DISTANCE >= 80) & (DISTANCE < 120)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (32, 40, 3))
SOFT = np.clip(8 * (12 - np.sqrt(DISTANCE)) + 128, 0, 255)


def voc_palette() -> list[tuple[int, ...]]:
    """Pascal VOC's colours: the bits of a number, spread over red, green and blue."""
    return [
        tuple(sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3))
        for number in range(256)
    ]


def palette(numbers: np.ndarray, colours: list[tuple[int, ...]]) -> Image.Image:
    picture = Image.frombytes("P", (40, 32), numbers.astype(np.uint8).tobytes())
    picture.putpalette([value for colour in colours for value in colour])
    return picture


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.asarray(values).round().astype(np.uint8))


def painted(colour: object, background: object = BLACK) -> Image.Image:
    return grey(np.where(OBJECT[..., None], colour, background))


def with_opacity(colours: object, opacity: np.ndarray) -> Image.Image:
    return grey(np.concatenate([np.broadcast_to(colours, (32, 40, 3)), opacity[..., None]], -1))


def read(path: Path, picture: Image.Image, any_value: bool = False, **saved: object) -> torch.Tensor:
    picture.save(path, **saved)
    return open_object_mask(path, any_value)[0]


UNCLEAR = {
    "Pascal VOC": palette(15 * OBJECT + 255 * BORDER, voc_palette()),
    "Pascal VOC, a grey class": palette(7 * OBJECT + 255 * BORDER, voc_palette()),
    "Pascal VOC in colours": grey(np.array(voc_palette())[15 * OBJECT + 255 * BORDER]),
    "Pascal VOC's numbers": grey(15 * OBJECT + 255 * BORDER),
    "one class and a border": grey(OBJECT + 255 * BORDER),
    "COCO-Stuff's numbers": grey(np.where(OBJECT, 17, np.where(np.arange(32)[:, None] < 8, 156, 124))),
    "numbers above 25 on black": grey(np.where(OBJECT, 62, 89 * BORDER)),
    "a number above 25 on black": grey(62 * OBJECT),
    "two objects": palette(OBJECT + 2 * BORDER, voc_palette()),
    "red on white": painted((255, 0, 0), WHITE),
    "a colour map": painted((253, 231, 37), (68, 1, 84)),
    "a photograph": grey(PHOTOGRAPH),
    "a cut-out": with_opacity(PHOTOGRAPH, 255 * OBJECT),
    "a cut-out on black": with_opacity(PHOTOGRAPH * OBJECT[..., None], 255 * OBJECT),
    "a grey cut-out": with_opacity(PHOTOGRAPH[..., :1], 255 * OBJECT),
    "a transparent object": with_opacity(255 * OBJECT[..., None], 255 * ~OBJECT),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_what_is_no_mask_of_one_object_is_refused(tmp_path: Path, kind: str) -> None:
    """The border of Pascal VOC's masks was the object, and colours and photographs were soft masks."""
    with pytest.raises(ValueError, match=r"x\.png has .*Write 255 for the object and 0 for all else: of class numbers"):
        read(tmp_path / "x.png", UNCLEAR[kind])


def test_the_remedies_make_a_mask(tmp_path: Path) -> None:
    """What the message says."""
    image = UNCLEAR["Pascal VOC"]
    mask = Image.fromarray(255 * (np.asarray(image) == 15).astype("uint8"))
    for remedied in (mask, UNCLEAR["a cut-out"].getchannel("A")):
        assert torch.equal(read(tmp_path / "x.png", remedied), torch.from_numpy(OBJECT).float())


CLEAR = {
    "grey": grey(255 * OBJECT),
    "one bit": Image.fromarray(OBJECT),
    "16 bits": Image.fromarray((65535 * OBJECT).astype(np.uint16)),
    "palette of 0 and 1": palette(OBJECT, [BLACK, WHITE]),
    "palette of 1 and 0": palette(~OBJECT, [WHITE, BLACK]),
    "palette of greys": palette(255 * OBJECT, [(value,) * 3 for value in range(256)]),
    "palette with red": palette(OBJECT, [BLACK, (255, 0, 0)]),
    "DAVIS": palette(OBJECT, voc_palette()),
    "Pascal VOC, one class without a border": palette(15 * OBJECT, voc_palette()),
    "RGB": painted(WHITE),
    "blue": painted((0, 0, 255)),
    "opaque": with_opacity(255 * OBJECT[..., None], np.full((32, 40), 255)),
    "white on nothing": with_opacity(255 * OBJECT[..., None], 255 * OBJECT),
    "white, opaque in part": with_opacity(WHITE, 255 * OBJECT),
    "black, opaque in part": with_opacity(BLACK, 255 * OBJECT),
    "red, opaque in part": with_opacity((255, 0, 0), 255 * OBJECT),
    "grey, opaque in part": Image.merge("LA", [Image.new("L", (40, 32), 90), grey(255 * OBJECT)]),
    "nothing around": with_opacity(255 * OBJECT[..., None], 255 * (DISTANCE < 200)),
}


@pytest.mark.parametrize("kind", CLEAR)
@pytest.mark.parametrize("any_value", [False, True])
def test_the_object_is_read(tmp_path: Path, kind: str, any_value: bool) -> None:
    """A red object covered 30 % of its pixels, and one that only the opacity shows covered all or nothing."""
    assert torch.equal(read(tmp_path / "x.png", CLEAR[kind], any_value), torch.from_numpy(OBJECT).float())


@pytest.mark.parametrize("colours", [WHITE, BLACK, (255, 0, 0)])
def test_soft_opacity(tmp_path: Path, colours: tuple[int, ...]) -> None:
    right = torch.from_numpy(SOFT.round() / 255).float()
    assert torch.allclose(read(tmp_path / "x.png", with_opacity(colours, SOFT)), right)
    assert torch.allclose(read(tmp_path / "x.png", grey(SOFT)), right)
    assert torch.allclose(read(tmp_path / "x.png", Image.merge("LA", [grey(SOFT)] * 2)), right), "as it was read"


def test_shares_of_annotators_are_read(tmp_path: Path) -> None:
    """CUB's masks have fifths of 255."""
    fifths = np.random.default_rng(0).integers(0, 6, (32, 40)) * 51
    assert torch.allclose(read(tmp_path / "x.png", grey(fifths)), torch.from_numpy(fifths / 255).float())


@pytest.mark.parametrize("kind", ["grey", "enlarged", "thin and enlarged", "made smaller", "a dot"])
def test_soft_edges_and_grey_are_no_class_numbers(tmp_path: Path, kind: str) -> None:
    """Also where few pixels are white, or none."""
    ring = grey(255 * (abs(DISTANCE - 100) < 12))
    picture = {
        "grey": grey(200 * OBJECT),
        "enlarged": grey(255 * OBJECT).resize((80, 64), Image.Resampling.BILINEAR),
        "thin and enlarged": ring.resize((80, 64), Image.Resampling.BILINEAR),
        "made smaller": ring.resize((320, 256)).resize((60, 48), Image.Resampling.BOX),
        "a dot": grey(255 * (DISTANCE < 2)).resize((120, 96), Image.Resampling.BICUBIC),
    }[kind]
    assert torch.allclose(read(tmp_path / "x.png", picture), torch.from_numpy(np.asarray(picture) / 255).float())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("quality", [30, 40, 70, 95, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossy_masks_are_read(tmp_path: Path, kind: str, quality: int, mode: str) -> None:
    """Zeros may become ones, which are no class numbers, and 255s 254."""
    block = np.zeros((32, 40), bool)
    block[8:24, 8:24] = True
    for shape in (OBJECT, block):
        mask = read(tmp_path / "x", grey(255 * shape).convert(mode), format=kind, quality=quality)
        assert torch.equal(mask > 0.5, torch.from_numpy(shape))
