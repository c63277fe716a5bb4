"""Miniature trees of the official releases of birds, with their quirks, painted so that right and wrong show.

Every photograph is dark, with a bright rectangle for the bird: where image and mask belong together, the image is
bright where the mask is 1.
"""

import csv
import json
import random
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

SPECIES = (
    "001.Black_footed_Albatross",
    "021.Eastern_Towhee",
    "059.California_Gull",
    "088.Western_Meadowlark",
    "102.Western_Wood_Pewee",
    "200.Common_Yellowthroat",
)
WATER = ("001.Black_footed_Albatross", "059.California_Gull")
MISLABELLED = ("021.Eastern_Towhee", "088.Western_Meadowlark", "102.Western_Wood_Pewee")
IMAGES_PER_SPECIES = 16  # so that a quarter of them, the training images, holds a tie of 3 to 1
COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
MASK_MODES = ("L", "RGB", "LA", "RGBA", "P", "1")  # as Pillow calls them; CUB's own have one channel or several


class Photograph(NamedTuple):
    """A bird of the miniature CUB: its number, name, class from 1, whether it is for training, and its box."""

    id: int
    name: str
    label: int
    training: bool
    size: tuple[int, int]  # W, H
    box: tuple[int, int, int, int]  # x, y, width, height


def photographs(images_per_species: int = IMAGES_PER_SPECIES) -> list[Photograph]:
    """The birds, all of other sizes and with other boxes; ids follow the names, as CUB's do."""
    birds = []
    for label, species in enumerate(SPECIES):
        for number in range(images_per_species):
            id = label * images_per_species + number + 1
            ending = ".JPG" if id == 2 else ".jpg"
            name = f"{species}/{species[4:]}_{number + 1:04d}_{100 * id}{ending}"
            size = (40 + id % 7, 32 + id % 5)
            box = (4 + id % 9, 3 + id % 6, 14 + id % 4, 12 + id % 3)
            birds.append(Photograph(id, name, label + 1, number % 2 == 0, size, box))
    return birds


def paint(bird: Photograph, background: int = 40) -> Image.Image:
    """A bright rectangle on dark ground."""
    pixels = np.full((bird.size[1], bird.size[0], 3), background, np.uint8)
    x, y, width, height = bird.box
    pixels[y : y + height, x : x + width] = 230
    return Image.fromarray(pixels)


