"""How one image is made: what each setting of a style does, and which images can be cut-outs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builder_sources import save
from PIL import Image

from aimwrap.data.builder import Background, Cutout, InPlace, Placed
from aimwrap.data.builder.draw import Drawn, Style
from aimwrap.data.builder.plan import generator_of


class Scene:
    """A cut-out whose left half is red and right half blue, and a photograph of brightness ``column``."""

    def __init__(self, folder: Path) -> None:
        pixels = np.zeros((40, 60, 4))
        pixels[10:30, 10:30] = (255, 0, 0, 255)
        pixels[10:30, 30:50] = (0, 0, 255, 255)
        self.cutout = Cutout("c", save(folder / "c.png", pixels), "cat")
        behind = np.repeat(np.arange(200)[None, :, None], 100, axis=0).repeat(3, axis=2)
        self.background = Background("b", save(folder / "b.png", behind), "beach")

    def draw(self, style: Style, index: int) -> Drawn:
        return style.draw(self.cutout, self.background, generator_of(0, 0, index))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def is_mirrored(drawn: Drawn) -> tuple[bool, bool]:
    """The object, and the background by its rows above and below the object."""
    rows, columns = np.nonzero(drawn.object_mask == 255)
    row = drawn.image[rows[len(rows) // 2]]
    free = drawn.image[drawn.object_mask.max(axis=1) == 0].astype(int)
    blue_is_left = row[columns.min() + 2, 2] > row[columns.min() + 2, 0]
    return bool(blue_is_left), bool(free[0, 0, 0] > free[0, -1, 0])


def test_mirroring_turns_every_second_object_and_background_and_can_be_left_out(scene: Scene) -> None:
    style = Placed(image_size=32, object_size=(0.4, 0.5))
    mirrored = np.array([is_mirrored(scene.draw(style, index)) for index in range(60)])
    assert (mirrored.mean(0) > 0.25).all() and (mirrored.mean(0) < 0.75).all()
    assert not np.array([is_mirrored(scene.draw(style._replace(mirror=False), index)) for index in range(20)]).any()


@pytest.mark.parametrize("crop", [(1.0, 1.0), (0.6, 0.6), (0.5, 1.0)])
def test_crop_is_of_the_shorter_side(scene: Scene, crop: tuple[float, float]) -> None:
    style = Placed(image_size=32, object_size=(0.2, 0.2), crop=crop, mirror=False)
    spans = []
    for index in range(20):
        drawn = scene.draw(style, index)
        row = drawn.image[drawn.object_mask.max(axis=1) == 0][0, :, 0].astype(float)
        spans.append((row[-1] - row[0]) * 32 / 31 / 100)
    assert crop[0] - 0.05 < min(spans) and max(spans) < crop[1] + 0.05
    assert max(spans) - min(spans) > 0.2 * (crop[1] - crop[0])


def test_size_and_placement_of_the_object(scene: Scene) -> None:
    for index in range(10):
        mask = scene.draw(Placed(64, (0.5, 0.5), "centre"), index).object_mask > 127
        rows, columns = np.nonzero(mask)
        assert columns.max() - columns.min() + 1 == 32 and rows.max() - rows.min() + 1 == 16
        assert abs(columns.min() + columns.max() - 63) <= 1 and abs(rows.min() + rows.max() - 63) <= 1
        cut_off = scene.draw(Placed(64, (0.5, 0.5), "edge"), index).object_mask > 127
        assert 0.45 < cut_off.sum() / mask.sum() < 0.8


def test_recolouring_is_of_the_background_alone(scene: Scene) -> None:
    style = Placed(32, placement="centre", mirror=False)
    plain, recoloured = (scene.draw(style._replace(recolour=on), 1) for on in (False, True))
    grey = plain.image[plain.object_mask == 0].astype(int)
    coloured = recoloured.image[recoloured.object_mask == 0].astype(int)
    assert np.ptp(grey, axis=1).max() == 0
    assert abs(grey.mean() - coloured.mean()) > 3
    inside = recoloured.image[recoloured.object_mask == 255]
    assert {tuple(pixel) for pixel in inside[:: len(inside) - 1].tolist()} <= {(255, 0, 0), (0, 0, 255)}


def test_small_photographs_are_enlarged_and_large_ones_shrunk(scene: Scene, tmp_path: Path) -> None:
    for size in ((10, 20), (900, 3200)):
        path = save(tmp_path / f"{size[0]}.png", np.full((*size, 3), 77))
        for style in (Placed(48), InPlace()):
            drawn = style.draw(scene.cutout, Background("b", path, "beach"), generator_of(0, 0, 0))
            assert np.abs(drawn.image[drawn.object_mask == 0].astype(int) - 77).max() <= 1


def test_cutouts_with_a_palette_and_grey_ones_with_alpha(scene: Scene, tmp_path: Path) -> None:
    palette = Image.fromarray(np.pad(np.ones((10, 10), np.uint8), 5)).convert("P")
    palette.putpalette([0, 255, 0, 200, 100, 0] + [0] * 762)
    palette.save(tmp_path / "palette.png", transparency=0)
    grey = np.zeros((20, 20, 2), np.uint8)
    grey[5:15, 5:15] = (90, 255)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for name, colour in (("palette", (200, 100, 0)), ("grey", (90, 90, 90))):
        drawn = scene_with(scene, tmp_path / f"{name}.png").draw(InPlace(), 0)
        assert drawn.image.shape == (20, 20, 3)
        assert (drawn.image[drawn.object_mask == 255] == colour).all() and (drawn.object_mask == 255).sum() == 100


def scene_with(scene: Scene, path: Path, **more: object) -> Scene:
    scene.cutout = Cutout("c", path, "cat")._replace(**more)
    return scene


def test_opacity_of_a_second_image(scene: Scene, tmp_path: Path) -> None:
    """Its brightness is the opacity, or with ``any_value`` whatever is not black is the object."""
    image = save(tmp_path / "i.png", np.full((20, 20, 3), 200))
    faint = np.zeros((20, 20, 3))  # several channels, as some of CUB's
    faint[5:15, 5:15] = 153
    mask = save(tmp_path / "m.png", faint)
    soft = scene_with(scene, image, opacity_path=mask).draw(InPlace(), 0)
    assert sorted({*soft.object_mask.ravel().tolist()}) == [0, 153]
    hard = scene_with(scene, image, opacity_path=mask, any_value=True).draw(InPlace(), 0)
    assert sorted({*hard.object_mask.ravel().tolist()}) == [0, 255]
    with pytest.raises(ValueError, match=r"has 30 x 20 pixels \(W x H\), and .*i\.png 20 x 20: they do not belong"):
        other = save(tmp_path / "o.png", np.zeros((20, 30)))
        scene_with(scene, image, opacity_path=other).draw(InPlace(), 0)


def test_what_is_no_cutout(scene: Scene, tmp_path: Path) -> None:
    opaque = save(tmp_path / "opaque.png", np.zeros((20, 20, 3)))
    clear = save(tmp_path / "clear.png", np.zeros((20, 20, 4)))
    for style in (InPlace(), Placed(32)):
        with pytest.raises(ValueError, match=r"an alpha channel or a mask, and .*opaque\.png has no transparent pixel"):
            scene_with(scene, opaque).draw(style, 0)
        with pytest.raises(ValueError, match=r"pixels that are not transparent, got none in .*clear\.png"):
            scene_with(scene, clear).draw(style, 0)
        with pytest.raises(FileNotFoundError, match=r"gone\.png is not there"):
            scene_with(scene, tmp_path / "gone.png").draw(style, 0)
