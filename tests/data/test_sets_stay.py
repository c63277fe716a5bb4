"""Published figures are based on Stamps and on the digits: no label and no pixel of them may move.

Labels and places are compared exactly. Pixels are compared with images that the code drew when the figures were
published, by two levels of 255, since other processors and other versions of Pillow round otherwise:

    python tests/data/test_sets_stay.py    # draws the images again, to change pixels on purpose
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aimwrap.data import DigitsOnPhotographs
from aimwrap.data.builder.draw import crop_square, crop_to_object, jitter_colour, paste, place_object
from aimwrap.data.builder.plan import generator_of

DIGITS, STAMPS = (Path(__file__).parent / name for name in ("digits_that_stay.png", "stamps_that_stay.png"))
SIDE = 48


def digest(*columns: torch.Tensor) -> str:
    return hashlib.sha256(torch.stack([column.long() for column in columns]).numpy().tobytes()).hexdigest()[:16]


def draw_digits() -> np.ndarray:
    """Images above their masks: the first four of training and test."""
    samples = [DigitsOnPhotographs(split, seed=1, image_size=SIDE)[i] for split in ("train", "test") for i in range(4)]
    images = torch.cat([sample.image for sample in samples], dim=2)
    masks = torch.cat([sample.object_mask.expand(3, -1, -1) for sample in samples], dim=2)
    return (torch.cat([images, masks], dim=1) * 255).round().byte().permute(1, 2, 0).numpy()


def draw_stamps() -> np.ndarray:
    """As ``benchmarks/stamps`` draws, from images made here: eight images above their masks."""
    rows, columns = np.mgrid[:150, :200].astype(np.float32)
    waves = [127 + 120 * np.sin(columns / 9 + rows / 14), 127 + 120 * np.cos(rows / 7), columns]
    photograph = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))
    ramp = np.zeros((70, 90, 4), np.uint8)
    ramp[10:60, 5:80] = np.stack([waves[1], columns, waves[0], 255 - rows], axis=-1)[10:60, 5:80]
    cutout = crop_to_object(Image.fromarray(ramp), "ramp")
    images, masks = [], []
    for index, placement in enumerate(["anywhere", "centre", "edge", "edge"] * 2):
        rng = generator_of(3, 1, index)
        background = jitter_colour(crop_square(photograph, SIDE, (0.15, 1.0), rng), rng)
        colour, opacity = place_object(cutout, SIDE, (0.5, 0.8), placement, rng)
        images.append(paste(colour, opacity, background))
        masks.append(np.repeat(opacity, 3, axis=2))
    sheet = np.concatenate([np.concatenate(images, axis=1), np.concatenate(masks, axis=1)])
    return (sheet * 255).round().astype(np.uint8)


def assert_same_pixels(drawn: np.ndarray, path: Path, largest: int) -> None:
    with Image.open(path) as file:
        difference = np.abs(drawn.astype(int) - np.asarray(file).astype(int))
    assert (difference > largest).mean() < 1e-3, f"pixels of {path.name} moved, by up to {difference.max()} of 255"


@pytest.mark.parametrize(
    ("split", "tie", "seed", "expected"),
    [
        ("train", 0.95, 0, "74be0a84d3f1dbe2"),
        ("train", 1.0, 3, "d1a333ddcbe904b5"),
        ("test", 0.95, 0, "3cb1f28f63dfbe92"),
    ],
)
def test_labels_and_places_of_the_digits_stay(split: str, tie: float, seed: int, expected: str) -> None:
    pytest.importorskip("sklearn")
    data = DigitsOnPhotographs(split, tie, seed, image_size=32)
    assert digest(data.labels, data.places, torch.tensor(data._digit_of_image)) == expected


def test_pixels_of_the_digits_stay() -> None:
    pytest.importorskip("sklearn")
    assert_same_pixels(draw_digits(), DIGITS, largest=2)


def test_pixels_that_stamps_are_made_of_stay() -> None:
    assert_same_pixels(draw_stamps(), STAMPS, largest=2)


if __name__ == "__main__":
    Image.fromarray(draw_digits()).save(DIGITS)
    Image.fromarray(draw_stamps()).save(STAMPS)
