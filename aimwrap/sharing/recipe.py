"""What a model was built with, in plain values: enough to build it again, without keeping the user's objects alive."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from torch import nn

from .._wrappers import unwrap_compiled
from ..backbones.create import create_backbone, find_builder

# What makes a builder fetch or read weights, or place them: the folder's own weights are used instead.
_ABOUT_WEIGHTS = {
    "timm": {"pretrained", "checkpoint_path", "cache_dir", "device", "dtype"},
    "torchvision": {"weights", "weights_backbone", "pretrained", "pretrained_backbone", "progress"},
}
_ADDRESSES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source"}  # in timm's pretrained_cfg
_TAGS = ("tuple", "float")
# Attributes that change no value: records of weights and of the making, switches of use. Classifiers are AIM's own.
_PASSING = {
    *("training", "grad_checkpointing"),
    *("pretrained_cfg", "default_cfg", "preprocessing", "num_classes", "_model_args"),
}
_SET_BY_WEIGHTS = ("transform_input", "aux_logits", "image_size")
_OF_TORCH = set(vars(nn.Module()))
# What differs between networks that compute the same in evaluation, apart from weights, or if they are quantised.
_FREE = "Drop|Identity|StochasticDepth"
_FREE_WORDS = "(, )?(bias|inplace|momentum|scale|zero_point)=[^,]+|0x[0-9a-f]+"


class Likeness(NamedTuple):
    """Marks of a module, taken when it was wrapped, to recognise it later without keeping it."""

    fingerprint: str  # of all its modules' classes, plain values and shapes
    candidates: tuple[tuple[str, str], ...]  # names with the builder's arguments, as JSON, that may build it


class Recipe(NamedTuple):
    """The arguments of :class:`~aimwrap.AIM` that it does not keep as attributes."""

    was: str  # the backbone's name, or its module's class: for messages
    builder: tuple[str, str] | None  # its name, such as "timm/resnet18", and its arguments as JSON; None for a module
    likeness: Likeness | None  # what a backbone that came as a module was like
    image_shape: tuple[int, ...]  # (C, H, W) of the images that the backbone was probed with
    width: int = 0  # of the transforms; 0 for a second look's network, as below
    mask_width: int = 0  # of the mask estimators
    mask_norm: str = ""
    modules: dict[str, str] | None = None  # what :func:`parts_of` says of the backbone

    def named(self) -> tuple[str, str] | None:
        """The name and arguments that build the same backbone, if a library's do."""
        return self.builder if self.likeness is None else recognise(self.likeness)


def builder_of(
    backbone: nn.Module, name: str | None, arguments: Mapping[str, Any] | None, in_channels: int
) -> tuple[str, tuple[str, str] | None, Likeness | None]:
    """The first three values of a recipe; a backbone whose arguments JSON cannot hold cannot be built by name."""
    if name is None:
        module = unwrap_compiled(backbone)
        return f"{type(module).__module__}.{type(module).__qualname__}", None, likeness(module, in_channels)
    library, model = find_builder(name)
    kept = without_weights(library, arguments or {})
    if library == "torchvision":
        kept = implied_by_weights(backbone) | kept
    encoded, left = {}, []
    for key, value in kept.items():
        try:
            encoded[key] = encoded_json(value)
        except TypeError:
            left.append(key)
    if left:
        return f"{library}/{model} built with {', '.join(left)}, which JSON cannot hold", None, None
    return f"{library}/{model}", (f"{library}/{model}", json.dumps(encoded)), None


