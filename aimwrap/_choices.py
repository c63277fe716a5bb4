"""The named choices that the library and its commands share, without torch, since help and completion need them."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

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
MaskPadding = Literal["replicate", "zeros"]
MaskContext = Literal["normalised", "raw"]
Pooling = Literal["active", "all"]
AreaPer = Literal["image", "batch"]
ExportFormat = Literal["onnx", "pt2", "aotinductor"]
FileFormat = Literal["jpg", "png"]
Design = Literal["ours", "paper"]
Placement = Literal["anywhere", "centre", "edge"]
COLUMNS = ("image", "label", "place", "group", "split_column", "mask")

PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "head": "paper",
        "mask_padding": "zeros",
        "mask_context": "raw",
        "logit_spread": None,
        "logit_range": math.inf,
        "labels_move_area": True,
        "pooling": "all",
        "mask_norm": "batch",
    }
)
"""Arguments of :class:`~aimwrap.AIM` for the method of the paper's section 3: ``AIM(backbone, **PAPER)``.

``mask_norm`` and the mean over positions before each classifier are our choices, because the paper does not name any.
"""

OURS: Mapping[str, Any] = MappingProxyType(
    {
        "head": "feature-preserving",
        "mask_padding": "replicate",
        "mask_context": "normalised",
        "logit_spread": 4.0,
        "logit_range": 6.0,
        "labels_move_area": False,
        "pooling": "active",
        "mask_norm": "layer",
    }
)
"""The same arguments of the library's own design: the defaults of :class:`~aimwrap.AIM`."""

DESIGNS: Mapping[Design, Mapping[str, Any]] = {"ours": OURS, "paper": PAPER}

DEPARTURES = {
    "head": "feature-preserving head",
    "mask_padding": "replicated borders",
    "mask_context": "normalised context",
    "logit_spread": "standardised logits",
    "logit_range": "bounded logits",
    "labels_move_area": "labels do not move the area",
    "pooling": "mean over open positions",
}
"""Short names of what differs from the paper, by the argument of ``PAPER`` that has another value."""
