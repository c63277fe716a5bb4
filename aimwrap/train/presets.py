"""Recipes by name: those of the closest works, as their code has them, and ours.

A recipe sets what a work says; the rest keeps its default, and options of the command win over both. The weights to
start from are those that the backbone's library has now, which need not be the ones of that time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import cleandoc
from typing import Any, NamedTuple

Overrides = Mapping[str, Any]


class Preset(NamedTuple):
    """A recipe.

    Attributes:
        source: whose it is: a work, or ``"ours"``.
        settings: what it sets, by the names of :class:`~aimwrap.train.Settings`.
        explained: its docstring.
    """

    source: str
    settings: Overrides
    explained: str


_RESNET_ON_256 = {"backbone": "torchvision/resnet50", "image_size": 224, "crop": 224 / 256}
_SGD = {"optimizer": "sgd", "momentum": 0.9, "schedule": "constant"}


def group_dro_erm() -> Overrides:
    """The plain baseline of group DRO on Waterbirds (Sagawa et al. 2020; ``README.md``, ``data/cub_dataset.py``).

    ResNet-50, SGD, 300 epochs, no augmentation, images squashed to 256 x 256 and cropped to 224. Their results are of
    the epoch with the best worst group on the validation split.
    """
    rates = {"lr": 1e-3, "head_lr": 1e-3, "weight_decay": 1e-4, "batch_size": 128, "epochs": 300}
    images = {"augmentation": "none", "squash": True}
    return {"method": "plain", **_RESNET_ON_256, **_SGD, **rates, **images, "selection": "validation worst group"}


def dfr_base() -> Overrides:
    """The base model of DFR on Waterbirds (Kirichenko et al. 2023; ``README.md``, ``wb_data.py``).

    ResNet-50, SGD, 100 epochs, random crops of at least 70 % and flips; the last epoch.
    """
    rates = {"lr": 1e-3, "head_lr": 1e-3, "weight_decay": 1e-3, "batch_size": 32, "epochs": 100}
    images = {"augmentation": "crop-and-flip", "squash": True}
    return {"method": "plain", **_RESNET_ON_256, **_SGD, **rates, **images, "selection": "last"}


def feature_learning_base() -> Overrides:
    """Plain training of "On feature learning in the presence of spurious correlations" (Izmailov et al. 2022, README).

    As DFR's base model, with a larger rate that falls along a cosine, and less weight decay.
    """
    return {**dfr_base(), "lr": 3e-3, "head_lr": 3e-3, "weight_decay": 1e-4, "schedule": "cosine"}


def gals_vanilla() -> Overrides:
    """The plain baseline of GALS on Waterbirds (Petryk et al. 2022; ``configs/waterbirds_95_vanilla.yaml``).

    ResNet-50, SGD, the backbone at ten times the classifier's rate, 200 epochs. They select by the validation's
    class-balanced accuracy, which is not among the rules here; the average accuracy is used instead.
    """
    rates = {"lr": 1e-2, "head_lr": 1e-3, "weight_decay": 1e-5, "batch_size": 96, "epochs": 200}
    images = {**_RESNET_ON_256, "crop": 1.0, "squash": True, "augmentation": "none"}
    return {"method": "plain", **_SGD, **rates, **images, "selection": "validation average"}


def hard_imagenet_probe() -> Overrides:
    """The linear probe of Hard-ImageNet's authors (Moayeri et al. 2022; ``finetuner.py``, ``augmentations.py``).

    ResNet-50, frozen; Adam, 15 epochs, no augmentation, images squashed to 256 x 256 and cropped to 224.
    """
    rates = {"optimizer": "adam", "schedule": "constant", "lr": 0.0, "head_lr": 5e-4, "weight_decay": 1e-4}
    images = {"augmentation": "none", "squash": True, "batch_size": 32, "epochs": 15}
    return {"method": "plain", "frozen": "backbone", **_RESNET_ON_256, **rates, **images, "selection": "last"}


def pip_net_convnext() -> Overrides:
    """The rates of PIP-Net on CUB with ConvNeXt-T (Nauta et al. 2023; ``util/args.py``), around AIM.

    AdamW without weight decay, the backbone at 5e-4 and the classifier at 5e-2, cosine, 60 epochs, TrivialAugment.
    Their first ten epochs train prototypes without labels. AIM has no prototypes, so they are left out.
    """
    rates = {"optimizer": "adamw", "schedule": "cosine", "lr": 5e-4, "head_lr": 5e-2, "weight_decay": 0.0}
    images = {"augmentation": "trivial-augment", "image_size": 224, "batch_size": 64, "epochs": 60}
    return {"method": "aim", "backbone": "convnext_tiny", **rates, **images, "selection": "last"}


def ours_birds() -> Overrides:
    """Ours, for Waterbirds, CUB and TravelingBirds: a starting point that was not tuned on any of them.

    A low learning rate for the backbone, whose norms keep their statistics, and a hundred times that rate for new
    layers: this mattered most in the study on Stamps. Tau falls in the first third of 50 epochs.
    """
    rates = {"optimizer": "adamw", "schedule": "cosine", "lr": 1e-5, "head_lr": 1e-3, "weight_decay": 0.05}
    images = {"augmentation": "crop-and-flip", "batch_size": 64, "epochs": 50, "warmup_epochs": 5.0}
    return {"method": "aim", "frozen": "norm-statistics", **rates, **images}


def ours_imagenet_subsets() -> Overrides:
    """Ours, for ImageNet-100, ImageWoof and Hard-ImageNet: as for birds, with 30 epochs and stronger crops."""
    return {**ours_birds(), "augmentation": "jitter-crop-and-flip", "epochs": 30, "lr": 5e-5, "head_lr": 5e-4}


def ours_frozen() -> Overrides:
    """Ours, as in the study on Stamps: the backbone frozen, tau 0.1, 20 epochs at one rate, no augmentation."""
    rates = {"optimizer": "adamw", "schedule": "constant", "lr": 0.0, "head_lr": 1e-3, "weight_decay": 0.01}
    images = {"augmentation": "none", "batch_size": 32, "epochs": 20, "tau": (0.1,), "anneal_share": 0.5}
    return {"method": "aim", "frozen": "backbone", **rates, **images}


def _preset(source: str, recipe: Callable[[], Overrides]) -> Preset:
    return Preset(source, recipe(), cleandoc((recipe.__doc__ or "").replace("``", "")))


PRESETS: Mapping[str, Preset] = {
    "group-dro-erm": _preset("Sagawa et al. 2020", group_dro_erm),
    "dfr-base": _preset("Kirichenko et al. 2023", dfr_base),
    "feature-learning-base": _preset("Izmailov et al. 2022", feature_learning_base),
    "gals-vanilla": _preset("Petryk et al. 2022", gals_vanilla),
    "hard-imagenet-probe": _preset("Moayeri et al. 2022", hard_imagenet_probe),
    "pip-net-convnext": _preset("Nauta et al. 2023", pip_net_convnext),
    "ours-birds": _preset("ours", ours_birds),
    "ours-imagenet-subsets": _preset("ours", ours_imagenet_subsets),
    "ours-frozen": _preset("ours", ours_frozen),
}
"""The recipes by the names that the command takes."""
