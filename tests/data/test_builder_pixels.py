"""Built sets: the right pixels in image and mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builder_sources import SMALL, Made, cutout, make_cutouts, save, table
from PIL import Image

from aimwrap.data import Built
from aimwrap.data.builder import InPlace, Tying, backgrounds_in, build, building, cutouts_in, travelingbirds, waterbirds
from aimwrap.data.builder.plan import Shot
from aimwrap.data.release import SPLITS


def test_object_and_mask_coincide_and_the_background_is_the_rest(built: Path) -> None:
    sources = {row["img_id"]: row for row in table(built)}
    for split in ("train", "test"):
        data = Built(built, split)
        for index in range(0, len(data), 5):
            sample = data[index]
            row = sources[sample.id]
            red, blue = 100 + 100 * sample.label, int(row["cutout_filename"][-6:-4])
            pixels = np.asarray(sample.image).astype(int)
            inside = sample.object_mask[0].numpy() == 1
            outside = sample.object_mask[0].numpy() == 0
            assert 0.15 < inside.mean() < 0.6
            assert np.abs(pixels[inside] - (red, 0, blue)).max() <= 2
            green, other_blue = 50 + 100 * sample.place, 2 * int(row["place_filename"][-6:-4])
            assert np.abs(pixels[outside] - (0, green, other_blue)).max() <= 2
            assert sample.group == 2 * sample.label + sample.place


def test_in_place_keeps_size_and_position_and_fits_the_background(tmp_path: Path) -> None:
    """The background's middle, as wide as the picture's shape allows, is what is seen: its red sides are cut off."""
    make_cutouts(tmp_path / "cutouts", count=5)
    for place, green in (("beach", 50), ("forest", 200)):
        for number in range(5):
            pixels = np.zeros((80, 300, 3))
            pixels[:, :100] = pixels[:, 200:] = (255, 0, number)
            pixels[:, 100:200] = (0, green, number)
            save(tmp_path / "backgrounds" / place / f"{number}.png", pixels)
    build(
        tmp_path / "out",
        cutouts_in(tmp_path / "cutouts"),
        backgrounds_in(tmp_path / "backgrounds"),
        waterbirds(1.0, num_images={"train": 4, "val": 4, "test": 4}),
        style=InPlace(),
        cutout_uses=2,
        background_uses=2,
        file_format="png",
        progress=False,
    )
    for sample in Built(tmp_path / "out", None):
        assert sample.image.size == (30, 40)
        mask = sample.object_mask[0].numpy()
        assert (mask[5:-5, 5:-5] == 1).all() and mask.sum() == 30 * 20
        behind = np.asarray(sample.image)[mask == 0]
        assert behind[:, 0].max() == 0 and {*behind[:, 1].tolist()} == {(50, 200)[sample.place]}


def test_soft_opacity_blends_and_stays_in_the_mask(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=10, backgrounds=12)
    for path in (tmp_path / "cutouts").rglob("*.png"):
        soft = cutout(200, int(path.stem[-2:]) + 50 * (path.parent.name == "cat"))
        soft[5:10, :, 3] //= 4
        save(path, soft)
    made.build(tmp_path / "out", style=InPlace(), file_format="png")
    for sample in Built(tmp_path / "out", None):
        assert sample.object_mask[0, 7, 10] == pytest.approx(63 / 255)
        green = (50 + 100 * sample.place) * (1 - 63 / 255)
        assert np.asarray(sample.image)[7, 10, :2] == pytest.approx([200 * 63 / 255, green], abs=1)


def test_the_same_cutout_and_background_give_other_images_by_seed_split_and_number(made: Made) -> None:
    one, other = cutouts_in(made.root / "cutouts")[0], backgrounds_in(made.root / "backgrounds")[0]
    keys = [(seed, split, number) for seed in (0, 1) for split in SPLITS for number in (0, 1)]
    masks = {}
    for seed, split, number in keys:
        shots = [Shot(split, number, 0, 0, one, other)]
        masks[seed, split, number] = building.draw_shot(shots, SMALL, seed, 0).object_mask.tobytes()
        assert building.draw_shot(shots, SMALL, seed, 0).object_mask.tobytes() == masks[seed, split, number]
    assert len({*masks.values()}) == len(keys)


def test_jpegs_keep_their_colours_sharp(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2, 0], pixels[:, 1::2, 2] = 200, 200
    (tmp_path / "sharp.jpg").write_bytes(building._encoded(pixels, "jpg"))
    with Image.open(tmp_path / "sharp.jpg") as file:
        assert np.abs(np.asarray(file).astype(int) - pixels).mean() < 8


def test_backgrounds_are_turned_upright(tmp_path: Path) -> None:
    """A camera that was held sideways says so in the file."""
    make_cutouts(tmp_path / "cutouts", count=3)
    sideways = np.zeros((40, 40, 3), np.uint8)
    sideways[:, :20] = (0, 0, 100)  # the left half, which is above when turned by 90 degrees clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    for place in ("a", "b"):
        for number in range(3):
            path = tmp_path / "backgrounds" / place / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(sideways + np.uint8(number * 10 + 40 * (place == "b")))
            picture.save(path, exif=exif, quality=100)
    build(
        tmp_path / "out",
        cutouts_in(tmp_path / "cutouts"),
        backgrounds_in(tmp_path / "backgrounds"),
        travelingbirds(),
        style=InPlace(),
        progress=False,
    )
    for sample in Built(tmp_path / "out", None):
        pixels = np.asarray(sample.image).astype(int)
        assert (pixels[1, :, 2] - pixels[-2, :, 2]).min() > 40


def test_what_a_source_was_before_is_forgotten(tmp_path: Path) -> None:
    """In one Python session a user builds, repaints a source and builds again."""
    made = Made(tmp_path, cutouts=4, backgrounds=8)
    arguments: dict[str, Any] = {"tyings": {"train": Tying(0.5)}, "test_share": 0, "val_share": 0}
    made.build(tmp_path / "before", **arguments)
    for path in (tmp_path / "backgrounds").rglob("*.png"):
        save(path, 255 - np.asarray(Image.open(path)))
    made.build(tmp_path / "after", **arguments)
    for row in table(tmp_path / "after"):
        image = np.asarray(Image.open(tmp_path / "after" / row["img_filename"]))
        assert image[..., 0].max() > 200, "the backgrounds had no red before"
