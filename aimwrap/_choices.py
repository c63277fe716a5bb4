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

_DECIDED: Mapping[str, tuple[Any, Any, str | None]] = {  # the paper's value, ours, and what ours is as a departure
    "head": ("paper", "feature-preserving", "feature-preserving head"),
    "mask_padding": ("zeros", "replicate", "replicated borders"),
    "mask_context": ("raw", "normalised", "normalised context"),
    "logit_spread": (None, 4.0, "standardised logits"),
    "logit_range": (math.inf, 6.0, "bounded logits"),
    "labels_move_area": (True, False, "labels do not move the area"),
    "pooling": ("all", "active", "mean over open positions"),
    "mask_norm": ("batch", "layer", None),
}

PAPER: Mapping[str, Any] = MappingProxyType({name: paper for name, (paper, _, _) in _DECIDED.items()})
"""Arguments of :class:`~aimwrap.AIM` for the method of the paper's section 3: ``AIM(backbone, **PAPER)``.

They are ``head``, ``mask_padding``, ``mask_context``, ``logit_spread``, ``logit_range``, ``labels_move_area``,
``pooling`` and ``mask_norm``; ``print(dict(PAPER))`` shows their values. ``mask_norm`` and the mean over positions
before each classifier are our choices, because the paper does not name any.
"""

OURS: Mapping[str, Any] = MappingProxyType({name: ours for name, (_, ours, _) in _DECIDED.items()})
"""The same arguments of the library's own design: the defaults of :class:`~aimwrap.AIM`."""

DESIGNS: Mapping[Design, Mapping[str, Any]] = {"ours": OURS, "paper": PAPER}

DEPARTURES = {name: words for name, (_, _, words) in _DECIDED.items() if words is not None}
"""Short names of what differs from the paper, by the argument of ``PAPER`` that has another value."""
