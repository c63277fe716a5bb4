"""``config.json`` and ``model.safetensors``: written, read, and checked before anything is built from them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .._checks import check_arguments, check_second_look
from .._files import checksum, read_json
from ..base import AIMBase
from ..preprocessing import Preprocessing, checked_preprocessing
from .recipe import decoded_json

# The version is raised by whatever an older aimwrap would compute wrongly: a second look has 2, and 3 with a size or a
# network of its own; a window has 4; all else is as in 1.
FORMAT: dict[str, Any] = {"format": "aimwrap", "format_version": 1}
TWICE, OWN_LOOK, NEWEST = 2, 3, 4
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WAY_OUT = "; the file was damaged or edited, or another version of aimwrap saved it: fetch it or save the model again"
_AGAIN = "download or copy it again, or save the model again"
_LARGEST_HEADER = 2**26  # bytes: of a checkpoint it holds the history, 50 kB per epoch with a thousand groups
_LARGEST_IMAGE = 2**26  # values: three channels of 4,729 x 4,729 pixels

Config = dict[str, Any]  # the values of config.json, checked; "preprocessing" is a Preprocessing

# What config.json must hold. int is positive, float any number, object anything, [x] a list of x, (x,) is x or null.
IMAGES = {"image_size": [int], "mean": [float], "std": [float], "interpolation": str, "crop": float, "squash": bool}
IMAGES |= {"window": ([float],)}
FILE = {"bytes": int, "sha256": str}
_TAP = {"stage": object, "node": str, "channels": int, "stride": int}
_BACKBONE = {
    "backbone": ({"name": str, "arguments": dict},),  # null where it was passed as a module
    "backbone_was": str,  # in words
}
_CONTENT = {
    "aim": dict,  # AIM's arguments, except the backbone
    "variant": str,  # as the model prints it
    **_BACKBONE,
    "image_shape": [int],  # (C, H, W) that the backbone was probed with
    "taps": [_TAP],  # shallow to deep
    "classified": (_TAP,),
    "class_names": ([str],),
    "preprocessing": (IMAGES,),
    "dtype": str,  # to read: the weights file decides
    "channels_last": [str],  # the parts of the model whose weights have this memory format
    "weights": FILE,
    "modules": dict,  # what parts_of says of the backbone; empty in older ones
    # Its arguments, where the model looks twice, and its own network, where it has one.
    "second_look": ({"margin": object, "least": float, "fill": float, "size": (int,)},),
    "second_backbone": ({**_BACKBONE, "classified": _TAP, "preprocessing": (IMAGES,), "modules": dict},),
    "versions": dict,  # of what the model was saved with
}
_ARGUMENTS = {
    **dict.fromkeys(("num_classes", "width", "mask_width"), int),
    **dict.fromkeys(("head", "mask_norm", "mask_padding", "mask_context", "pooling"), str),
    **{"stages": [object], "tau": [float], "temperature": float, "labels_move_area": bool},
    **{"logit_spread": (float,), "logit_range": float},
}
_SINCE = {"mask_padding": "replicate", "mask_context": "normalised"}  # newer arguments, with what older models have
_EXPECTED: dict[type, str] = {
    **{str: "a string", int: "a positive integer", float: "a number", bool: "true or false"},
    **{dict: "an object", list: "a list"},
}


def read_config(path: Path) -> Config:
    """Read a ``config.json`` and check every value that something will be built from.

    Raises:
        ValueError: if it is not JSON, is not ours, is of another format version, or a value is not what it must be.
    """
    content = parsed(path)
    _check_format(content, path)
    try:
        if isinstance(content.get("second_look"), dict):
            content["second_look"] = {"size": None} | content["second_look"]
        config: Config = checked({"modules": {}, "second_look": None, "second_backbone": None} | content, _CONTENT)
        config["aim"] = _SINCE | checked(decoded_json(config["aim"]), dict, "aim")
        for part in (config, config["second_backbone"] or {"backbone": None, "preprocessing": None}):
            if part["backbone"] is not None:
                arguments = decoded_json(part["backbone"]["arguments"])
                part["backbone"]["arguments"] = checked(arguments, dict, "backbone.arguments")
            if part["preprocessing"] is not None:
                part["preprocessing"] = checked_preprocessing(Preprocessing(**part["preprocessing"]))
        unknown = config["aim"].keys() - _ARGUMENTS.keys()
        if not unknown:
            check_arguments(**checked(config["aim"], _ARGUMENTS, "aim"))
            _check_agreement(config)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: {error}{WAY_OUT}") from error
    if unknown:
        raise ValueError(
            f"{path}: {f'aim.{min(unknown)}'!r} is not an argument that this aimwrap knows; a newer one may have saved "
            "it: pip install --upgrade aimwrap"
        )
    return config


def _check_agreement(config: Config) -> None:
    """Refuse values that do not go together, each of which is right by itself."""
    aim, tapped = config["aim"], [tap["stage"] for tap in config["taps"]]
    names, classified = config["class_names"], config["classified"]
    if tapped != aim["stages"]:
        raise ValueError(f"'taps' must be of the stages in 'aim.stages', {aim['stages']}, got those of {tapped}")
    if (aim["head"] == "paper") != (classified is None):
        raise ValueError(f"'classified' must be null for the 'paper' head only, got {classified} for {aim['head']!r}")
    if names is not None and len(names) not in (aim["num_classes"], max(2, aim["num_classes"])):
        raise ValueError(f"'class_names' has {len(names)} names for {aim['num_classes']} classes")
    if config["second_look"] is not None:
        check_second_look(**config["second_look"])
        if classified is None:
            raise ValueError(f"'second_look' must be null for the {aim['head']!r} head")
    shape = config["image_shape"]
    if len(shape) != 3 or math.prod(shape) > _LARGEST_IMAGE:
        raise ValueError(f"'image_shape' must be 3 positive integers of a product up to 2**26, got {shape}")
    if config["preprocessing"] is not None and len(config["preprocessing"].mean) != shape[0]:
        if len(config["preprocessing"].mean) != 3:
            raise ValueError(f"'preprocessing' must have a mean and a std for each of {shape[0]} channel(s)")
        config["preprocessing"] = None  # older versions kept timm's, which is of RGB, for images of other channels
    if not re.fullmatch("[0-9a-f]{64}", config["weights"]["sha256"]):
        raise ValueError(f"'weights.sha256' must be 64 hexadecimal digits, got {config['weights']['sha256']!r:.80}")


def checked(value: Any, kind: Any, where: str = "") -> Any:
    """The value without what is not asked for, if it is of the kind."""
    if kind is object:
        return value
    if isinstance(kind, tuple):
        return None if value is None else checked(value, kind[0], where)
    outer: Any = kind if isinstance(kind, type) else type(kind)
    fits = type(value) in (int, float) if outer is float else type(value) is outer
    if not fits or (outer is int and value < 1):
        raise ValueError(f"{where!r} must be {_EXPECTED[outer]}, got {value!r:.80}")
    if isinstance(kind, list):
        return [checked(item, kind[0], f"{where}.{index}") for index, item in enumerate(value)]
    if isinstance(kind, dict):
        prefix = where and f"{where}."
        value = {"window": None} | value if kind is IMAGES else value  # which older models lack
        missing = [key for key in kind if key not in value]
        if missing:
            raise ValueError(f"{prefix + missing[0]!r} is missing")
        return {key: checked(value[key], inner, prefix + key) for key, inner in kind.items()}
    return value


def parsed(path: Path) -> dict[str, Any]:
    """The JSON object in a file; a ValueError if it holds none."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = read_json(path, refuse)
    except ValueError as error:  # also of a wrong encoding, and of numbers with thousands of digits
        raise ValueError(f"{path} is not valid JSON ({error}); it is damaged: download or copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} and not a JSON object; aimwrap did not write it")
    return content


