"""A set of small images with labels, places and masks, to train on."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"train": 22, "val": 9, "test": 11}  # no multiple of two processes, or of a batch


def make_tiny_set(folder: Path) -> Path:
    """Bright squares whose colour is the label, on a ground whose colour is the place; returns the table's path."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for split, count in COUNTS.items():
        for number in range(count):
            label = number % 2
            tied = split == "train" and number % 8 < 7
            place = label if tied else number // 2 % 2
            pixels = rng.integers(0, 60, (40, 40, 3))
            pixels[..., 2] += 120 * place
            top, left = rng.integers(2, 18, 2)
            pixels[top : top + 18, left : left + 18, label] = 230
            mask = np.zeros((40, 40), np.uint8)
            mask[top : top + 18, left : left + 18] = 255
            name = f"{split}{number:02d}"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
            rows.append([f"{name}.png", label, place, split, f"{name}_mask.png"])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "label", "place", "split", "mask"], *rows])
    return folder / "table.csv"