def paint_mask(bird: Photograph) -> Image.Image:
    """The same rectangle, soft at its left edge, in one of the modes that segmentations come in."""
    mode = MASK_MODES[bird.id % len(MASK_MODES)]
    pixels = np.zeros((bird.size[1], bird.size[0]), np.uint8)
    x, y, width, height = bird.box
    pixels[y : y + height, x : x + width] = 255
    if mode not in ("P", "1"):
        pixels[y : y + height, x] = 128
    mask = Image.fromarray(pixels)
    if mode == "P":  # number 1 of a palette of black and white
        mask = Image.frombytes("P", bird.size, (pixels // 255).tobytes())
        mask.putpalette([0, 0, 0, 255, 255, 255])
        return mask
    return mask.convert(mode)


def write_table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """A table of CUB's kind, without a header."""
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def make_cub(
    parent: Path,
    segmentations: str | None = "inside",
    images_per_species: int = IMAGES_PER_SPECIES,
    shuffle_boxes: bool = False,
    pictures: bool = True,
) -> Path:
    """``CUB_200_2011`` in the parent, with segmentations in it, ``"beside"`` it, or none.

    Without images there are only the tables and folders.
    """
    cub = parent / "CUB_200_2011"
    birds = photographs(images_per_species)
    masks = {"inside": cub / "segmentations", "beside": parent / "segmentations", None: None}[segmentations]
    make_folders(cub / "images", *([] if masks is None else [masks]))
    for bird in birds if pictures else ():
        save(paint(bird), cub / "images" / bird.name)
        if masks is not None:
            save(paint_mask(bird), (masks / bird.name).with_suffix(".png"))
    write_table(cub / "images.txt", [(bird.id, bird.name) for bird in birds])
    write_table(cub / "classes.txt", list(enumerate(SPECIES, start=1)))
    write_table(cub / "image_class_labels.txt", [(bird.id, bird.label) for bird in birds])
    write_table(cub / "train_test_split.txt", [(bird.id, int(bird.training)) for bird in birds])
    boxes = [(bird.id, *map(float, bird.box)) for bird in birds]
    write_table(cub / "bounding_boxes.txt", random.Random(0).sample(boxes, len(boxes)) if shuffle_boxes else boxes)
    return cub


def make_folders(*parents: Path) -> None:
    """A folder for each species in each of the parents."""
    for parent in parents:
        for species in SPECIES:
            (parent / species).mkdir(parents=True, exist_ok=True)


def save(picture: Image.Image, path: Path) -> None:
    """JPEGs in good quality."""
    picture.save(path, **({"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}))


def waterbirds_rows(
    tie: float = 0.75, version: str = "original", images_per_species: int = IMAGES_PER_SPECIES
) -> list[list[object]]:
    """Rows of ``metadata.csv`` for the miniature CUB: half of CUB's training images are for validation."""
    rows: list[list[object]] = []
    seen: dict[tuple[int, int], int] = {}
    for bird in photographs(images_per_species):
        species = bird.name.partition("/")[0]
        was_water = species in WATER or species in MISLABELLED  # when the backgrounds were chosen
        split = (0 if bird.id % 4 == 1 else 1) if bird.training else 2
        number = seen[split, was_water] = seen.get((split, was_water), -1) + 1
        own = number % 4 < round(4 * tie) if split == 0 else number % 2 == 0
        place = int(was_water) if own else 1 - int(was_water)
        label = int(was_water) if version == "original" else int(species in WATER)
        rows.append([bird.id, bird.name, label, split, place, ("/b/bamboo_forest", "/o/ocean")[place] + "/1.jpg"])
    return rows


def make_waterbirds(
    parent: Path,
    name: str = "waterbird_complete95_forest2water2",
    tie: float = 0.75,
    version: str = "original",
    images_per_species: int = IMAGES_PER_SPECIES,
    rows: Sequence[Sequence[object]] | None = None,
    columns: Sequence[str] = COLUMNS,
    pictures: bool = True,
) -> Path:
    """The release's folder in the parent; ``rows`` and ``columns`` replace the table's, and not the images."""
    home = parent / name
    table = waterbirds_rows(tie, version, images_per_species)
    make_folders(home)
    for bird, row in zip(photographs(images_per_species), table, strict=True) if pictures else ():
        save(paint(bird, background=60 if row[4] else 20), home / bird.name)
    with (home / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(table if rows is None else rows)
    return home


def make_traveling_birds(parent: Path, images_per_species: int = IMAGES_PER_SPECIES, pictures: bool = True) -> Path:
    """``CUB_fixed``, ``CUB_black`` and ``CUB_random`` in the parent; backgrounds tell which folder an image is of."""
    fixed = parent / "CUB_fixed"
    make_folders(parent / "CUB_black", parent / "CUB_random", fixed / "train", fixed / "test")
    for bird in photographs(images_per_species) if pictures else ():
        save(paint(bird, background=0), parent / "CUB_black" / bird.name)
        save(paint(bird, background=20 + bird.id), parent / "CUB_random" / bird.name)
        save(paint(bird, background=60), fixed / "train" / bird.name)
        save(paint(bird, background=100), fixed / "test" / bird.name)
    ids = [17, 3, 200, 56, 364, 0]
    write_places(fixed / "train_places.json", dict(zip(SPECIES, ids, strict=True)))
    write_places(fixed / "test_places.json", dict(zip(SPECIES, ids[-1:] + ids[:-1], strict=True)))
    return parent


def write_places(path: Path, places: Mapping[str, object]) -> None:
    """Species and numbers of Places365's classes."""
    path.write_text(json.dumps(dict(places), sort_keys=True, indent=4), encoding="utf-8")


Breaking = Callable[[Path], object]


def change(name: str, old: str | bytes, new: str | bytes) -> Breaking:
    """Replace the first such text in a file of a tree."""
    before, after = (text.encode() if isinstance(text, str) else text for text in (old, new))

    def breaking(root: Path) -> None:
        content = (root / name).read_bytes()
        assert before in content
        (root / name).write_bytes(content.replace(before, after, 1))

    return breaking


def remove(name: str) -> Breaking:
    """Remove a file or a folder of a tree."""
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def write(name: str, content: str | bytes) -> Breaking:
    """Write another content to a file of a tree."""
    return lambda root: (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


def recode(name: str, encoding: str) -> Breaking:
    """Write a file of a tree in another encoding."""
    return lambda root: (root / name).write_bytes((root / name).read_text().encode(encoding))


def assert_refused(read: Callable[[], object], root: Path, broken: tuple[Breaking, type[Exception], str]) -> None:
    """A healthy tree is read; broken, it is refused with this error and message."""
    breaking, error, message = broken
    read()
    breaking(root)
    with pytest.raises(error, match=message):
        read()


def cut_off(path: Path, share: float = 0.6) -> None:
    """Leave the first part of a file, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def make_bomb(path: Path, side: int = 20_000) -> None:
    """A PNG of a few bytes that says it has ``side`` squared pixels."""
    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(20_000))), (b"IEND", b"")]
    body = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
