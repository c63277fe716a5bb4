"""Data: readers of the official releases, and sets whose background is tied to the label, with object masks."""

from aimwrap.data.built import Built, read_built
from aimwrap.data.cub import CUB200, read_cub
from aimwrap.data.digits_on_photographs import DigitSample, DigitsOnPhotographs
from aimwrap.data.doctor import Examination, NotRecognisedError, examine
from aimwrap.data.folder import LabelledFolder, read_folder
from aimwrap.data.hard_imagenet import HardImageNet, read_hard_imagenet
from aimwrap.data.imagenet100 import ImageNet100, read_imagenet100
from aimwrap.data.imagewoof import ImageWoof, read_imagewoof
from aimwrap.data.readers import READERS
from aimwrap.data.release import Record, Release, ReleaseDataset
from aimwrap.data.sample import Batch, Sample, collate, group_number
from aimwrap.data.table import LabelledTable, read_table
from aimwrap.data.transforms import (
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
from aimwrap.data.traveling_birds import TravelingBirds, read_traveling_birds
from aimwrap.data.waterbirds import Waterbirds, read_waterbirds

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
