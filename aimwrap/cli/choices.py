"""What options may be, by name.

Written out beside the library's own, since those live beside torch, and help and completion have to be quick. The
tests hold the two against each other.
"""

from __future__ import annotations

from typing import Literal

Data = Literal[
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
Preset = Literal[
    "group-dro-erm",
    "dfr-base",
    "feature-learning-base",
    "gals-vanilla",
    "hard-imagenet-probe",
    "pip-net-convnext",
    "ours-birds",
    "ours-imagenet-subsets",
    "ours-frozen",
]
Head = Literal["feature-preserving", "paper"]
AreaPer = Literal["image", "batch"]
Frozen = Literal["nothing", "norm-statistics", "backbone"]
Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["cosine", "constant", "step"]
Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed"]
Augmentation = Literal["crop-and-flip", "jitter-crop-and-flip", "trivial-augment", "none"]
Selection = Literal["worst-group", "average", "last"]
Accelerator = Literal["auto", "cpu", "cuda"]
ExportFormat = Literal["onnx", "pt2", "aotinductor"]
FileFormat = Literal["jpg", "png"]
Placement = Literal["anywhere", "centre", "edge"]
