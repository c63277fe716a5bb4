"""Backgrounds: a square crop of a photograph, or all of it as a background, and random colours."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageOps

from ..._checks import check_choices
from ..._choices import Placement as Placement
from ..io import decoded, fitted, open_image, open_object_mask
from .sources import Background, Cutout

# The mean of a background is moved to a brightness and a colourfulness drawn from these, whatever the photograph.
BRIGHTNESS = (0.3, 0.7)
COLOURFULNESS = (0.04, 0.16)
MAX_SATURATION_GAIN, MAX_POWER = 3.0, 2.5  # no more, or grey and dark photographs show little but their compression


def crop_square(
    photograph: Image.Image, image_size: int, crop: tuple[float, float], rng: Generator, *, mirror: bool = True
) -> np.ndarray:
    """A random square of a photograph, perhaps mirrored. Every scale is equally likely.

    No crop is smaller than half the image, or it would be a blur that reveals the photograph by its size. ``crop`` is
    its smallest and largest side, as shares of the photograph's shorter side; the result is float32 in [0, 1].
    """
    shorter = min(photograph.size)
    largest = crop[1] * shorter
    smallest = min(max(crop[0] * shorter, image_size / 2), largest)
    side = min(np.exp(rng.uniform(np.log(smallest), np.log(largest))), shorter)  # which rounding may exceed
    left, top = rng.uniform(0, photograph.width - side), rng.uniform(0, photograph.height - side)
    box = (left, top, min(left + side, photograph.width), min(top + side, photograph.height))
    resized = np.asarray(photograph.resize((image_size, image_size), Image.Resampling.BICUBIC, box), np.float32) / 255
    mirrored = rng.random() < 0.5 and mirror
    return resized[:, ::-1] if mirrored else resized


def jitter_colour(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Turn the hue by any angle and move mean brightness and colourfulness to drawn values.

    Jitter around a photograph's own brightness and saturation would leave most skies lighter than most woods; values
    drawn afresh do not. Brightness moves by a power, which keeps black and white, and beyond its limit by an offset.
    """
    brightness, colourfulness, angle = rng.uniform(*BRIGHTNESS), rng.uniform(*COLOURFULNESS), rng.uniform(0, 2 * np.pi)
    luma = image @ _TO_YIQ[0]
    chroma = image @ _TO_YIQ[1:].T
    gain = min(colourfulness / max(float(np.sqrt((chroma**2).sum(-1).mean())), 1e-3), MAX_SATURATION_GAIN)
    turn = gain * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    luma = luma.clip(0, 1) ** _power_to_mean(luma.clip(0, 1), brightness)
    luma += brightness - luma.mean()
    return (np.concatenate([luma[..., None], chroma @ turn], axis=-1) @ _FROM_YIQ.T).clip(0, 1)


# NTSC's luma and two colour differences: hue is an angle, saturation a length, brightness apart from both.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
_FROM_YIQ = np.linalg.inv(_TO_YIQ.astype(np.float64)).astype(np.float32)


def _power_to_mean(luma: np.ndarray, mean: float) -> float:
    """The power that gives values in [0, 1] this mean, by bisection."""
    sample = luma[::4, ::4]
    low, high = -np.log(MAX_POWER), np.log(MAX_POWER)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if (sample ** np.exp(middle)).mean() > mean else (low, middle)
    return float(np.exp((low + high) / 2))


CUT_OFF = (0.25, 0.5)  # of a cut-out at the edge: this share of its width or height is outside the image
MASK_THRESHOLD = 0.5  # of the opacity: where the object begins


def crop_to_object(picture: Image.Image, where: str) -> Image.Image:
    """Crop a cut-out, RGBA, to its object; RGBa, colours multiplied by the opacity, is resized with clean rims."""
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
    """Resize, perhaps mirror and place a cut-out from :func:`crop_to_object`; the arguments are those of ``Placed``.

    Returns:
        Colours multiplied by the opacity (H, W, 3), and the opacity (H, W, 1), float32 in [0, 1].
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
    canvas = np.zeros((image_size, image_size, 4), np.float32)
    inside = canvas[max(top, 0) : top + height, max(left, 0) : left + width]
    inside[:] = pixels[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    return canvas[..., :3], canvas[..., 3:]


def _at_an_edge(left: int, top: int, width: int, height: int, image_size: int, rng: Generator) -> tuple[int, int]:
    """Move a cut-out over one of the four edges, by a share of its width or height; the other coordinate stays."""
    cut, edge = rng.uniform(*CUT_OFF), int(rng.integers(4))
    if edge < 2:
        return (-round(cut * width) if edge == 0 else image_size - width + round(cut * width)), top
    return left, (-round(cut * height) if edge == 2 else image_size - height + round(cut * height))


def paste(colour: np.ndarray, opacity: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Lay an object, its colours multiplied by its opacity, over a background."""
    pasted: np.ndarray = np.clip(colour + (1 - opacity) * background, 0, 1)
    return pasted


LONGEST_SIDE = 1600  # of a photograph that is kept in memory: no crop needs more


