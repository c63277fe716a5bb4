"""How long the doctor takes for a data set of Waterbirds' size: 11,788 small images with masks, boxes and tables.

    python benchmarks/doctor_speed.py                # makes the tree in a temporary folder, some 15 s
    python benchmarks/doctor_speed.py --images 2000  # the first ones only, to see that memory does not grow

The tree has the official counts, so the doctor finds it healthy. The files were just written, so they come from memory;
from a disk, the time to read them is added.
"""

import argparse
import csv
import io
import itertools
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from aimwrap.data.doctor import examine
from aimwrap.data.sets.waterbirds import OFFICIAL_COUNTS

LAND = [f"{number:03d}.Field_Sparrow_{number}" for number in range(1, 155)]
WATER = ["155.Eastern_Towhee", *(f"{number:03d}.Gull" for number in range(156, 201))]  # Towhees: the original labels
SPLITS = ("train", "val", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="number of images (default: all 11,788)")
    parser.add_argument("--workers", type=int, help="threads; by default one per core")
    parser.add_argument("--quick", action="store_true", help="read only the headers of the images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        number = make_waterbirds(Path(folder), options.images)
        before, started = peak_mib(), time.perf_counter()
        found = examine(
            Path(folder) / "waterbirds_v1.0",
            official=options.images is None,
            workers=options.workers,
            quick=options.quick,
            progress=True,
        )
        seconds = time.perf_counter() - started
        print(found)
        print(f"\n{seconds:.1f} s for {number:,} images and as many masks; peak memory {before} -> {peak_mib()} MiB")


def make_waterbirds(parent: Path, at_most: int | None) -> int:
    """CUB's tables and segmentations, and Waterbirds next to them; returns the number of images."""
    rng = np.random.default_rng(0)
    species = (itertools.cycle(LAND), itertools.cycle(WATER))
    cub, home = parent / "CUB_200_2011", parent / "waterbirds_v1.0"
    for name, below in itertools.product([*LAND, *WATER], [home, cub / "segmentations"]):
        (below / name).mkdir(parents=True)
    groups = [
        (split, group)
        for split, counts in enumerate(OFFICIAL_COUNTS[name] for name in SPLITS)
        for group, count in enumerate(counts)
        for _ in range(count)
    ][:at_most]
    rows, boxes = [], []
    for id, (split, group) in enumerate(groups, start=1):
        label, place = divmod(group, 2)
        name = f"{next(species[label])}/{id:05d}.jpg"
        boxes.append((id, *draw(home / name, (cub / "segmentations" / name).with_suffix(".png"), rng)))
        rows.append((id, name, label, split, place, "/o/ocean/1.jpg"))
    with (home / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("img_id", "img_filename", "y", "split", "place", "place_filename"), *rows])
    classes = [*LAND, *WATER]
    write(cub / "images.txt", [(row[0], row[1]) for row in rows])
    write(cub / "classes.txt", list(enumerate(classes, start=1)))
    write(cub / "image_class_labels.txt", [(row[0], classes.index(row[1].partition("/")[0]) + 1) for row in rows])
    write(cub / "train_test_split.txt", [(row[0], int(row[3] < 2)) for row in rows])
    write(cub / "bounding_boxes.txt", boxes)
    return len(rows)


def draw(image: Path, mask: Path, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """An image of about 100 pixels with its mask; returns the box."""
    width, height = map(int, rng.integers(85, 120, 2))
    left, top = map(int, rng.integers(5, 30, 2))
    box = (left, top, left + 50, top + 45)
    picture = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).resize((width, height))
    picture.paste((230, 220, 60), box)
    picture.save(image, quality=90)
    truth = Image.new("L", (width, height))
    truth.paste(255, box)
    truth.save(mask)
    return left, top, 50, 45


def write(path: Path, rows: list[tuple[object, ...]]) -> None:
    text = io.StringIO()
    for row in rows:
        print(*row, file=text)
    path.write_text(text.getvalue())


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
