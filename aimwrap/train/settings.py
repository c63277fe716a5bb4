"""Settings of a training run, each with its help text, bounds and default: `aimwrap train` makes its options of them.

Nothing here imports torch, since help and completion need the settings too.
"""

# ruff: noqa: RUF009  # setting() makes a field
from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .._choices import DESIGNS, AreaPer, Design, Head, MaskContext, MaskNorm, MaskPadding, Pooling

Method = Literal["aim", "plain"]
Frozen = Literal["nothing", "norm-statistics", "backbone"]
OptimizerName = Literal["adamw", "adam", "sgd"]
Schedule = Literal["cosine", "constant", "step"]
Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed"]
AugmentationName = Literal["crop-and-flip", "jitter-crop-and-flip", "trivial-augment", "none"]
Selection = Literal[
    "validation worst group", "validation worst class", "validation average", "validation survival", "last"
]
LoggerName = Literal["tensorboard", "csv", "wandb", "mlflow"]

DATA, MODEL, MASKS, SECOND, IMAGES = "Data", "Model", "Masks (not with --plain)", "Second look", "Images"
EXCHANGE = "Exchanged backgrounds"
OPTIMIZER, RESULT, MACHINES = "Optimizer", "Results", "Machines"
PANELS = (DATA, MODEL, MASKS, EXCHANGE, SECOND, IMAGES, OPTIMIZER, RESULT, MACHINES)  # in the order of the help


def parse_stages(text: str) -> tuple[int | str, ...]:
    """Read stages from a command line.

    >>> parse_stages("2,3"), parse_stages("layer3,layer4")
    ((2, 3), ('layer3', 'layer4'))
    """
    return tuple(int(part) if part.strip().isdecimal() else part.strip() for part in text.split(",") if part.strip())


