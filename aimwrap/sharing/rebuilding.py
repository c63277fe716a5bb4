"""From a model to a config, and from a config to a model that computes the same."""

from __future__ import annotations

import inspect
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from ..backbones.create import find_builder
from ..preprocessing import Preprocessing
from ..taps import Tap
from .config import Config, TapRecord
from .recipe import Model, decoded_json, without_weights


def config_of(model: Model, size: int, sha256: str) -> Config:
    """Describe a model.

    Args:
        model: the model.
        size: of its weights file, in bytes.
        sha256: of its weights file.

    Returns:
        The config.
    """
    recipe = model._recipe
    backbone = recipe.backbone.named()
    return Config(
        variant=model.variant,
        backbone=None if backbone.name is None else (backbone.name, decoded_json(json.loads(backbone.arguments))),
        backbone_was=backbone.was,
        arguments={
            "stages": list(model.stages),
            "tau": [float(area) for area in model.tau],
            "num_classes": int(model.num_classes),
            "head": model.head,
            "width": int(recipe.width),
            "mask_width": int(recipe.mask_width),
            "mask_norm": recipe.mask_norm,
            "logit_spread": _common(model, "logit_spread"),
            "logit_range": _common(model, "logit_range"),
            "labels_move_area": bool(model.labels_move_area),
            "pooling": model.pooling,
            "temperature": float(model.temperature),
        },
        image_shape=tuple(recipe.image_shape),
        taps=tuple(_record(tap) for tap in model.taps),
        classified=None if model.classified is None else _record(model.classified),
        class_names=checked_class_names(model.class_names, model.num_classes),
        preprocessing=checked_preprocessing(model.preprocessing),
        dtype=" and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})),
        channels_last=tuple(part for part, module in model.named_children() if _is_channels_last(module)),
        bytes=size,
        sha256=sha256,
        versions=_versions(),
    )


def rebuild(cls: type, base: type, config: Config, backbone: nn.Module | None, where: str) -> Model:
    """Build the model that a config describes, with fresh weights.

    Args:
        cls: AIM, or a class of it.
        base: AIM.
        config: checked values.
        backbone: the backbone; if None, it is built by its name, which a registry must know, without weights.
        where: the folder, for messages.

    Returns:
        The model.

    Raises:
        TypeError: if the backbone is not a module, or a subclass cannot be built with AIM's arguments.
        ValueError: if the backbone is missing, cannot be built or wrapped, or has other taps than the saved model.
    """
    if backbone is not None and not isinstance(backbone, nn.Module):
        raise TypeError(
            f"backbone must be a module such as the model was built with, or None, got {type(backbone).__name__}"
        )
    given = config.arguments | {"example_input": torch.zeros(1, *config.image_shape)}
    try:
        inspect.signature(cls).bind(backbone, **given)
    except TypeError as error:
        raise _refused_by(cls, where, error) from error
    source, by_name = _source(config, backbone, where)
    arguments = given | by_name
    try:
        with torch.random.fork_rng(devices=[]):  # loading must not change the user's random numbers
            model = cls(source, **arguments)
    except Exception as error:  # whatever a library raises for a name or argument that another version of it knew
        if cls.__init__ is not base.__init__ and _takes(base, source, arguments):  # type: ignore[misc]  # compared only
            raise _refused_by(cls, where, error) from error
        what = "the backbone that was passed" if by_name == {} else f"{config.backbone_was}, built by its name,"
        raise ValueError(
            f"{where}: {what} cannot be wrapped as the saved model was ({config.backbone_was}): "
            f"{type(error).__name__}: {error}. {_way_out(config)}"
        ) from error
    _check_taps(model, config, where)
    model.variant = config.variant
    model.class_names, model.preprocessing = config.class_names, config.preprocessing
    return model


def checked_class_names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    """The names as a tuple.

    Raises:
        TypeError: if they are not strings.
        ValueError: if there is not one for each class.
    """
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"class_names must be a list of strings, one per class in the logits' order, got {names!r:.80}")
    if len(names) != num_classes:
        raise ValueError(f"class_names must have one name per class: {num_classes} classes, {len(names)} name(s)")
    return tuple(map(str, names))


def check_head(model: Model) -> None:
    """Refuse what no config describes: what was put in the place of the head's own parts.

    Raises:
        TypeError: if a classifier is not a linear layer.
        ValueError: if one has another number of classes than the model.
    """
    for name, part in (("classifier", model.classifier), *model.stage_classifiers.named_children()):
        if type(part) is not nn.Linear:
            raise TypeError(
                f"the model's {name} must be an nn.Linear to be saved, got {type(part).__name__}, which no config can "
                "rebuild; save model.state_dict() and build the model by your own code"
            )
        if part.out_features != model.num_classes:
            raise ValueError(
                f"the model's {name} gives {part.out_features} classes, and model.num_classes is {model.num_classes}; "
                f"build the model again with AIM(backbone, num_classes={part.out_features})"
            )