class Drawn(NamedTuple):
    """An image and where its object is."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    object_mask: np.ndarray  # (H, W) uint8, how much of the pixel the object covers, of 255


class Placed(NamedTuple):
    """The object, cropped to itself, anywhere on a random square crop of the background.

    Attributes:
        image_size: side of the square images in pixels.
        object_size: smallest and largest longer side of the object, as shares of the image's side.
        placement: ``"anywhere"`` inside the image, in its ``"centre"``, or at an ``"edge"``, with a quarter to a half
            of it outside.
        mirror: whether every second object and every second background is mirrored.
        crop: smallest and largest side of the background's crop, as shares of the photograph's shorter side. No crop
            is smaller than half the image while the photograph has more.
        recolour: whether the background is turned to any hue and moved to a random brightness and colourfulness, so
            that its shapes show the place and its colours do not.
    """

    image_size: int = 224
    object_size: tuple[float, float] = (0.5, 0.8)
    placement: Placement = "anywhere"
    mirror: bool = True
    crop: tuple[float, float] = (0.5, 1.0)
    recolour: bool = False

    def check(self) -> None:
        """Raise ValueError for an attribute out of range."""
        if self.image_size < 16:
            raise ValueError(f"image_size must be at least 16 pixels, to show an object, got {self.image_size}")
        for name, (smallest, largest) in (("object_size", self.object_size), ("crop", self.crop)):
            if not 0.05 <= smallest <= largest <= 1:
                raise ValueError(
                    f"{name} must be (smallest, largest) with 0.05 <= smallest <= largest <= 1, got "
                    f"({smallest}, {largest})"
                )
        check_choices(placement=(self.placement, Placement))

    def draw(self, cutout: Cutout, background: Background, rng: Generator) -> Drawn:
        """Make an image."""
        backdrop = crop_square(_open_background(background.path), self.image_size, self.crop, rng, mirror=self.mirror)
        if self.recolour:
            backdrop = jitter_colour(backdrop, rng)
        colour, opacity = place_object(
            _open_object(cutout), self.image_size, self.object_size, self.placement, rng, mirror=self.mirror
        )
        return _eight_bit(colour, opacity, backdrop)


class InPlace(NamedTuple):
    """The object stays where it is in its own image, whose size the new image gets; the background is fitted to it.

    Waterbirds and TravelingBirds were made of CUB in this way: the middle of the photograph, as much of it as has the
    image's shape, is resized to the image.
    """

    def check(self) -> None:
        """Nothing can be wrong."""

    def draw(self, cutout: Cutout, background: Background, rng: Generator) -> Drawn:
        """Make an image; nothing in it is random."""
        picture = _open_cutout(cutout)
        crop_to_object(picture, str(cutout.path))  # refuses what is transparent all over
        pixels = np.asarray(picture, np.float32) / 255
        colour, opacity = pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]
        photograph = ImageOps.fit(_open_background(background.path), picture.size, Image.Resampling.LANCZOS)
        return _eight_bit(colour, opacity, np.asarray(photograph, np.float32) / 255)


Style = Placed | InPlace


def _eight_bit(colour: np.ndarray, opacity: np.ndarray, backdrop: np.ndarray) -> Drawn:
    image, mask = paste(colour, opacity, backdrop), opacity[..., 0]
    return Drawn((image * 255).round().astype(np.uint8), (mask * 255).round().astype(np.uint8))


@functools.lru_cache(maxsize=16)
def _open_background(path: Path) -> Image.Image:
    """Upright, and no larger than needed."""
    photograph = open_image(path)
    photograph.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC)
    return photograph


@functools.lru_cache(maxsize=16)
def _open_object(cutout: Cutout) -> Image.Image:
    return crop_to_object(_open_cutout(cutout), str(cutout.path))


def forget_pictures() -> None:
    """Empty the caches of opened sources."""
    _open_background.cache_clear()
    _open_object.cache_clear()


def _open_cutout(cutout: Cutout) -> Image.Image:
    if cutout.opacity_path is None:
        picture: Image.Image = decoded(cutout.path)
        has_alpha = "A" in picture.getbands() or "transparency" in picture.info
        if not has_alpha or picture.convert("RGBA").getchannel("A").getextrema()[0] == 255:
            raise ValueError(
                f"cut-outs must have an alpha channel or a mask, and {cutout.path} has no transparent "
                f"pixel (mode {picture.mode}); pass the folder of masks as opacity"
            )
        return picture.convert("RGBA")
    picture = open_image(cutout.path, not cutout.as_stored)
    opacity = open_object_mask(cutout.opacity_path, cutout.any_value)[0].numpy()
    picture = fitted(picture, cutout.path, not cutout.as_stored, opacity.shape)
    if opacity.shape != (picture.height, picture.width):
        raise ValueError(
            f"{cutout.opacity_path} has {opacity.shape[1]} x {opacity.shape[0]} pixels (W x H), and {cutout.path} "
            f"{picture.width} x {picture.height}: they do not belong together. Replace one of them"
        )
    picture.putalpha(Image.fromarray((opacity * 255).round().astype(np.uint8)))
    return picture
