"""The named choices that the library and its commands share, without torch, since help and completion need them."""

from typing import Literal

DATA_SETS = {
    "built": "built.Built",
    "cub": "cub.CUB200",
    "waterbirds": "waterbirds.Waterbirds",
    "traveling-birds": "traveling_birds.TravelingBirds",
    "hard-imagenet": "hard_imagenet.HardImageNet",
    "imagewoof": "imagewoof.ImageWoof",
    "imagenet-100": "imagenet100.ImageNet100",
    "table": "table.LabelledTable",
    "folder": "folder.LabelledFolder",
}
"""File and class in ``aimwrap.data.sets`` by name. The doctor looks in this order: the surest evidence is first."""

Head = Literal["paper", "feature-preserving"]
MaskNorm = Literal["layer", "batch", "none"]
Pooling = Literal["active", "all"]
AreaPer = Literal["image", "batch"]
ExportFormat = Literal["onnx", "pt2", "aotinductor"]
FileFormat = Literal["jpg", "png"]
Placement = Literal["anywhere", "centre", "edge"]
COLUMNS = ("image", "label", "place", "group", "split_column", "mask")
