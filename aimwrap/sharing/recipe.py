"""What a model was built with, in plain values: enough to build it again, and nothing of the user's is kept alive."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from ..backbones.create import find_builder
from .recognising import Likeness, implied_by_weights, likeness, recognise

# What makes a builder fetch or read weights, or place them; the folder's own weights come in their stead.
_ABOUT_WEIGHTS = {
    "timm": {"pretrained", "checkpoint_path", "cache_dir", "device", "dtype"},
    "torchvision": {"weights", "weights_backbone", "pretrained", "pretrained_backbone", "progress"},
}
_ADDRESSES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source"}  # in timm's pretrained_cfg
_TAGS = ("tuple", "float")


class BackboneRecord(NamedTuple):
    """Where a backbone came from.

    Attributes:
        name: library and model, such as ``"timm/resnet18"``; None where it cannot be built by name.
        arguments: of the builder, as JSON.
        was: the same in words, or the module's class: for messages.
        likeness: what a backbone that came as a module was like, so that :meth:`named` may find its name.
    """

    name: str | None
    arguments: str
    was: str
    likeness: Likeness | None = None

    def named(self) -> BackboneRecord:
        """The record with the name and arguments that build the same module, if a library's do."""
        found = None if self.likeness is None else recognise(self.likeness)
        return self if found is None else BackboneRecord(*found, found[0])


class Recipe(NamedTuple):
    """Those arguments of :class:`~aimwrap.AIM` that it does not keep as attributes; they mean what they mean there.

    Attributes:
        backbone: where the backbone came from.
        image_shape: (C, H, W) of the images that it was probed with.
        width: of the transforms.
        mask_width: of the mask estimators.
        mask_norm: of the mask estimators.
    """

    backbone: BackboneRecord
    image_shape: tuple[int, ...]
    width: int
    mask_width: int
    mask_norm: str


def backbone_record(
    backbone: nn.Module, name: str | None, arguments: Mapping[str, Any] | None, in_channels: int
) -> BackboneRecord:
    """Describe a backbone.

    Args:
        backbone: the module, as it came.
        name: the name it was built by, if any.
        arguments: what its builder was given.
        in_channels: of its images.

    Returns:
        The record. A backbone whose arguments JSON cannot hold is one that cannot be built by name.
    """
    if name is None:
        module = getattr(backbone, "_orig_mod", backbone)  # what torch.compile wraps
        was = f"{type(module).__module__}.{type(module).__qualname__}"
        return BackboneRecord(None, "{}", was, likeness(module, in_channels))
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
        return BackboneRecord(None, "{}", f"{library}/{model} built with {', '.join(left)}, which JSON cannot hold")
    return BackboneRecord(f"{library}/{model}", json.dumps(encoded), f"{library}/{model}")


def without_weights(library: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A builder's arguments but for those that make it fetch, read or place weights."""
    kept = {key: value for key, value in arguments.items() if key not in _ABOUT_WEIGHTS[library]}
    for key in {"pretrained_cfg", "pretrained_cfg_overlay"} & kept.keys():
        if isinstance(kept[key], Mapping):
            kept[key] = {inner: value for inner, value in kept[key].items() if inner not in _ADDRESSES}
    return kept


def encoded_json(value: Any) -> Any:
    """A value as JSON holds it, such that :func:`decoded_json` gives it back unchanged, tuples and infinity included.

    Raises:
        TypeError: if JSON cannot hold it.

    Example:
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
    """The inverse of :func:`encoded_json`.

    Raises:
        ValueError: if it cannot be undone.
    """
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
    raise ValueError(f"{{{tag!r}: {str(content)[:40]}}} stands for nothing")


def _is_tagged(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in _TAGS
