"""The backbone with its own classifier: the network that AIM is compared with, with the same interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .._checks import check_logits
from .._files import checksum, replacing_together
from ..base import fresh_linear, parameter_groups
from ..output import AIMOutput
from ..preprocessing import Preprocessing, checked_preprocessing
from ..sharing import files
from ..sharing.recipe import differing_part, parts_of
from ..taps.probe import logits_in, tensors_in
from .create import building_at_most, create_backbone, is_import_path
from .records import preprocessing_of

CONFIG = "plain.json"
_VERSIONS = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
_CONTENT = {"backbone": str, "num_classes": int, "class_names": ([str],)}
_CONTENT |= {"preprocessing": (files.IMAGES,), "weights": (files.FILE,), "modules": dict}


class PlainClassifier(nn.Module):
    """A backbone that is trained as it is, with a linear classifier for the data set's classes.

    Args:
        backbone: a classifier that ends in a linear layer, which is replaced where it has another number of classes.
        num_classes: K.

    Attributes:
        preprocessing: as the backbone's record says; None without one.
        class_names: one per class; they are saved with the model.

    Raises:
        ValueError: if the backbone does not end in a linear layer for as many classes.

    Example:
        >>> import timm, torch
        >>> model = PlainClassifier(timm.create_model("resnet10t"), num_classes=2)
        >>> model(torch.zeros(1, 3, 64, 64)).logits.shape
        torch.Size([1, 2])
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.preprocessing: Preprocessing | None = preprocessing_of(backbone)
        self.class_names: tuple[str, ...] | None = None
        self.num_classes = num_classes
        self.backbone = backbone
        name, linear = _last_linear(backbone)
        self.classifier_name = name
        if linear.out_features != num_classes:
            backbone.set_submodule(name, fresh_linear(linear.in_features, num_classes).to(linear.weight))
        self.parts = parts_of(backbone, backbone)  # before they are changed, as to synchronised norms
        self._in_evaluation: list[nn.Module] = []

    def forward(self, images: Tensor, noise_seeds: Tensor | None = None) -> AIMOutput:
        """Classify images (N, 3, H, W); an :class:`~aimwrap.AIMOutput` without stages. There is no noise to seed."""
        output = self.backbone(images)
        logits, expected = logits_in(output), (len(images), self.num_classes)
        others = [part for part in tensors_in(output).values() if part is not logits and part.shape == expected]
        if logits is None or logits.shape != expected or (self.training and others):
            came = type(output).__name__ if logits is None or others else tuple(logits.shape)
            raise ValueError(
                f"backbone: {type(self.backbone).__name__} must return logits {expected} to be trained plain, got "
                f"{came}. Auxiliary classifiers are not trained: timm's models come without them"
            )
        if self.training and not torch.compiler.is_compiling():
            check_logits(logits, f"backbone: {type(self.backbone).__name__}")
        return AIMOutput(logits, {}, {})

    def freeze_backbone(self) -> PlainClassifier:
        """Train the classifier alone, a linear probe: the rest stays in evaluation mode."""
        classifier = self.backbone.get_submodule(self.classifier_name)
        self.backbone.requires_grad_(False)
        classifier.requires_grad_(True)
        self._in_evaluation = [self.backbone]
        return self

    def freeze_norm_statistics(self) -> PlainClassifier:
        """Keep BatchNorm's running statistics while its weights go on training."""
        self._in_evaluation = [module for module in self.backbone.modules() if isinstance(module, _NormBase)]
        return self

    def train(self, mode: bool = True) -> PlainClassifier:
        """Set the mode of what is not frozen."""
        super().train(mode)
        for module in self._in_evaluation:
            module.eval()
        return self

    def parameter_groups(self, lr: float, head_lr: float) -> list[dict[str, Any]]:
        """The backbone's and the classifier's parameters, as :meth:`aimwrap.AIM.parameter_groups` sorts AIM's."""
        classifier = f"{self.classifier_name}."
        return parameter_groups(
            self.backbone, lr, head_lr, part_of=lambda name: "head" if name.startswith(classifier) else "backbone"
        )


def save_plain(model: PlainClassifier, folder: Path, backbone: str) -> None:
    """Write ``model.safetensors``, the backbone's weights under their own names, and ``plain.json`` with its name."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_together(folder / files.WEIGHTS, folder / CONFIG) as (weights, config):
        files.write_weights(model.backbone, weights)
        described = {
            "backbone": backbone,
            "num_classes": model.num_classes,
            "class_names": model.class_names,
            "preprocessing": None if model.preprocessing is None else model.preprocessing._asdict(),
            "weights": {"bytes": weights.stat().st_size, "sha256": checksum(weights)},
            "modules": model.parts,
            "versions": _VERSIONS,
        }
        config.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load_plain(folder: str | Path, *, backbone: nn.Module | None = None) -> PlainClassifier:
    """Load what a plain run saved, in evaluation mode. The files are data: they run no code.

    Args:
        folder: a run's ``model`` folder.
        backbone: a network like the saved one, whose weights are overwritten. A network of your own needs it,
            since only names of timm and torchvision are built from a file.

    Returns:
        The model; ``.backbone`` is the network itself.

    Raises:
        FileNotFoundError: if it is not such a folder.
        ValueError: if what it holds is damaged, or its backbone must be passed.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {CONFIG}: it was not saved by a plain run; AIM.from_pretrained loads a run with AIM"
        )
    content = files.parsed(path)
    name = str(content.get("backbone"))
    if backbone is None and is_import_path(name):
        raise ValueError(
            f"{path}: the backbone was {name}, which is not imported because a file says so. Pass it: "
            f"load_plain({str(folder)!r}, backbone=...); on the command line, --backbone {name}"
        )
    try:
        described = files.checked({"weights": None, "modules": {}} | content, _CONTENT)  # as older versions wrote
        weights = files.read_weights(path.with_name(files.WEIGHTS), described["weights"])
        with building_at_most(2**27 + sum(tensor.numel() for tensor in weights.values())):
            channels = len((described["preprocessing"] or {"mean": ()})["mean"]) or 3
            arguments = {} if channels == 3 else {"in_chans": channels}  # of timm
            network = create_backbone(described["backbone"], arguments) if backbone is None else backbone
            model = PlainClassifier(network, described["num_classes"])
        files.load_weights(model.backbone, weights, [], strict=True)
        if described["preprocessing"] is not None:
            model.preprocessing = checked_preprocessing(Preprocessing(**described["preprocessing"]))
        names = described["class_names"]
        if names is not None and len(names) not in (model.num_classes, max(2, model.num_classes)):
            raise ValueError(f"'class_names' has {len(names)} name(s) for {model.num_classes} classes")
        model.class_names = None if names is None else tuple(names)
    except Exception as error:  # a library may raise anything for a name that another version of it knew
        raise ValueError(f"{path}: {error}{files.WAY_OUT}") from error
    what = differing_part(described["modules"], model.parts)
    if backbone is not None and content.get("versions") == _VERSIONS and what is not None:
        raise ValueError(f"{path}: another backbone was passed: {what}; if both compute the same, remove 'modules'")
    return model.eval()


def _last_linear(backbone: nn.Module) -> tuple[str, nn.Linear]:
    linears = [(name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    if not linears or not linears[-1][0]:
        raise ValueError(
            f"backbone: {type(backbone).__name__} does not end in a linear layer, so it cannot be trained plain for "
            "other classes; pass a function that builds it with its own classifier in an nn.Linear"
        )
    return linears[-1]
