"""A set of small images with labels, places and masks, as a table: bright squares on tinted grounds; and a net."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from zoo import TinyNet

COUNTS = {"train": 8, "test": 14}
CLASSES = ("land bird", "water bird")
PLACES = ("land", "water")


def make_pictures(folder: Path, counts: Mapping[str, int] = COUNTS) -> Path:
    """Write images of 60 x 48 pixels, and the table that lists them; returns the table's path."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for split, count in counts.items():
        for number in range(count):
            label, place = number % 2, number // 2 % 2 if split == "test" else number % 2
            pixels = rng.integers(0, 80, (48, 60, 3))
            pixels[..., 2] += 100 * place
            top, left = rng.integers(4, 20), rng.integers(12, 28)
            pixels[top : top + 20, left : left + 20, label] = 240
            mask = np.zeros((48, 60), np.uint8)
            mask[top : top + 20, left : left + 20] = 255
            name = f"{split}{number:02d}"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
            box = (left, top, left + 20, top + 20)
            rows.append([f"{name}.png", CLASSES[label], PLACES[place], split, f"{name}_mask.png", *box])
    header = ["image", "label", "place", "split", "mask", "x0", "y0", "x1", "y1"]
    with (folder / "birds.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "birds.csv"


def tiny() -> TinyNet:
    """For the two classes of the images; commands import it as ``table_set:tiny``."""
    return TinyNet(num_classes=2)