def _check_format(content: Mapping[str, Any], path: Path) -> None:
    if content.get("format") != FORMAT["format"]:
        raise ValueError(f"{path} was not written by aimwrap{_what_it_is(content)}")
    version, ours = content.get("format_version"), NEWEST
    if type(version) is not int or version < 1:
        raise ValueError(
            f"{path}: 'format_version' must be an integer from 1 on, got {version!r}. Build the model as it was built, "
            "AIM(backbone, ...), load the weights with model.load_state_dict(safetensors.torch.load_file(...)), and "
            "save it again"
        )
    if version > ours:
        versions = content.get("versions")
        by = f" {versions.get('aimwrap')}" if isinstance(versions, dict) else ""
        raise ValueError(
            f"{path} has format version {version}, and this aimwrap reads up to {ours}: a newer one{by} saved it. "
            "pip install --upgrade aimwrap"
        )


def _what_it_is(content: Mapping[str, Any]) -> str:
    wrap = "load the model there, and wrap it: AIM(backbone, stages=[2, 3])"
    if "pretrained_cfg" in content or isinstance(content.get("architecture"), str):
        return f", but looks like timm's: it describes a backbone. With timm.create_model, {wrap}"
    if "transformers_version" in content or "model_type" in content or "architectures" in content:
        return f", but looks like that of transformers. With from_pretrained, {wrap}"
    return "; AIM.from_pretrained reads what model.save_pretrained wrote"


