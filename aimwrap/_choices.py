"""The named choices that the library and its commands share, without torch, since help and completion need them."""

from typing import Literal

DataName = Literal[
    "waterbirds",
    "cub",
    "traveling-birds",
    "hard-imagenet",
    "imagenet-100",
    "imagewoof",
    "built",
    "folder",
    "table",
]
Head = Literal["paper", "feature-preserving"]
AreaPer = Literal["image", "batch"]
ExportFormat = Literal["onnx", "pt2", "aotinductor"]
FileFormat = Literal["jpg", "png"]
Placement = Literal["anywhere", "centre", "edge"]