def _common(model: Model, name: str) -> float | None:
    """A setting of the mask estimators, which may have been changed since they were built."""
    values = {getattr(estimator, name) for estimator in model.mask_estimators.values()}
    if len(values) > 1:
        raise ValueError(f"{name} differs between the mask estimators ({values}), and a config holds one for all")
    (value,) = values
    return None if value is None else float(value)


def checked_preprocessing(preprocessing: Preprocessing | None) -> Preprocessing | None:
    """The preprocessing itself, as plain numbers and tuples.

    Raises:
        TypeError: if it is none, or its fields are not numbers.
    """
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            "preprocessing must be an aimwrap.Preprocessing(image_size, mean, std, ...) or None, "
            f"got {type(preprocessing).__name__}"
        )
    if preprocessing is None:
        return None
    try:
        height, width = map(int, preprocessing.image_size)
        mean, std = (tuple(float(value) for value in values) for values in (preprocessing.mean, preprocessing.std))
        crop, squash = float(preprocessing.crop), bool(preprocessing.squash)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"preprocessing must have image_size (H, W), and one mean and one std per channel, got {preprocessing}"
        ) from error
    return Preprocessing((height, width), mean, std, preprocessing.interpolation, crop, squash)


def _source(config: Config, backbone: nn.Module | None, where: str) -> tuple[nn.Module | str, dict[str, Any]]:
    """What to wrap, and the arguments to build it with if it is a name."""
    if backbone is not None:
        return backbone, {}
    if config.backbone is None:
        raise ValueError(
            f"{where}: this model's backbone was {config.backbone_was}. aimwrap cannot build that by name: pass a new "
            f"backbone of the same kind, whose weights are replaced: from_pretrained({where!r}, backbone=...); on the "
            "command line, --backbone package.module:name"
        )
    name, arguments = config.backbone
    try:
        library, model = find_builder(name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}. {_way_out(config)}") from error
    return f"{library}/{model}", {"backbone_kwargs": without_weights(library, arguments)}


def _refused_by(cls: type, where: str, error: Exception) -> TypeError:
    name = cls.__name__
    return TypeError(
        f"{where}: from_pretrained builds {name} with AIM's arguments, {name}(backbone, stages=..., tau=..., ...), and "
        f"its own __init__ fails with them: {type(error).__name__}: {error}. Give it AIM's arguments, with defaults "
        "for what it adds, or build the model yourself and load the folder's weights: "
        "model.load_state_dict(safetensors.torch.load_file('model.safetensors'))"
    )


def _takes(base: type, source: nn.Module | str, arguments: dict[str, Any]) -> bool:
    """Whether AIM itself can be built with what a class of it could not."""
    try:
        with torch.random.fork_rng(devices=[]):
            base(source, **arguments)
    except Exception:  # as in rebuild
        return False
    return True


def _way_out(config: Config) -> str:
    now = _versions()
    others = [f"{name} {was}, here {now[name]}" for name, was in config.versions.items() if now.get(name, was) != was]
    saved = f"It was saved with {'; '.join(others)}. " if others else ""
    return (
        f"{saved}Build the backbone yourself and pass it: from_pretrained(..., backbone=backbone); on the "
        "command line, --backbone package.module:name"
    )


def _check_taps(model: Model, config: Config, where: str) -> None:
    pairs = [(_record(tap), then) for tap, then in zip(model.taps, config.taps, strict=False)]
    if model.classified is not None and config.classified is not None:
        pairs.append((_record(model.classified), config.classified))
    differing = [(now, then) for now, then in pairs if now != then]
    if len(model.taps) == len(config.taps) and (model.classified is None) == (config.classified is None):
        if not differing:
            return
        (stage, node, channels, stride), then = differing[0]
        difference = (
            f"stage {then[0]!r} was {then[1]} with {then[2]} channels at stride {then[3]}, and is {node} with "
            f"{channels} channels at stride {stride} (stage {stage!r})"
        )
    else:
        difference = f"it has {len(model.taps)} taps, and the saved model had {len(config.taps)}"
    raise ValueError(
        f"{where}: the backbone is not the one that was saved ({config.backbone_was}): {difference}. {_way_out(config)}"
    )


def _record(tap: Tap) -> TapRecord:
    return tap.stage, tap.node, tap.channels, tap.stride


def _is_channels_last(module: nn.Module) -> bool:
    maps = [p for p in module.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return any(p.is_contiguous(memory_format=torch.channels_last) for p in maps)


def _versions() -> dict[str, str]:
    from .. import __version__

    libraries = {name: version(name) for name in ("torch", "torchvision", "timm")}
    return {"aimwrap": __version__, **libraries, "python": platform.python_version()}