def write_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state.

    Raises:
        ValueError: if it is not tensors with finite values, or if this process has only a part of it, as under FSDP2.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_meta:
            came = "a tensor without values" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the state of a saved model must be tensors, got {came} for {name!r}")
        if value.isnan().any() or (value.isinf().any() and name in dict(model.named_parameters())):
            raise ValueError(f"a saved model must have finite weights, unlike {name!r}; go back to an older checkpoint")
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if storage in seen else tensor  # safetensors holds no tensor under two names
        seen.add(storage)
    save_file(state, path, metadata={"format": "pt"})


def check_whole(model: nn.Module) -> None:
    """Refuse a model of which this process holds only a part: its parameters are ``DTensor``s, as FSDP2 makes them."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor"):  # a DTensor's; not every build of torch has the class to import
            raise ValueError(
                f"a saved model must hold its weights itself, and {name!r} is spread over processes (a "
                f"{type(parameter).__name__}, as fully_shard makes them); gather them in all processes by "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict(model, options=StateDictOptions("
                "full_state_dict=True, cpu_offload=True)), load them into an AIM that was built in the same way, and "
                "save that"
            )


def read_weights(path: Path, expected: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """Read the weights, onto the CPU, if the file has the size and the checksum that the config gives, if it does.

    Raises:
        ValueError: if the file is not the one described, or not a safetensors file.
    """
    size = path.stat().st_size
    if expected is not None and size < expected["bytes"]:
        raise ValueError(f"{path} is cut off: it has {size} of {expected['bytes']} bytes; {_AGAIN}")
    if expected is not None and (size > expected["bytes"] or checksum(path) != expected["sha256"]):
        raise ValueError(
            f"{path} is not the file that its config.json describes (the SHA-256 differs): it was changed or swapped, "
            f"or saving was interrupted; {_AGAIN}"
        )
    try:
        return read_tensors(path)[0]
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a safetensors file ({error}); {_AGAIN}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its metadata; a ValueError without its name if it is none."""
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        with path.open("rb") as content:
            header = int.from_bytes(content.read(8), "little")
        if header > _LARGEST_HEADER:
            raise ValueError(f"its header has {header} bytes, and none of aimwrap has more than {_LARGEST_HEADER}")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError, LookupError, MemoryError, RuntimeError, TypeError) as error:  # of dtypes, too
        raise ValueError(str(error)) from error


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], channels_last: list[str], strict: bool) -> None:
    """Load weights into a model, with the dtypes and the memory layout that they were saved with.

    Args:
        model: the model. Nothing of it changes unless the weights fit.
        weights: the tensors by name.
        channels_last: those of the model's :func:`parts` that have this memory format.
        strict: whether names must agree; shapes must in any case.

    Raises:
        ValueError: if they do not fit, naming what differs.
    """
    state = model.state_dict(keep_vars=True)
    differing = []
    for name in state.keys() & weights.keys():
        saved, own = weights[name], state[name]
        if saved.shape != own.shape:
            differing.append(f"{name} is {tuple(saved.shape)} in the file and {tuple(own.shape)} in the model")
        if saved.is_floating_point() != own.is_floating_point():
            differing.append(f"{name} is {saved.dtype} in the file and {own.dtype} in the model")
    if strict:
        differing += [f"the file has no {name}" for name in state if name not in weights]
        differing += [f"the model has no {name}" for name in weights if name not in state]
    if differing:
        more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(f"{'; '.join(sorted(differing)[:3])}{more}")
    for part, module in parts(model):
        dtypes = {w.dtype for name, w in weights.items() if name.startswith(f"{part}.") and w.is_floating_point()}
        if len(dtypes) == 1:
            module.to(dtypes.pop())  # with the buffers that are not saved
        if part in channels_last:
            module.to(memory_format=torch.channels_last)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in weights:
            tensor.data = tensor.data.to(weights[name].dtype)  # in place: it may have two names
    model.load_state_dict(weights, strict=strict)


def parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model, by name, that may each have a dtype and a memory format of its own."""
    for name, module in model.named_children():
        if isinstance(module, AIMBase):
            yield from ((f"{name}.{inner}", part) for inner, part in parts(module))
        else:
            yield name, module
