"""What those who made a backbone say of it: timm, torchvision and transformers, on preprocessing and class names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torchvision
from PIL import Image
from timm.data import resolve_data_config
from torch import Tensor, nn

from ..preprocessing import Preprocessing

_RECORDED = ("input_size", "mean", "std")  # without these, timm would fall back to ImageNet's usual values


def preprocessing_of(backbone: nn.Module, channels: int | None = None) -> Preprocessing | None:
    """Find out how a backbone's images should be prepared.

    Args:
        backbone: a model of timm, which keeps a record, or one of torchvision that
            :func:`~aimwrap.backbones.create_backbone` built with weights.
        channels: of its images, if known: a record for another number says nothing.

    Returns:
        The preprocessing; None where nothing is known: torchvision's modules do not say with which weights they were
        built, and a few models of timm that pad instead of cropping are not covered.

    Example:
        >>> import timm
        >>> preprocessing_of(timm.create_model("resnet10t")).image_size
        (176, 176)
    """
    own = getattr(backbone, "preprocessing", None)
    if isinstance(own, Preprocessing):
        return own if channels in (None, len(own.mean)) else None
    record = getattr(backbone, "pretrained_cfg", None)
    if not isinstance(record, Mapping) or not all(record.get(key) for key in _RECORDED):
        return None
    if channels is not None and len(record["mean"]) != channels:
        return None
    data = resolve_data_config(pretrained_cfg=dict(record))
    if data["crop_mode"] == "border":
        return None
    _, height, width = data["input_size"]
    mean, std = (tuple(map(float, data[key])) for key in ("mean", "std"))
    crop, squash = float(data["crop_pct"]), data["crop_mode"] == "squash"
    return Preprocessing((height, width), mean, std, data["interpolation"], crop, squash)


def preprocessing_of_weights(name: str, weights: Any) -> Preprocessing | None:
    """How images should be prepared for torchvision's weights, as its builder of that name takes them; None without.

    Example:
        >>> preprocessing_of_weights("resnet18", "DEFAULT").image_size
        (224, 224)
    """
    chosen = torchvision.models.get_model_weights(name).verify(weights)
    if chosen is None:
        return None
    preset = chosen.transforms()
    cropped, mean, std = preset.crop_size[0], tuple(preset.mean), tuple(preset.std)
    crop = _crop_share(cropped, preset.resize_size[0])
    return Preprocessing((cropped, cropped), mean, std, preset.interpolation.value, crop, squash=False)


def class_names_of(backbone: nn.Module, num_classes: int) -> tuple[str, ...] | None:
    """The names in a model's ``config.id2label``; None if it has none, or names of other classes."""
    labels = getattr(getattr(backbone, "config", None), "id2label", None)
    named = {str(index): str(name) for index, name in labels.items()} if isinstance(labels, dict) else {}
    numbers = [str(index) for index in range(max(2, num_classes))]
    if set(named) != set(numbers) or all(name == f"LABEL_{index}" for index, name in named.items()):
        return None
    return tuple(named[index] for index in numbers)


def preprocessing_of_processor(processor: Any) -> Preprocessing:
    """Find out how an image processor of transformers prepares images, by trying it.

    Args:
        processor: what ``AutoImageProcessor.from_pretrained`` gives, for images of three channels.

    Returns:
        The preprocessing that does the same, except for rounding.

    Raises:
        ValueError: if none does, as where images are padded or their channels swapped.
    """

    def run(picture: Image.Image) -> Tensor:
        values: Tensor = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        if values.ndim != 3 or len(values) != 3:
            raise refusal
        return values

    def error(tried: Preprocessing) -> float:
        pairs = zip(map(tried.transform(), pictures), wanted, strict=True)
        white = Tensor(tried.std)[:, None, None]
        return max(float(((a - b) * white).abs().mean()) if a.shape == b.shape else 1.0 for a, b in pairs)

    refusal = ValueError(
        f"processor: no aimwrap.Preprocessing does what {type(processor).__name__} does; it may pad images, swap "
        "their channels or keep their proportions. Give the images that it makes to the model, and leave "
        "model.preprocessing None"
    )
    black, white = (run(Image.new("RGB", (400, 300), colour)).double().mean((1, 2)) for colour in ("black", "white"))
    scale = white - black
    mean, std = (tuple(float(f"{value + 0:.6g}") for value in each.tolist()) for each in (-black / scale, 1 / scale))
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    sizes = ((noise, 10), (noise.transpose(1, 0, 2), 8))  # two, as of one nothing may be resized
    pictures = [Image.fromarray(pixels.repeat(times, 0).repeat(times, 1)) for pixels, times in sizes]
    wanted = [run(picture) for picture in pictures]
    height, width = wanted[0].shape[1:]
    side, size = min(height, width), getattr(processor, "size", {})
    resized = {side, side * 256 // 224, int(side / (getattr(processor, "crop_pct", None) or 1))}
    resized |= {edge for edge in (size.get("shortest_edge"), size.get("height")) if edge and edge > side}
    ways = product(
        ("bilinear", "bicubic", "lanczos", "nearest"), map(partial(_crop_share, side), resized), (False, True)
    )
    best = min((Preprocessing((height, width), mean, std, *way) for way in ways), key=error)
    if error(best) > 0.01:  # of white; other rounding is less, another crop or interpolation more
        raise refusal
    return best


def _crop_share(cropped: int, resized: int) -> float:
    """The ``crop`` of a preprocessing that resizes the shorter side to ``resized`` and keeps ``cropped`` of it."""
    crop = cropped / resized  # which may be a rounding error short of the size
    return crop if math.floor(cropped / crop) == resized else math.nextafter(crop, 0)
