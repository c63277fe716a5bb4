"""How fast aimwrap reads and transforms images, compared with torchvision's ImageFolder with the same transforms of v2.

    python benchmarks/data_speed.py          # the table
    python benchmarks/data_speed.py --save   # and into benchmarks/data_speed.md, which the documentation shows

Both read the same JPEG files, which the script makes: smooth noise with the size and the weight of photographs, each
with a mask and a box. They run in turn within one process, in an order that alternates and with the same random crops,
and each pair gives one ratio of throughputs, which is ImageFolder's time over ours; shown are the median and, in
brackets, its 95 % interval by bootstrap over pairs. CPU time is that of the process and its workers; unlike the clock
it leaves out what other programs take of the machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm import tqdm

from aimwrap import Preprocessing
from aimwrap.data import Record, Release, ReleaseDataset, collate, eval_transform, train_transform

IMAGENET = Preprocessing((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
BATCH = 32


class Seconds(NamedTuple):
    clock: float
    cpu: float


def write_images(root: Path, number: int, seed: int = 0) -> Release:
    """Photo-like images in two folders, as ImageFolder wants them, and their masks next to them."""
    generator, records = np.random.default_rng(seed), []
    for index in tqdm(range(number), desc="writing images", unit="image"):
        values = sum(_noise(generator, scale) * scale for scale in (4, 12, 40, 120))
        values = 128 + 40 * (values - values.mean()) / values.std() + generator.normal(0, 4, values.shape)
        image = root / "images" / "ab"[index % 2] / f"{index}.jpg"
        mask = root / "masks" / f"{index}.png"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(image, quality=90)
        blob = _noise(generator, 120)[..., 0]
        Image.fromarray(np.where(blob > np.quantile(blob, 0.8), 255, 0).astype(np.uint8)).save(mask)
        records.append(
            Record(str(index), image, index % 2, "train", mask_path=mask, boxes=((50.0, 40.0, 400.0, 300.0),))
        )
    return Release("Noise", root, tuple(sorted(records, key=lambda record: record.path)), ("a", "b"))


def _noise(generator: np.random.Generator, scale: int) -> np.ndarray:
    coarse = generator.normal(size=(375 // scale + 2, 500 // scale + 2, 3)).astype(np.float32)
    channels = [Image.fromarray(coarse[..., c]).resize((500, 375), Image.Resampling.BICUBIC) for c in range(3)]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def without(release: Release, **unknown: None) -> Release:
    """The release as if it had no masks, or no boxes."""
    return Release(
        release.name, release.root, tuple(record._replace(**unknown) for record in release.records), release.classes
    )


def read_all(data: Dataset[object], workers: int, collate_fn: Callable[..., object] | None) -> Seconds:
    """Read a data set once, in the process itself or through a loader."""
    torch.manual_seed(0)
    if not workers:
        return timed(lambda: deque((data[index] for index in range(len(data))), maxlen=0))
    loader = DataLoader(data, BATCH, num_workers=workers, collate_fn=collate_fn)
    return timed(lambda: deque(loader, maxlen=0))


def timed(run: Callable[[], object]) -> Seconds:
    clock, cpu = time.perf_counter(), cpu_seconds()
    run()
    return Seconds(time.perf_counter() - clock, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare(first: Callable[[], Seconds], second: Callable[[], Seconds], pairs: int) -> list[str]:
    """The second's throughput over the first's, by the clock and by CPU time."""
    first(), second()
    ratios = []
    for turn in range(pairs):
        one, other = (first(), second()) if turn % 2 == 0 else (second(), first())[::-1]
        ratios.append([one.clock / other.clock, one.cpu / other.cpu])
    return [interval(values) for values in zip(*ratios, strict=True)]


def interval(ratios: tuple[float, ...]) -> str:
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor(ratios)[torch.randint(len(ratios), (2000, len(ratios)), generator=generator)].median(1).values
    low, high = draws.quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


def table(release: Release, pairs: int) -> Iterator[list[str]]:
    yield ["transform", "read", "workers", "throughput, by the clock", "by CPU time"]
    bare, masks = without(release, mask_path=None, boxes=None), without(release, boxes=None)
    for name, transform in (("evaluation", eval_transform(IMAGENET)), ("training", train_transform(IMAGENET))):
        folder = ImageFolder(release.root / "images", v2.Compose([*transform.geometry, *transform.pixels]))
        for what, given in (("images", bare), ("images and masks", masks), ("images, masks, boxes", release)):
            data = ReleaseDataset(given, "train", transform)
            assert [path for path, _ in folder.samples] == [str(record.path) for record in data.records]
            for workers in (0, 2):
                ratios = compare(
                    lambda folder=folder, workers=workers: read_all(folder, workers, None),
                    lambda data=data, workers=workers: read_all(data, workers, collate),
                    pairs,
                )
                yield [name, what, str(workers or "none"), *ratios]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        release = write_images(Path(folder), options.images)
        rows = []
        for row in table(release, options.pairs):
            rows.append("| " + " | ".join(row) + " |")
            print(rows[-1], flush=True)
    rows.insert(1, "|" + "---|" * rows[0].count(" | ") + "---|")
    if options.save:
        Path(__file__).with_suffix(".md").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