def without_weights(library: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A builder's arguments, except those that make it fetch, read or place weights."""
    kept = {key: value for key, value in arguments.items() if key not in _ABOUT_WEIGHTS[library]}
    for key in {"pretrained_cfg", "pretrained_cfg_overlay"} & kept.keys():
        if isinstance(kept[key], Mapping):
            kept[key] = {inner: value for inner, value in kept[key].items() if inner not in _ADDRESSES}
    return kept


def encoded_json(value: Any) -> Any:
    """A value as JSON holds it, so that :func:`decoded_json` gives it back unchanged, tuples and infinity included.

    >>> encoded_json({"sizes": (3, 9), "bound": math.inf})
    {'sizes': {'tuple': [3, 9]}, 'bound': {'float': 'inf'}}
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if type(value) is list:
        return [encoded_json(item) for item in value]
    if type(value) is tuple:
        return {"tuple": [encoded_json(item) for item in value]}
    if isinstance(value, Mapping) and all(type(key) is str for key in value) and not _is_tagged(value):
        return {key: encoded_json(item) for key, item in value.items()}
    raise TypeError(f"JSON cannot hold {type(value).__name__}")


def decoded_json(value: Any) -> Any:
    """The inverse of :func:`encoded_json`; a ValueError for what that never writes."""
    if isinstance(value, list):
        return [decoded_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not _is_tagged(value):
        return {key: decoded_json(item) for key, item in value.items()}
    ((tag, content),) = value.items()
    if tag == "tuple" and isinstance(content, list):
        return tuple(decoded_json(item) for item in content)
    if tag == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    raise ValueError(f"{{{tag!r}: {str(content)[:40]}}} is not a value that aimwrap can read")


def _is_tagged(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in _TAGS


def likeness(backbone: nn.Module, in_channels: int) -> Likeness:
    """A module's fingerprint, before anything is done to it, and the builders that may have made it."""
    candidates = tuple(_of_timm(backbone, in_channels) or _of_torchvision(backbone))
    return Likeness(fingerprint(backbone) if candidates else "", candidates)


@functools.lru_cache(maxsize=8)
def recognise(found: Likeness) -> tuple[str, str] | None:
    """Build the candidates, without memory for their weights, until one is the same in every value.

    So a changed backbone is never taken for the one in the library.
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
    """Arguments that torchvision's builders set themselves, where weights are asked for."""
    implied = {key: getattr(backbone, key) for key in _SET_BY_WEIGHTS if hasattr(backbone, key)}
    return implied | ({"init_weights": False} if "transform_input" in implied else {})


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of all that decides what a module computes, except the weights' values.

    It is the same for modules with the same classes, plain attributes, shapes and numbers of hooks in the same places.
    What it cannot look into, such as a function's closure, counts by its name.

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


def parts_of(backbone: nn.Module, tapped: nn.Module) -> dict[str, str]:
    """The class and the settings in numbers of each module that tapped maps may depend on, by its name."""
    parts, used = {}, {name for name, _ in tapped.named_modules(remove_duplicate=False)}
    for name, part in unwrap_compiled(backbone).named_modules():
        library, kind = type(part).__module__.split(".")[0], type(part).__name__
        after = name not in used and (library in ("torch", "timm") or any(True for _ in part.parameters()))
        if not after and not re.search(_FREE, kind):
            numbers = {float, int} if name else {float}  # the network's own whole ones may be of its classes
            named = {} if library == "torch" else {key: vars(part)[key] for key in vars(part).keys() - _PASSING}
            named = {key: value if isinstance(value, list | tuple) else [value] for key, value in named.items()}
            found = [f"{key} {named[key]}"[:80] for key in sorted(named) if set() < {*map(type, named[key])} <= numbers]
            parts[name] = " ".join([kind, re.sub(_FREE_WORDS, "", part.extra_repr()), *found]).strip()
    return parts


def differing_part(was: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first module that :func:`parts_of` tells apart in two networks, in words."""
    names = (name for name in {**was, **now} if was.get(name) != now.get(name))
    said = (f"{f'its module {name!r}' if name else 'it'} was {was.get(name)}, and is {now.get(name)}" for name in names)
    return next(said, None)


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


def _of_timm(backbone: nn.Module, in_channels: int) -> list[tuple[str, str]]:
    record = getattr(backbone, "pretrained_cfg", None) or getattr(backbone, "default_cfg", None)
    name = record.get("architecture") if isinstance(record, Mapping) else getattr(record, "architecture", None)
    classifier = getattr(backbone, "get_classifier", None)
    if not (isinstance(name, str) and timm.is_model(name) and callable(classifier)):
        return []
    arguments = {"num_classes": getattr(classifier(), "out_features", getattr(backbone, "num_classes", 0))}
    if in_channels != 3:
        arguments["in_chans"] = in_channels
    recorded = getattr(backbone, "_model_args", {})  # by newer versions of timm
    candidates = [arguments] if recorded == {} else [arguments, {**recorded, **arguments}]
    plain = (type(None), bool, int, float, str)
    return [
        (f"timm/{name}", json.dumps(given))
        for given in candidates
        if all(isinstance(value, plain) for value in given.values())
    ]


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
