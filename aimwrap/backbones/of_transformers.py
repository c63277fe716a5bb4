"""What the models and image processors of Hugging Face's transformers say: class names and preprocessing."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from ..preprocessing import Preprocessing, crop_share


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
        ("bilinear", "bicubic", "lanczos", "nearest"), map(partial(crop_share, side), resized), (False, True)
    )
    best = min((Preprocessing((height, width), mean, std, *way) for way in ways), key=error)
    if error(best) > 0.01:  # of white; other rounding is less, another crop or interpolation more
        raise refusal
    return best
