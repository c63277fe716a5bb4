"""A folder of small pictures in three splits, and a run on it that takes a moment."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from PIL import Image
from torch import nn

from aimwrap.train import Result, Settings, run_training


class Net(nn.Module):
    """Four strided convolutions and a linear classifier."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        widths = (3, 4, 6, 8, 8)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.GELU()) for before, after in itertools.pairwise(widths)
        )
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def make_pictures(root: Path, colour: int = 200, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Four training pictures and two others of each class; names and sizes in bytes do not depend on the colour."""
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for picture in range(count):
                pixels = np.full((32, 32, 3), colour, np.uint8)
                pixels[:, :, number % 3] = 10 * picture
                Image.fromarray(pixels).save(root / split / name / f"{picture}.bmp")
    return root


def settings_of(root: Path, **given: Any) -> Settings:
    """A plain run of one epoch, unless something else is given."""
    usual = {"method": "plain", "backbone": "small_run:Net", "image_size": 32, "epochs": 1, "batch_size": 4}
    return Settings(**{"data": "folder", "root": str(root), **usual, **given})


def train(root: Path, out: Path, **given: Any) -> Result:
    """Train, or continue."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    more = {name: given.pop(name) for name in ("say", "report", "keep_masks", "quiet") if name in given}
    return run_training(settings_of(root, **given), out, fabric, workers=0, **more)
