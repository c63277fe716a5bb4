"""How an image is made of a cut-out and a background."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageOps

from ..files import FORMATS, open_image, open_object_mask
from .backgrounds import crop_square, fit_behind, jitter_colour
from .pasting import Placement, crop_to_object, paste, place_object
from .sources import Background, Cutout

LONGEST_SIDE = 1600  # of a photograph that is kept in memory: no crop needs more


class Drawn(NamedTuple):
    """An image and where its object is.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        object_mask: (H, W) uint8, how much of the pixel the object covers, of 255.
    """

    image: np.ndarray
    object_mask: np.ndarray


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
            that its shapes tell the place and its colours do not.
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
        if self.placement not in get_args(Placement):
            among = ", ".join(map(repr, get_args(Placement)))
            raise ValueError(f"placement must be one of {among}, got {self.placement!r}")

    def draw(self, cutout: Cutout, background: Background, rng: Generator) -> Drawn:
        """Make an image, see :func:`draw`."""
        behind = crop_square(_open_background(background.path), self.image_size, self.crop, rng, mirror=self.mirror)
        if self.recolour:
            behind = jitter_colour(behind, rng)
        colour, opacity = place_object(
            _open_object(cutout), self.image_size, self.object_size, self.placement, rng, mirror=self.mirror
        )
        return _eight_bit(colour, opacity, behind)


class InPlace(NamedTuple):
    """The object stays where it is in its own picture, whose size the image gets, and the background is fitted to it.

    So Waterbirds and TravelingBirds were made of CUB: the middle of the photograph, as much of it as has the picture's
    shape, is resized to the picture.
    """

    def check(self) -> None:
        """Nothing can be wrong."""

    def draw(self, cutout: Cutout, background: Background, rng: Generator) -> Drawn:
        """Make an image, see :func:`draw`; nothing is random about it."""
        picture = _open_cutout(cutout)
        crop_to_object(picture, str(cutout.path))  # refuses what is transparent all over
        pixels = np.asarray(picture, np.float32) / 255
        colour, opacity = pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]
        return _eight_bit(colour, opacity, fit_behind(_open_background(background.path), picture.size))


Style = Placed | InPlace


def _eight_bit(colour: np.ndarray, opacity: np.ndarray, behind: np.ndarray) -> Drawn:
    image, mask = paste(colour, opacity, behind), opacity[..., 0]
    return Drawn((image * 255).round().astype(np.uint8), (mask * 255).round().astype(np.uint8))


@functools.lru_cache(maxsize=16)
def _open_background(path: Path) -> Image.Image:
    """Upright, and no larger than needed."""
    photograph = ImageOps.exif_transpose(open_image(path))
    photograph.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC)
    return photograph


@functools.lru_cache(maxsize=16)
def _open_object(cutout: Cutout) -> Image.Image:
    return crop_to_object(_open_cutout(cutout), str(cutout.path))


def forget_pictures() -> None:
    """Let go of the sources that were opened last."""
    _open_background.cache_clear()
    _open_object.cache_clear()


def _open_cutout(cutout: Cutout) -> Image.Image:
    """RGBA."""
    picture = open_image(cutout.path)
    if cutout.opacity_path is None:
        with Image.open(cutout.path, formats=FORMATS) as file:
            if "A" not in file.getbands() and "transparency" not in file.info:
                raise ValueError(
                    f"cut-outs must have an alpha channel or an opacity of their own, and {cutout.path} has neither "
                    f"(its mode is {file.mode}); give the folder of masks as opacity"
                )
            return file.convert("RGBA")
    opacity = open_object_mask(cutout.opacity_path, cutout.any_value)[0].numpy()
    if opacity.shape != (picture.height, picture.width):
        raise ValueError(
            f"{cutout.opacity_path} has {opacity.shape[1]} x {opacity.shape[0]} pixels (W x H), and {cutout.path} "
            f"{picture.width} x {picture.height}: they do not belong together"
        )
    picture.putalpha(Image.fromarray((opacity * 255).round().astype(np.uint8)))
    return picture
