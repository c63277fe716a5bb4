"""Data: readers of the official releases, and sets whose background is tied to the label, with object masks."""

from .doctor import Examination, NotRecognisedError, examine
from .registry import READERS
from .release import Record, Release, ReleaseDataset
from .sample import Batch, Sample, collate, group_number
from .sets.built import Built, read_built
from .sets.cub import CUB200, read_cub
from .sets.digits import DigitSample, DigitsOnPhotographs
from .sets.folder import LabelledFolder, read_folder
from .sets.hard_imagenet import HardImageNet, read_hard_imagenet
from .sets.imagenet100 import ImageNet100, read_imagenet100
from .sets.imagewoof import ImageWoof, read_imagewoof
from .sets.table import LabelledTable, read_table
from .sets.traveling_birds import TravelingBirds, read_traveling_birds
from .sets.waterbirds import Waterbirds, read_waterbirds
from .transforms import (
    Augmentation,
    SampleTransform,
    crop_and_flip,
    eval_transform,
    image_only,
    jitter_crop_and_flip,
    no_augmentation,
    train_transform,
    trivial_augment,
)

__all__ = [
    "CUB200",
    "READERS",
    "Augmentation",
    "Batch",
    "Built",
    "DigitSample",
    "DigitsOnPhotographs",
    "Examination",
    "HardImageNet",
    "ImageNet100",
    "ImageWoof",
    "LabelledFolder",
    "LabelledTable",
    "NotRecognisedError",
    "Record",
    "Release",
    "ReleaseDataset",
    "Sample",
    "SampleTransform",
    "TravelingBirds",
    "Waterbirds",
    "collate",
    "crop_and_flip",
    "eval_transform",
    "examine",
    "group_number",
    "image_only",
    "jitter_crop_and_flip",
    "no_augmentation",
    "read_built",
    "read_cub",
    "read_folder",
    "read_hard_imagenet",
    "read_imagenet100",
    "read_imagewoof",
    "read_table",
    "read_traveling_birds",
    "read_waterbirds",
    "train_transform",
    "trivial_augment",
]
