"""Cut-outs: cropped to the object, resized, placed, and pasted over a background."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.random import Generator
from PIL import Image

Placement = Literal["anywhere", "centre", "edge"]
CUT_OFF = (0.25, 0.5)  # of a cut-out that stands at the edge: as much of its width or height lies outside the image
MASK_THRESHOLD = 0.5  # of the opacity: where the object begins


def crop_to_object(picture: Image.Image, where: str) -> Image.Image:
    """Crop a cut-out to where its opacity says that the object is.

    Args:
        picture: RGBA.
        where: its name, for the message.

    Returns:
        RGBa: colours multiplied by the opacity, for clean rims when it is resized.

    Raises:
        ValueError: if it is transparent all over.
    """
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha >= 255 * MASK_THRESHOLD)).getbbox()
    if box is None:
        raise ValueError(
            f"cut-outs must have pixels that are not transparent, got none in {where}; remove it, or give it an opacity"
        )
    return picture.crop(box).convert("RGBa")


def place_object(
    cutout: Image.Image,
    image_size: int,
    object_size: tuple[float, float],
    placement: Placement,
    rng: Generator,
    *,
    mirror: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Resize, perhaps mirror and place a cut-out.

    Args:
        cutout: from :func:`crop_to_object`.
        image_size: side of the square image in pixels.
        object_size: smallest and largest longer side of the object, as shares of the image's side.
        placement: ``"anywhere"`` inside the image, in its ``"centre"``, or at an ``"edge"``, with a quarter to a half
            of it outside.
        rng: draws.
        mirror: whether every second one is mirrored.

    Returns:
        Colours multiplied by the opacity (H, W, 3), and the opacity (H, W, 1), float32 in [0, 1], of the whole image.
    """
    longer = rng.uniform(*object_size) * image_size
    scale = longer / max(cutout.size)
    width, height = (max(1, round(side * scale)) for side in cutout.size)
    pixels = np.asarray(cutout.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    if rng.random() < 0.5 and mirror:
        pixels = pixels[:, ::-1]
    left, top = int(rng.integers(image_size - width + 1)), int(rng.integers(image_size - height + 1))
    if placement == "centre":
        left, top = (image_size - width) // 2, (image_size - height) // 2
    elif placement == "edge":
        left, top = _at_an_edge(left, top, width, height, image_size, rng)
    whole = np.zeros((image_size, image_size, 4), np.float32)
    inside = whole[max(top, 0) : top + height, max(left, 0) : left + width]
    inside[:] = pixels[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    return whole[..., :3], whole[..., 3:]


def _at_an_edge(left: int, top: int, width: int, height: int, image_size: int, rng: Generator) -> tuple[int, int]:
    """Move a cut-out over one of the four edges, by a share of its width or height; the other coordinate stays."""
    cut, edge = rng.uniform(*CUT_OFF), int(rng.integers(4))
    if edge < 2:
        return (-round(cut * width) if edge == 0 else image_size - width + round(cut * width)), top
    return left, (-round(cut * height) if edge == 2 else image_size - height + round(cut * height))


def paste(colour: np.ndarray, opacity: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Lay an object over a background.

    Args:
        colour: (H, W, 3), multiplied by the opacity.
        opacity: (H, W, 1).
        background: (H, W, 3), all in [0, 1].

    Returns:
        (H, W, 3) in [0, 1].
    """
    pasted: np.ndarray = np.clip(colour + (1 - opacity) * background, 0, 1)
    return pasted
