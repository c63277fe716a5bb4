"""Data: sets whose background is tied to the label, with object masks to measure against."""

from aimwrap.data.digits_on_photographs import DigitSample, DigitsOnPhotographs
from aimwrap.data.release import Record, Release, ReleaseDataset
from aimwrap.data.sample import Batch, Sample, collate, group_number
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

__all__ = [
    "Augmentation",
    "Batch",
    "DigitSample",
    "DigitsOnPhotographs",
    "Record",
    "Release",
    "ReleaseDataset",
    "Sample",
    "SampleTransform",
    "collate",
    "crop_and_flip",
    "eval_transform",
    "group_number",
    "image_only",
    "jitter_crop_and_flip",
    "no_augmentation",
    "train_transform",
    "trivial_augment",
]
