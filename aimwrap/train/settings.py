"""All that a run is: which data, which model, and how it is trained. Two equal settings are two equal runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from ..loss import AreaPer
from ..top_down import Head

Method = Literal["aim", "plain"]
Frozen = Literal["nothing", "norm-statistics", "backbone"]
OptimizerName = Literal["adamw", "adam", "sgd"]
Schedule = Literal["cosine", "constant", "step"]
Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed"]
AugmentationName = Literal["crop-and-flip", "jitter-crop-and-flip", "trivial-augment", "none"]
Selection = Literal["validation worst group", "validation average", "last"]

_CHOICES: dict[str, Any] = {
    "method": Method,
    "head": Head,
    "area_per": AreaPer,
    "frozen": Frozen,
    "optimizer": OptimizerName,
    "schedule": Schedule,
    "precision": Precision,
    "augmentation": AugmentationName,
    "selection": Selection,
}
# Each number's range: at least the first, and at most the second.
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, math.inf),
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "accumulate": (1, math.inf),
    "lr": (0, math.inf),
    "head_lr": (0, math.inf),
    "mask_lr": (0, math.inf),
    "weight_decay": (0, math.inf),
    "momentum": (0, 1),
    "warmup_epochs": (0, math.inf),
    "step_epochs": (1, math.inf),
    "step_factor": (0, 1),
    "anneal_share": (0, 1),
    "mask_weight": (0, math.inf),
    "clip": (0, math.inf),
    "ema": (0, 1),
    "image_size": (1, math.inf),
    "crop": (0.1, 1),
    "hold_out": (0, 0.9),
    "checkpoint_steps": (1, math.inf),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides the weights a run ends with, but for the machine's own rounding.

    The number of processes and of workers is not among them: a run may be resumed on another number.

    Attributes:
        data: name of the data set, see ``aimwrap.data.READERS``.
        root: its folder; of ``table`` the file.
        reader: further arguments of its reader, by name.
        backbone: a timm or torchvision name, ``torchvision/NAME``, or ``package.module:function`` to import.
        pretrained: whether a backbone by name comes with its library's weights.
        method: ``"aim"``, or ``"plain"``: the backbone with its own classifier.
        stages, tau, head, labels_move_area, area_per, mask_weight: of AIM and its loss; tau is one number or one per
            stage.
        anneal_share: share of the epochs in which tau falls from 1.
        frozen: what of the backbone is not trained.
        seed: of everything that is drawn.
        epochs: passes over the training images.
        batch_size: images per optimiser step, of all processes together.
        accumulate: parts that each process takes its images of a step in, one after the other, to need less memory.
            The step is the same, but for what sees only a part: BatchNorm.
        sync_batchnorm: whether BatchNorm's statistics are of all processes' images, on several GPUs.
        optimizer: with ``lr`` for the backbone, ``head_lr`` for what is new and ``mask_lr`` for the mask estimators
            (None for ``head_lr``), ``weight_decay`` and, for SGD, ``momentum``.
        schedule: how the rates fall behind ``warmup_epochs``: along a half cosine to zero, not at all, or by
            ``step_factor`` every ``step_epochs``.
        clip: largest norm of all gradients together; None for any.
        ema: decay per step of the weights' moving average, which is then what is evaluated and saved; None for none.
        precision: of the computation; ``"64-true"`` is for comparing runs, whose masks rounding then does not turn.
        compile: whether to compile the model with ``torch.compile``.
        augmentation: of the training images.
        image_size: side of the square images; None for what the backbone was made for.
        crop: share of the resized image's side that the central crop keeps; None for the backbone's own.
        squash: whether images are squashed to a square before the central crop, instead of keeping proportions.
        selection: which epoch's weights are kept. None takes the best validation average, or the last where there is
            no validation split.
        hold_out: share of the training images that become the validation split of a data set without one.
        checkpoint_steps: optimiser steps between checkpoints; None for each epoch's end alone.

    Raises:
        ValueError: if a value is out of its range, or is none of the choices.

    Example:
        >>> settings = Settings(data="waterbirds", root="data/waterbirds", backbone="resnet50")
        >>> Settings.from_json(settings.to_json()) == settings
        True
    """

    data: str
    root: str
    reader: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "convnext_tiny"
    pretrained: bool = True
    method: Method = "aim"
    stages: tuple[int | str, ...] = (2, 3)
    tau: tuple[float, ...] = (0.25,)
    head: Head = "feature-preserving"
    labels_move_area: bool = False
    area_per: AreaPer = "image"
    mask_weight: float = 6.0
    anneal_share: float = 1 / 3
    frozen: Frozen = "nothing"
    seed: int = 0
    epochs: int = 20
    batch_size: int = 64
    accumulate: int = 1
    sync_batchnorm: bool = False
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-5
    head_lr: float = 1e-3
    mask_lr: float | None = None
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    step_epochs: int = 20
    step_factor: float = 0.1
    clip: float | None = None
    ema: float | None = None
    precision: Precision = "32-true"
    compile: bool = False
    augmentation: AugmentationName = "crop-and-flip"
    image_size: int | None = None
    crop: float | None = None
    squash: bool = False
    selection: Selection | None = None
    hold_out: float = 0.0
    checkpoint_steps: int | None = None

    def __post_init__(self) -> None:
        for name, literal in _CHOICES.items():
            value = getattr(self, name)
            if value not in get_args(literal) and not (name == "selection" and value is None):
                choices = ", ".join(map(repr, get_args(literal)))
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                until = f"to {most:g}" if math.isfinite(most) else "or more"
                raise ValueError(f"{name} must be {least:g} {until}, got {value!r}")
        if self.ema == 1:
            raise ValueError("ema must be less than 1, got 1: the average would stay where it began")
        if self.clip == 0:
            raise ValueError("clip must be more than 0, got 0: no gradient would be left; None clips nothing")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than epochs, which is {self.epochs}, got {self.warmup_epochs:g}; the "
                "rates would never be reached"
            )
        if self.accumulate > 1 and self.method == "aim" and self.area_per == "batch":
            raise ValueError(
                f"area_per='batch' needs the areas of a whole batch at once, and accumulate={self.accumulate} looks at "
                "it in parts; take area_per='image', or accumulate=1"
            )
        if self.sync_batchnorm and self.frozen != "nothing":
            raise ValueError(
                f"sync_batchnorm needs statistics that are trained, and frozen={self.frozen!r} keeps them as they "
                "are; leave sync_batchnorm out"
            )

    @property
    def epochs_to_anneal(self) -> int:
        """In which tau falls from 1."""
        return round(self.anneal_share * self.epochs)

    def to_json(self) -> dict[str, Any]:
        """As plain values, for a file."""
        found = {name.name: getattr(self, name.name) for name in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: if a name is unknown, a value is none of its kind, or one that is needed is missing.
        """
        names = {name.name for name in fields(cls)}
        unknown = sorted(values.keys() - names)
        if unknown:
            raise ValueError(f"the settings {', '.join(unknown)} are unknown to this version of aimwrap")
        try:
            plain: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
            return cls(**plain)
        except TypeError as error:
            raise ValueError(f"the settings are not whole: {error}") from error


def differences(one: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    """The settings that two runs do not share, with both values; the data may lie in another folder meanwhile.

    >>> one = Settings(data="cub", root="data/cub", epochs=20)
    >>> differences(one, Settings(data="cub", root="data/cub", epochs=30))
    {'epochs': (20, 30)}
    """
    # Through JSON, since one of the two has usually been in a file.
    first, second = (json.loads(json.dumps(settings.to_json())) for settings in (one, other))
    return {name: (first[name], second[name]) for name in first if first[name] != second[name] and name != "root"}
