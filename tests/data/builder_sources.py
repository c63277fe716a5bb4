"""Small cut-outs and backgrounds, each a colour of its own, to build sets of."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aimwrap.data.builder import Placed, Tying, backgrounds_in, build, cutouts_in, waterbirds
from aimwrap.data.release import Release

SMALL = Placed(image_size=32)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def cutout(red: int, number: int, height: int = 30, width: int = 20) -> np.ndarray:
    """(H + 10, W + 10, 4): a full box of one colour with a transparent green margin that must never show."""
    pixels = np.zeros((height + 10, width + 10, 4))
    pixels[..., 1] = 255
    pixels[5:-5, 5:-5] = (red, 0, number, 255)
    return pixels


def make_cutouts(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 20, first: int = 0) -> Path:
    """Class k is ``100 + 100 * k`` of red, and each cut-out its number of blue, from the first one's on."""
    for label, name in enumerate(classes):
        for number in range(count):
            save(folder / name / f"{name}{number:02d}.png", cutout(100 + 100 * label, first + number))
    return folder


def make_backgrounds(
    folder: Path, places: tuple[str, ...] = ("beach", "forest"), count: int = 30, size: tuple[int, int] = (60, 80)
) -> Path:
    """Place k is ``50 + 100 * k`` of green, and each background its number of blue."""
    for place, name in enumerate(places):
        for number in range(count):
            pixels = np.zeros((*size, 3))
            pixels[..., 1:] = (50 + 100 * place, 2 * number)
            save(folder / name / f"{name}{number:02d}.png", pixels)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Made:
    """A folder of sources, and builds of it."""

    def __init__(self, root: Path, cutouts: int = 25, backgrounds: int = 40) -> None:
        self.root = root
        make_cutouts(root / "cutouts", count=cutouts)
        make_backgrounds(root / "backgrounds", count=backgrounds)

    def build(self, out: Path, tyings: dict[str, Tying] | None = None, **arguments: Any) -> Release:
        arguments = {"style": SMALL, "progress": False, **arguments}
        tyings = waterbirds(0.9) if tyings is None else tyings
        return build(
            out, cutouts_in(self.root / "cutouts"), backgrounds_in(self.root / "backgrounds"), tyings, **arguments
        )


def table(out: Path) -> list[dict[str, str]]:
    with (out / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def groups(out: Path, split: int) -> dict[tuple[int, int], int]:
    return Counter((int(row["y"]), int(row["place"])) for row in table(out) if int(row["split"]) == split)