def parse_numbers(name: str, example: str, text: str) -> tuple[float, ...]:
    """Read a setting of one number, or one per stage, from a command line.

    >>> parse_numbers("tau", "0.25 or 0.35,0.25", "0.35,0.25")
    (0.35, 0.25)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be one number or one per stage, such as {example}; got {text!r}") from None


def parse_window(text: str) -> tuple[float, float]:
    """Read a window from a command line; ValueError if it is none."""
    with suppress(ValueError):
        low, high = map(float, text.split(","))
        if -math.inf < low < high < math.inf:
            return low, high
    raise ValueError(f"window must be two numbers, LOW,HIGH, the first smaller, such as 0,4095, got {text!r}")


def one_or_each(values: tuple[float, ...]) -> float | tuple[float, ...]:
    """As AIM and its loss take what may be given per stage: one number alone is for all stages."""
    return values[0] if len(values) == 1 else values


_AIM, _SGD, _STEP, _TWICE = ("method", "aim"), ("optimizer", "sgd"), ("schedule", "step"), ("second_look", True)
_PASTED = ("exchange", True)


def setting(
    default: Any,
    help: str,  # as in typer
    panel: str,
    *,
    shown: str | None = None,
    least: float = 0,
    most: float = math.inf,
    needs: tuple[str, str | bool] | None = None,
    **option: Any,
) -> Any:
    """A field of :class:`Settings`, and its option.

    Args:
        default: of the field.
        help: a noun phrase, which the option's help begins with.
        panel: of the help that the option is in.
        shown: the default in words, where the value does not explain itself.
        least: smallest value of a number.
        most: largest value of a number.
        needs: another setting and the value that it must have for this one to have an effect; those of masks need AIM.
        **option: ``flag`` with ``sets`` for a switch: its name and the value that it sets; ``parse`` for what reads a
            text; ``words`` for the words of the command line where they differ from the values.
    """
    if panel == MASKS and needs is None:
        needs = _AIM
    return field(
        default=default,
        metadata=dict(help=help, panel=panel, shown=shown, least=least, most=most, needs=needs, **option),
    )


def _by_design(help: str, name: str) -> Any:
    """A setting that the design decides unless it is given."""
    values = [_plain(design[name]) for design in DESIGNS.values()]
    ours, papers = (("yes" if value else "no") if isinstance(value, bool) else value for value in values)
    return setting(None, help, MASKS, shown=f"{ours}; {papers} with --design paper")


def _plain(value: Any) -> Any:
    """A value of a design as a setting: no spread and no limit are 0, since None leaves it to the design."""
    return 0 if value is None or value == math.inf else value


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides the weights a run ends with, except for rounding, which depends on the machine.

    Each field is described where it is defined; ``aimwrap train --help`` prints the same text with type and default.

    What a design decides (``head``, ``pooling``, ``logit_range`` and so on) is filled in from ``design`` where it is
    None; 0 stands for a free ``logit_spread`` and for no ``logit_range``. So the paper's method is
    ``Settings(design="paper", ...)``.

    Args:
        data: name of the data set, one that ``aimwrap train --help`` lists.
        root: its folder; for ``table`` the CSV file.
        reader: further arguments of its reader, by name.
        seed: of every random number of the run.

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
    backbone: str = setting("convnext_tiny", "Name of a timm or torchvision model, or package.module:name", MODEL)
    pretrained: bool = setting(
        True, "Start from random weights instead of pretrained ones", MODEL, flag="--no-pretrained", sets=False
    )
    method: Method = setting(
        "aim", "Train the backbone with its own classifier, without AIM", MODEL, flag="--plain", sets="plain"
    )
    stages: tuple[int | str, ...] = setting(
        (2, 3),
        "Stages that get masks, from shallow to deep, separated by commas",
        MASKS,
        shown="2,3",
        parse=parse_stages,
    )
    tau: tuple[float, ...] = setting(
        (0.25,),
        "Target share of the image that masks keep: one number, or one per stage",
        MASKS,
        shown="0.25",
        parse=partial(parse_numbers, "tau", "0.25 or 0.35,0.25"),
    )
    design: Design = setting(
        "ours", "Design of the masks, this library's or the paper's; options such as --head change a part of it", MASKS
    )
    head: Head | None = _by_design("Way from maps and masks to the logits", "head")
    labels_move_area: bool | None = _by_design(
        "Let the classification loss also change the area of the masks", "labels_move_area"
    )
    pooling: Pooling | None = _by_design("Positions that classifiers average over: open ones or all", "pooling")
    mask_norm: MaskNorm | None = _by_design("Norm inside the mask estimators", "mask_norm")
    mask_padding: MaskPadding | None = _by_design("Padding of the maps that masks are estimated from", "mask_padding")
    mask_context: MaskContext | None = _by_design("Global average that the mask estimators also read", "mask_context")
    logit_spread: float | None = _by_design(
        "Standard deviation of the mask logits of an image; 0 leaves it free", "logit_spread"
    )
    logit_range: float | None = _by_design("Largest absolute value of the mask logits; 0 for no limit", "logit_range")
    mask_width: int = setting(32, "Hidden channels of the mask estimators", MASKS, least=1)
    width: int = setting(256, "Channels of the paper head's maps", MASKS, least=1, needs=("head", "paper"))
    temperature: float = setting(1.0, "Temperature of the Gumbel-softmax", MASKS, least=0.01)
    area_per: AreaPer = setting("image", "Compute the area loss per image, or per batch over all processes", MASKS)
    mask_weight: float = setting(6.0, "Weight of the area loss (lambda in the paper)", MASKS)
    stage_weight: tuple[float, ...] = setting(
        (1.0,),
        "Weight of the loss of the stages' classifiers: one number, or one per stage from shallow to deep",
        MASKS,
        shown="1",
        parse=partial(parse_numbers, "stage_weight", "1 or 0,1"),
    )
    final_weight: float = setting(1.0, "Weight of the loss of the final classifier", MASKS)
    anneal_share: float = setting(
        1 / 3, "Share of the epochs in which tau falls from 1 to its target", MASKS, shown="a third", most=1
    )
    exchange: bool = setting(
        False,
        "After it, train its classifier again on images with exchanged backgrounds; it is tested and saved too",
        EXCHANGE,
    )
    exchange_copies: int = setting(
        2, "Number of copies of each training image, each with another background", EXCHANGE, least=1, needs=_PASTED
    )
    exchange_epochs: int = setting(20, "Number of epochs of this classifier", EXCHANGE, least=1, needs=_PASTED)
    exchange_lr: float = setting(3e-4, "Learning rate of this classifier, with AdamW", EXCHANGE, needs=_PASTED)
    second_look: bool = setting(
        False, "After it, train a second look at the pixels that the masks keep; it is tested and saved too", SECOND
    )
    second_backbone: str | None = setting(
        None, "Another network for the second look, named as --backbone", SECOND, shown="the first's", needs=_TWICE
    )
    second_epochs: int = setting(20, "Number of epochs of the second look", SECOND, least=1, needs=_TWICE)
    second_copies: int = setting(
        2, "Number of copies of each training image whose margin shows another image", SECOND, least=0, needs=_TWICE
    )
    second_lr: float = setting(3e-4, "Learning rate of the second look, with AdamW", SECOND, needs=_TWICE)
    margin: int = setting(
        1, "Mask positions by which the kept region grows on every side", SECOND, most=1000, needs=_TWICE
    )
    least: float = setting(
        0.3, "Smallest side of the enlarged box, as a share of the image's", SECOND, least=0.01, most=1, needs=_TWICE
    )
    frozen: Frozen = setting("nothing", "Part of the backbone that is not trained", MODEL)
    cache_features: bool = setting(False, "Keep the frozen backbone's maps of all images in memory", MODEL)
    seed: int = setting(0, "Seed of every random number of the run", MODEL)
    epochs: int = setting(20, "Number of passes over the training images", OPTIMIZER, least=1)
    batch_size: int = setting(64, "Images per optimizer step, summed over all processes", OPTIMIZER, least=1)
    accumulate: int = setting(
        1, "Split each step into this number of parts; more parts need less memory", OPTIMIZER, least=1
    )
    sync_batchnorm: bool = setting(False, "Compute BatchNorm statistics over the images of all GPUs", OPTIMIZER)
    optimizer: OptimizerName = setting("adamw", "Optimizer", OPTIMIZER)
    lr: float = setting(1e-5, "Learning rate of the backbone", OPTIMIZER)
    head_lr: float = setting(1e-3, "Learning rate of all new layers", OPTIMIZER)
    mask_lr: float | None = setting(
        None, "Learning rate of the mask estimators", OPTIMIZER, shown="that of --head-lr", needs=_AIM
    )
    weight_decay: float = setting(0.05, "Weight decay; norms, biases and mask estimators have none", OPTIMIZER)
    momentum: float = setting(0.9, "SGD momentum", OPTIMIZER, most=1, needs=_SGD)
    schedule: Schedule = setting("cosine", "Schedule of the learning rates after the warm-up", OPTIMIZER)
    warmup_epochs: float = setting(0.0, "Length of the linear warm-up, in epochs", OPTIMIZER)
    step_epochs: int = setting(20, "Epochs between two steps of the rates", OPTIMIZER, least=1, needs=_STEP)
    step_factor: float = setting(
        0.1,
        "Factor that multiplies the learning rates at each step of the step schedule",
        OPTIMIZER,
        most=1,
        needs=_STEP,
    )
    clip: float | None = setting(
        None, "Largest norm of the gradient; a larger one is scaled down", OPTIMIZER, shown="no limit"
    )
    ema: float | None = setting(
        None,
        "Decay per step of a moving average of the weights, such as 0.999; the average is evaluated and saved",
        OPTIMIZER,
        shown="no average",
        most=1,
    )
    precision: Precision = setting(
        "32-true", "Precision of the computation; 64-true makes runs on different machines comparable", MACHINES
    )
    compile: bool = setting(False, "Compile the model with torch.compile", MACHINES)
    augmentation: AugmentationName = setting("crop-and-flip", "Augmentation of the training images", IMAGES)
    window: tuple[float, float] | None = setting(
        None, "Values LOW,HIGH of the files that become black and white", IMAGES, shown="8 bits", parse=parse_window
    )
    channels: int | None = setting(
        None, "Number of channels of the images; timm's backbones take any", IMAGES, shown="3", least=1
    )
    image_size: int | None = setting(
        None, "Side of the square images, in pixels", IMAGES, shown="that of the backbone", least=1
    )
    crop: float | None = setting(
        None,
        "Share of the resized image's side that the central crop keeps",
        IMAGES,
        shown="that of the backbone",
        least=0.1,
        most=1,
    )
    squash: bool = setting(
        False, "Resize images to squares before the central crop, which changes their proportions", IMAGES
    )
    selection: Selection | None = setting(
        None,
        "Epoch whose weights are kept: the best on the validation split, by worst group, worst class, average or the "
        "share of predictions that survive without the pixels outside the masks, or the last",
        RESULT,
        shown="average with a validation split, else last",
        words={rule.removeprefix("validation ").replace(" ", "-"): rule for rule in get_args(Selection)},
    )
    hold_out: float = setting(
        0.0,
        "Share of the training images to hold out for validation, if the set has no validation split",
        DATA,
        most=0.9,
    )
    checkpoint_steps: int | None = setting(
        None, "Number of optimizer steps between two checkpoints", RESULT, shown="one checkpoint per epoch", least=1
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kind, limits = getattr(self, each.name), kind_of(each.name), each.metadata
            if not limits or (value is None and each.default is None):
                continue
            expected = _NUMBERS.get(kind)
            if expected is not None and type(value) not in expected:
                raise ValueError(f"{each.name} must be of type {kind.__name__}, got {value!r}")
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ValueError(f"{each.name} must be one of {', '.join(map(repr, get_args(kind)))}, got {value!r}")
            if kind in (int, float) and (not limits["least"] <= value <= limits["most"] or math.isinf(value)):
                until = "or more, and finite" if math.isinf(value) else "or more"
                until = f"to {limits['most']:g}" if math.isfinite(limits["most"]) else until
                raise ValueError(f"{each.name} must be {limits['least']:g} {until}, got {value!r}")
        for name, value in DESIGNS[self.design].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, _plain(value))
        weights = self.stage_weight
        fit = isinstance(weights, tuple) and len(weights) in (1, len(self.stages))
        if not fit or not all(type(each) in (int, float) and 0 <= each < math.inf for each in weights):
            raise ValueError(
                f"stage_weight must be one number or {len(self.stages)}, one per stage, each 0 or more, got {weights!r}"
            )
        if self.ema == 1:
            raise ValueError("ema must be less than 1, got 1: the average would never change")
        if self.clip == 0:
            raise ValueError("clip must be more than 0, got 0: all gradients would be 0; leave it out for no limit")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than epochs={self.epochs}, got {self.warmup_epochs:g}; the "
                "run would end before its learning rates are reached"
            )
        if self.accumulate > 1 and self.method == "aim" and self.area_per == "batch":
            raise ValueError(
                f"area_per='batch' needs the areas of a complete batch at once, and accumulate={self.accumulate} "
                "computes it in parts; use area_per='image' or accumulate=1"
            )
        if self.window is not None:
            parse_window(",".join(map(str, self.window)))
        if self.augmentation not in ("crop-and-flip", "none") and (self.window or self.channels not in (None, 1, 3)):
            raise ValueError(f"augmentation={self.augmentation!r} is for 8 bits without a window; use 'crop-and-flip'")
        if self.cache_features and (self.method, self.frozen, self.augmentation) != ("aim", "backbone", "none"):
            raise ValueError(
                "cache_features needs AIM with frozen='backbone' and augmentation='none', as maps must not change, and "
                f"this run has {self.method!r}, {self.frozen!r}, {self.augmentation!r}; change that, or leave it out"
            )
        if self.exchange and self.method == "plain":
            raise ValueError(
                "exchange needs AIM, whose masks say what is pasted, and this run has a plain backbone; leave one of "
                "the two out"
            )
        if self.selection == "validation survival" and self.method == "plain":
            raise ValueError(
                "selection by survival needs AIM, whose masks say what stays, and this run has a plain backbone; "
                "select by average or worst class"
            )
        if self.second_look and (self.method == "plain" or self.head != "feature-preserving"):
            got = "a plain backbone" if self.method == "plain" else f"head={self.head!r}"
            raise ValueError(
                "second_look needs AIM with head='feature-preserving', whose backbone keeps its final map for it, and "
                f"this run has {got}; change that, or leave second_look out"
            )
        if self.sync_batchnorm and self.frozen != "nothing":
            raise ValueError(
                f"sync_batchnorm needs BatchNorm statistics that are updated, and frozen={self.frozen!r} keeps them "
                "fixed; leave one of them out"
            )

    @property
    def epochs_to_anneal(self) -> int:
        """The number of epochs in which tau falls from 1."""
        return round(self.anneal_share * self.epochs)

    @property
    def design_arguments(self) -> dict[str, Any]:
        """The arguments of :class:`~aimwrap.AIM` that a design decides."""
        values = {name: getattr(self, name) for name in DESIGNS[self.design]}
        return values | {"logit_spread": self.logit_spread or None, "logit_range": self.logit_range or math.inf}

    def to_json(self) -> dict[str, Any]:
        """As plain values, for a file."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: if a name is unknown, a value has the wrong type, or a required one is missing.
        """
        names = {name.name for name in fields(cls)}
        unknown = sorted(values.keys() - names)
        if unknown:
            raise ValueError(f"the settings {', '.join(unknown)} are unknown to this version of aimwrap")
        if values.get("second_look"):
            values = {"second_copies": 0, **values}  # older versions made none
        try:
            plain: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
            return cls(**plain)
        except TypeError as error:
            raise ValueError(f"the settings are incomplete: {error}") from error


_TYPES = get_type_hints(Settings)
_NUMBERS: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (float, int)}


def kind_of(name: str) -> Any:
    """The type of a setting, without None."""
    kind = _TYPES[name]
    return get_args(kind)[0] if type(None) in get_args(kind) else kind


def differences(one: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    """The settings that differ between two runs, with both values; ``root`` may differ, as data may have moved.

    >>> one = Settings(data="cub", root="data/cub", epochs=20)
    >>> differences(one, Settings(data="cub", root="data/cub", epochs=30))
    {'epochs': (20, 30)}
    """
    # Through JSON, since one of the two has usually been in a file.
    first, second = (json.loads(json.dumps(settings.to_json())) for settings in (one, other))
    return {name: (first[name], second[name]) for name in first if first[name] != second[name] and name != "root"}
