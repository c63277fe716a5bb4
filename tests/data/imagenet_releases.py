"""Miniature trees of ImageNet's relatives in their official layouts, with their quirks."""

from __future__ import annotations

import csv
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# three of ImageNet's classes; ImageNet's own numbers of them are 537, 770 and 810 in this miniature
HARD_WNIDS = {537: "n03218198", 770: "n04120489", 655: "n03770439"}
CLASSES = ("n01558993", "n02869837", "n13037406")  # of ImageNet-100's list, sorted
VOC = """<annotation>
\t<folder>val</folder>
\t<filename>{stem}</filename>
\t<source>
\t\t<database>ILSVRC_2012</database>
\t</source>
\t<size>
\t\t<width>{width}</width>
\t\t<height>{height}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>{objects}
</annotation>
"""
OBJECT = """
\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{0}</xmin>
\t\t\t<ymin>{1}</ymin>
\t\t\t<xmax>{2}</xmax>
\t\t\t<ymax>{3}</ymax>
\t\t</bndbox>
\t</object>"""


def picture(path: Path, size: tuple[int, int] = (20, 16), mode: str = "RGB", seed: int = 0) -> Path:
    """A small photograph-like image, ``size`` as (W, H)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path, "JPEG" if path.suffix.lower() in (".jpeg", ".jpg") else None)
    return path


def mask(path: Path, size: tuple[int, int] = (20, 16), value: int = 255, mode: str = "L") -> Path:
    """A mask whose left half is the object; always a PNG inside, whatever its name, as a mask must be exact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    values[:, : size[0] // 2] = value
    Image.fromarray(values).convert(mode).save(path, "PNG")
    return path


def bomb(path: Path) -> None:
    """An image of a few bytes that says it has 400 million pixels."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"0")),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def hard_imagenet(folder: Path, meta: bool = True) -> tuple[Path, Path]:
    """``hardImageNet`` and an ImageNet tree: three classes, of which the list's order is not the sorted one."""
    root, imagenet = folder / "hardImageNet", folder / "imagenet"
    for number, wnid in enumerate(HARD_WNIDS.values()):
        for count in (1, 2):
            picture(imagenet / "train" / wnid / f"{wnid}_{count}.JPEG")
            mask(root / "train" / f"{wnid}_{wnid}_{count}.JPEG", value=1 + 100 * number)  # any value is object
        stem = f"ILSVRC2012_val_0000000{number}"
        picture(imagenet / "val" / wnid / f"{stem}.JPEG")
        mask(root / "val" / f"{wnid}_{stem}.JPEG", value=255 * (number > 0), mode=("L", "RGB", "RGBA")[number])
    picture(imagenet / "train" / "n01440764" / "n01440764_10.JPEG")  # ImageNet's other classes
    (root / "train" / ".DS_Store").write_bytes(b"")
    (root / "val" / "Thumbs.db").write_bytes(b"")
    if meta:
        write_pickle(root / "meta" / "hard_imagenet_idx.pkl", [537, 770, 655])
        write_pickle(root / "meta" / "idx_to_wnid.pkl", {**HARD_WNIDS, 0: "n01440764"})
        names = [f"class {number}" for number in range(1000)]
        write_pickle(root / "meta" / "imagenet_classnames.pkl", names)
        write_pickle(root / "meta" / "paths_by_rank.pkl", {537: ["/home/someone/train/n03218198/n03218198_1.JPEG"]})
    return root, imagenet


def write_pickle(path: Path, value: object, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def imagenet100(folder: Path) -> tuple[Path, Path, Path]:
    """An ImageNet tree with more classes than the list, the list in its random order, and validation boxes."""
    root, annotations = folder / "imagenet", folder / "ILSVRC" / "Annotations" / "CLS-LOC" / "val"
    for number, wnid in enumerate([*CLASSES, "n01440764"]):
        for count in (2, 10):
            picture(root / "train" / wnid / f"{wnid}_{count}.JPEG")
        stem = f"ILSVRC2012_val_0000001{number}"
        picture(root / "val" / wnid / f"{stem}.JPEG")
        write_annotation(annotations, stem, [(wnid, (1, 1, 20, 16)), (wnid, (5, 6, 5, 6))])
    class_list = folder / "classes.txt"
    class_list.write_text("".join(f"{wnid}\n" for wnid in (CLASSES[1], CLASSES[2], CLASSES[0])))
    return root, class_list, folder / "ILSVRC"


def write_annotation(
    folder: Path,
    stem: str,
    boxes: list[tuple[str, tuple[int, int, int, int]]],
    size: tuple[int, int] = (20, 16),
    filename: str | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.xml"
    objects = "".join(OBJECT.format(*box, name=name) for name, box in boxes)
    path.write_text(VOC.format(stem=filename or stem, width=size[0], height=size[1], objects=objects))
    return path


WRONG_BREEDS = {0: 0, 1: 1, 5: 2, 25: 5, 50: 10}  # by per cent of noise, how many breeds have a wrong label


def imagewoof(folder: Path, name: str = "imagewoof2-160") -> Path:
    """All ten breeds with a training and a validation image each; one of either is of ImageNet's validation set."""
    from aimwrap.data.sets.imagewoof import WNIDS

    root = folder / name
    rows = []
    for number, wnid in enumerate(WNIDS):
        for split in ("train", "val"):
            counts = (3, 20) if split == "train" else (7,)
            stems = [f"{wnid}_{count}" for count in counts]
            if wnid == WNIDS[4]:
                stems[0] = f"ILSVRC2012_val_000{'00041' if split == 'train' else '00042'}"
            for stem in stems:
                relative = f"{split}/{wnid}/{stem}.JPEG"
                picture(root / relative, mode="L" if number == 2 else "RGB")
                can_be_wrong = split == "train" and stem.endswith("_20")
                noisy = [
                    WNIDS[(number + 1) % 10] if can_be_wrong and number < breeds else wnid
                    for breeds in WRONG_BREEDS.values()
                ]
                rows.append([relative, *noisy, split == "val"])
    header = ["path", *(f"noisy_labels_{share}" for share in WRONG_BREEDS), "is_valid"]
    with (root / "noisy_imagewoof.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *reversed(rows)])  # the release's table is not sorted
    (root / "train" / WNIDS[0] / "._hidden.JPEG").write_bytes(b"")
    return root


def class_folders(folder: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """Two classes, with endings of any case, a folder in a class, a hidden folder and a text file."""
    root = folder / "pets"
    for split in splits or ("",):
        for name in ("cat", "dog"):
            for file in ("b.JPG", "a.png", "more/c.Jpeg", "10.bmp"):
                picture(root / split / name / file)
        (root / split / "cat" / "notes.txt").write_text("no picture")
        (root / split / ".ipynb_checkpoints").mkdir()
    return root


def class_masks(folder: Path, root: Path) -> Path:
    """Masks next to :func:`class_folders`, as PNGs."""
    masks = folder / "masks"
    for path in root.rglob("*"):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"):
            mask(masks / path.relative_to(root).with_suffix(".png"))
    return masks


TABLE = """img_id,img_filename,y,split,place,place_filename
1,001.A/one.jpg,0,0,0,/f/forest/1.jpg
2,001.A/two.jpg,0,1,1,/l/lake/2.jpg
3,002.B/three.jpg,1,2,0,/f/forest/3.jpg
4,002.B/four.JPG,1,0,1,/l/lake/4.jpg
"""


def table(folder: Path, text: str = TABLE, name: str = "metadata.csv") -> Path:
    """A table in Waterbirds' layout with its images."""
    for relative in ("001.A/one.jpg", "001.A/two.jpg", "002.B/three.jpg", "002.B/four.JPG"):
        picture(folder / relative)
    path = folder / name
    path.write_text(text)
    return path
