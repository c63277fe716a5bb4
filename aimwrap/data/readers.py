"""The readers by the names that commands take."""

from __future__ import annotations

from collections.abc import Mapping

from .built import Built
from .cub import CUB200
from .folder import LabelledFolder
from .hard_imagenet import HardImageNet
from .imagenet100 import ImageNet100
from .imagewoof import ImageWoof
from .release import ReleaseDataset
from .table import LabelledTable
from .traveling_birds import TravelingBirds
from .waterbirds import Waterbirds

READERS: Mapping[str, type[ReleaseDataset]] = {
    "waterbirds": Waterbirds,
    "cub": CUB200,
    "traveling-birds": TravelingBirds,
    "hard-imagenet": HardImageNet,
    "imagenet-100": ImageNet100,
    "imagewoof": ImageWoof,
    "built": Built,
    "folder": LabelledFolder,
    "table": LabelledTable,
}
"""Each is called with the set's folder (of ``table`` its CSV file), the split, and arguments of its own."""
