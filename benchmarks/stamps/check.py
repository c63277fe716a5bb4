"""Look at Stamps, and check that colour alone does not show the place.

    python benchmarks/stamps/check.py                    # the colour check, three seeds: about a minute
    python benchmarks/stamps/check.py --network          # and how well a pretrained network predicts the places
    python benchmarks/stamps/check.py --sheet sheet.png  # 24 images of training and test, with the masks' outlines

The check predicts the place from backgrounds without animals, untied, half of them on either place: fitted on the
training split, scored on the test split, whose photographs are others. 0.5 is chance. *same photographs* is scored by
cross-validation within the training split: there a classifier can memorise the photographs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from dataset import Stamps
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sources import DOWNLOADS
from torch import Tensor
from tqdm import tqdm

from aimwrap.demo.backbone import MEAN_AND_STD, load_pretrained_backbone

Features = Callable[[Tensor], np.ndarray]  # of images (N, 3, H, W), one row for each
COLUMNS, ROWS, GAP = 8, 3, 2  # of each half of the contact sheet


def main() -> int:
    arguments = parse_arguments()
    if arguments.sheet:
        draw_sheet(arguments).save(arguments.sheet)
        print(f"written: {arguments.sheet} (upper half training, lower half test)")
        return 0
    features: dict[str, Features] = {"mean colour": mean_colour, "colour histogram": colour_histogram}
    if arguments.network:
        features["network's pooled features"] = pooled_features(load_pretrained_backbone())
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in tqdm(range(arguments.seeds), unit="seed", file=sys.stderr):
        train, test = (
            Stamps(split, tie=0.5, seed=seed, num_images=arguments.images, folder=arguments.folder)
            for split in ("train", "test")
        )
        backgrounds = [torch.stack([data.background(i) for i in range(len(data))]) for data in (train, test)]
        for name, extract in features.items():
            x, x_test = (extract(images) for images in backgrounds)
            for kind, classifier in classifiers().items():
                within = cross_val_score(classifier, x, train.places.numpy(), cv=5).mean()
                across = classifier.fit(x, train.places.numpy()).score(x_test, test.places.numpy())
                scores.setdefault((name, kind), []).append((across, float(within)))
    print(f"place from the background alone, {arguments.images} backgrounds per split, {arguments.seeds} seeds")
    print("| features | classifier | other photographs | same photographs |")
    print("|---|---|---|---|")
    for (name, kind), values in scores.items():
        across, within = (mean_and_deviation(column) for column in zip(*values, strict=True))
        print(f"| {name} | {kind} | {across} | {within} |")
    return 0


def classifiers() -> dict[str, Pipeline]:
    return {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1)),
        "15 nearest neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier(15)),
    }


def mean_and_deviation(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def mean_colour(images: Tensor) -> np.ndarray:
    return images.mean(dim=(2, 3)).numpy()


def colour_histogram(images: Tensor) -> np.ndarray:
    """Shares of the pixels in 4 x 4 x 4 cells of the colour cube."""
    cells = (images * 4).long().clamp(max=3)
    cells = (cells[:, 0] * 16 + cells[:, 1] * 4 + cells[:, 2]).flatten(1)
    counts = torch.zeros(len(cells), 64).scatter_add_(1, cells, torch.ones(cells.shape))
    return (counts / cells.shape[1]).numpy()


def pooled_features(backbone: torch.nn.Module) -> Features:
    @torch.no_grad()
    def extract(images: Tensor) -> np.ndarray:
        maps = [backbone.forward_features((batch - MEAN_AND_STD) / MEAN_AND_STD) for batch in images.split(50)]
        return torch.cat([batch.mean(dim=(2, 3)) for batch in maps]).numpy()

    return extract


def draw_sheet(arguments: argparse.Namespace) -> Image.Image:
    """The first images of either split, the border of their masks in red."""
    rows = []
    for split in ("train", "test"):
        data = Stamps(split, tie=arguments.tie, seed=arguments.sheet_seed, folder=arguments.folder)
        tiles = []
        for index in range(COLUMNS * ROWS):
            sample = data[index]
            border = F.max_pool2d(sample.object_mask, 3, 1, 1) - sample.object_mask
            image = torch.lerp(sample.image, torch.tensor([1.0, 0, 0])[:, None, None], border)
            tiles.append(F.pad(image, (GAP, GAP, GAP, GAP), value=1.0))
        rows += [torch.cat(tiles[i : i + COLUMNS], dim=2) for i in range(0, len(tiles), COLUMNS)]
    sheet = torch.cat(rows, dim=1)
    return Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DOWNLOADS, help="folder where fetch.py put the images")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of the check")
    parser.add_argument("--images", type=int, default=600, help="backgrounds per split and seed, a multiple of 4")
    parser.add_argument("--network", action="store_true", help="score tf_efficientnet_lite0's features as well")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet instead")
    parser.add_argument("--tie", type=float, default=0.95, help="tie of the contact sheet's training images")
    parser.add_argument("--sheet-seed", type=int, default=0, help="the contact sheet's seed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
