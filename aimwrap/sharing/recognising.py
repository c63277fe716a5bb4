"""Whether a backbone that came as a module is one that timm or torchvision builds by name, value for value."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from torch import nn

from ..backbones.create import create_backbone

# Attributes that change no value: records of weights and of the making, switches of use. Classifiers are AIM's own.
_PASSING = {
    *("training", "grad_checkpointing"),
    *("pretrained_cfg", "default_cfg", "preprocessing", "num_classes", "_model_args"),
}
_SET_BY_WEIGHTS = ("transform_input", "aux_logits", "image_size")
_OF_TORCH = set(vars(nn.Module()))


class Likeness(NamedTuple):
    """What a module was when it was wrapped, so that it can be recognised later without being kept.

    Attributes:
        fingerprint: of all its modules' classes, plain values and shapes.
        candidates: names with the builder's arguments, as JSON, that may build it.
    """

    fingerprint: str
    candidates: tuple[tuple[str, str], ...]


def likeness(backbone: nn.Module, in_channels: int) -> Likeness:
    """Take a module's fingerprint, and note who may have built it.

    Args:
        backbone: the module, before anything is done to it.
        in_channels: of its images.

    Returns:
        The likeness, without candidates where no library has a class of that name.
    """
    candidates = tuple(_of_timm(backbone, in_channels) or _of_torchvision(backbone))
    return Likeness(fingerprint(backbone) if candidates else "", candidates)


@functools.lru_cache(maxsize=8)
def recognise(found: Likeness) -> tuple[str, str] | None:
    """Build the candidates, without memory for their weights, until one is the same.

    Args:
        found: what the module was like.

    Returns:
        Name and arguments as JSON; None if no candidate is the same in every value, so that a changed backbone is
        never taken for the one in the library.
    """
    for name, arguments in found.candidates:
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")
                twin = create_backbone(name, json.loads(arguments))
        except Exception:  # whatever a library raises for arguments that this model of it does not know
            continue
        if fingerprint(twin) == found.fingerprint:
            return name, arguments
    return None


def implied_by_weights(backbone: nn.Module) -> dict[str, Any]:
    """What torchvision's builders set, besides values, where weights are asked for.

    Args:
        backbone: of torchvision.

    Returns:
        Arguments of its builder.
    """
    implied = {key: getattr(backbone, key) for key in _SET_BY_WEIGHTS if hasattr(backbone, key)}
    return implied | ({"init_weights": False} if "transform_input" in implied else {})


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of what decides what a module computes, but for the weights' values.

    Args:
        module: the module.

    Returns:
        The same string for modules with the same classes, plain attributes, shapes and numbers of hooks in the same
        places; what it cannot look into, such as a function's closure, it takes by name.

    Example:
        >>> fingerprint(nn.ReLU()) == fingerprint(nn.ReLU()) != fingerprint(nn.GELU())
        True
    """
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        digest.update(f"{name} {type(part).__module__}.{type(part).__qualname__} {part.extra_repr()}\n".encode())
        for line in _values(part):
            digest.update(f"  {line}\n".encode())
    return digest.hexdigest()


def _values(module: nn.Module) -> Iterator[str]:
    for name, parameter in [*module._parameters.items(), *module._buffers.items()]:
        yield f"{name}: {_described(parameter)}"
    yield f"hooks: {len(module._forward_hooks)}, {len(module._forward_pre_hooks)}"
    for name in sorted(set(vars(module)) - _OF_TORCH - _PASSING):
        yield f"{name}: {_described(vars(module)[name])}"


def _described(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_described, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_described(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, functools.partial):
        return f"{_described(value.func)}({_described(value.args)}, {_described(value.keywords)})"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _of_timm(backbone: nn.Module, in_channels: int) -> Iterator[tuple[str, str]] | None:
    record = getattr(backbone, "pretrained_cfg", None) or getattr(backbone, "default_cfg", None)
    name = record.get("architecture") if isinstance(record, Mapping) else getattr(record, "architecture", None)
    classifier = getattr(backbone, "get_classifier", None)
    if not (isinstance(name, str) and timm.is_model(name) and callable(classifier)):
        return None
    arguments = {"num_classes": getattr(classifier(), "out_features", getattr(backbone, "num_classes", 0))}
    if in_channels != 3:
        arguments["in_chans"] = in_channels
    recorded = getattr(backbone, "_model_args", {})  # by newer versions of timm
    candidates = [arguments] if recorded == {} else [arguments, {**recorded, **arguments}]
    return iter([(f"timm/{name}", json.dumps(given)) for given in candidates if _is_json(given)])


def _is_json(arguments: Mapping[str, Any]) -> bool:
    return all(value is None or isinstance(value, bool | int | float | str) for value in arguments.values())


def _of_torchvision(backbone: nn.Module) -> Iterator[tuple[str, str]]:
    """Every model of the class's own file; torchvision's modules do not know their names."""
    layers = [part for part in backbone.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    if not layers or not type(backbone).__module__.startswith("torchvision.models."):
        return
    last = layers[-1]
    classes = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    arguments = json.dumps({"num_classes": classes} | implied_by_weights(backbone))
    for name in torchvision.models.list_models(module=torchvision.models):
        if torchvision.models.get_model_builder(name).__module__ == type(backbone).__module__:
            yield f"torchvision/{name}", arguments
