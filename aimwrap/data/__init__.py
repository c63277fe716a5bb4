"""Data: sets whose background is tied to the label, with object masks to measure against."""

from aimwrap.data.digits_on_photographs import DigitSample, DigitsOnPhotographs
from aimwrap.data.folder import LabelledFolder, read_folder
from aimwrap.data.hard_imagenet import HardImageNet, read_hard_imagenet
from aimwrap.data.imagenet100 import ImageNet100, read_imagenet100
from aimwrap.data.imagewoof import ImageWoof, read_imagewoof
from aimwrap.data.table import LabelledTable, read_table

__all__ = [
    "DigitSample",
    "DigitsOnPhotographs",
    "HardImageNet",
    "ImageNet100",
    "ImageWoof",
    "LabelledFolder",
    "LabelledTable",
    "read_folder",
    "read_hard_imagenet",
    "read_imagenet100",
    "read_imagewoof",
    "read_table",
]
