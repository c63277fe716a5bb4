"""How images are prepared for a model: what their values mean, sizes, crop and normalisation."""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

LEAST_WHITE = 1 << 14  # in 16 bits; what has no brighter value is more likely of 10 to 14 bits than so dark
OR_WINDOW = "or say which values are black and white: --window LOW,HIGH, in Python aimwrap.Preprocessing(window=)"


class Preprocessing(NamedTuple):
    """The steps from an image to a model's input, in evaluation.

    Attributes:
        image_size: (H, W) of the images that the model takes.
        mean: per channel, of images in [0, 1].
        std: per channel.
        interpolation: ``"bilinear"``, ``"bicubic"`` or another of torchvision's names.
        crop: share of the resized image's shorter side that the central crop keeps; timm's ``crop_pct``.
        squash: whether images are resized to the given size without keeping their proportions.
        window: of images that are not RGB or grey with 8 bits, the values that become 0 and 1, before the mean is
            subtracted; those outside are cut off there. Images then count in the values of their files, of any type.

    Example:
        >>> import torch
        >>> Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3).transform()(torch.zeros(3, 300, 400)).shape
        torch.Size([3, 224, 224])
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop: float = 0.875
    squash: bool = False
    window: tuple[float, float] | None = None

    def transform(self) -> Callable[[Any], Any]:
        """Build the transform: a PIL image, array (H, W, C) or image tensor (C, H, W) to a normalised float tensor.

        It turns photographs upright, makes them RGB, or grey for a model of one channel, and does what timm's does.
        With a window, arrays and tensors may have any numbers, and any number of channels.
        Do not turn them yourself, except by ``ImageOps.exif_transpose``: after ``rotate`` they would be turned twice.
        :func:`aimwrap.data.eval_transform` does the same to the image of a sample, and transforms its object mask too.

        Returns:
            A transform of ``torchvision.transforms.v2``.
        """
        transform: Callable[[Any], Any] = v2.Compose(
            [partial(_as_shown, prepared=self), *self.resize_and_crop(), *self.normalise()]
        )
        return transform

    def resize_and_crop(self) -> tuple[v2.Transform, v2.Transform]:
        """The first steps of :meth:`transform`, which move pixels.

        Returns:
            Transforms that may be given an image together with its mask and boxes.
        """
        height, width = (math.floor(side / self.crop) for side in self.image_size)
        method = InterpolationMode(self.interpolation)
        if self.squash:
            resize = v2.Resize((height, width), method)
        elif height == width:
            resize = v2.Resize(height, method)  # the shorter side
        else:
            resize = ResizeToCover((height, width), method)
        return resize, v2.CenterCrop(self.image_size)

    def normalise(self) -> tuple[v2.Transform, ...]:
        """The last steps of :meth:`transform`, which change the image's values only.

        Returns:
            Transforms of an image, PIL or tensor, to a float tensor.
        """
        to_unit_range = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True))
        return (*to_unit_range, v2.Normalize(list(self.mean), list(self.std)), v2.ToPureTensor())


def upright(image: Any) -> Any:
    """A PIL image turned as its EXIF data says, which the result lacks; others, or with damaged data, as given."""
    try:
        return ImageOps.exif_transpose(image) if isinstance(image, Image.Image) else image
    except Exception:  # damaged data raise what they like, and do not change the pixels
        return image


def loses_bits(picture: Image.Image) -> bool:
    """Whether Pillow keeps the upper 8 of 16 bits of this image, or has kept them (of PPM, with 65535)."""
    tile: Any = getattr(picture, "tile", "")
    if not tile and len(picture.getbands()) > 1 and hasattr(picture, "filename"):  # it is loaded
        source: Any = picture.filename or getattr(picture, "_fp", None)  # such as a BytesIO, which PNG and TIFF keep
        with suppress(OSError, ValueError, AttributeError), Image.open(source) as again:
            tile = again.tile
    return len(picture.getbands()) > 1 and bool(re.search(r";16|'RGB', 65535\)", str(tile)))


def lost_in(picture: Image.Image, name: object = "image", channels: int = 3) -> str:
    """An error about what of an opened file would be lost or read wrong in silence; empty if nothing is."""
    pages, bands, tags = getattr(picture, "n_frames", 1), len(picture.getbands()), getattr(picture, "tag_v2", {})
    alone = pages == 1 or picture.format == "MPO" or picture.tell()  # with a preview, or a page that was chosen
    bits, white, planes = max(tags.get(258, (1,))), tags.get(262), tags.get(284) == 2 and tags.get(259) == 1
    tiles = getattr(picture, "tile", []) if picture.format == "PPM" else []
    found = {
        "a small picture before the full one, which would not be read": tags.get(254) == 1 and 330 in tags,
        f"{pages} pages or frames, of which only the first would be read": not alone,
        "several images, of which only the first would be read": any(_goes_on(picture, *each) for each in tiles),
        "several slices, of which only the first would be read": pages == 1
        and re.search(r"(?s)^ImageJ=.*\nimages=(?!1\s)", str(tags.get(270))),
        f"{tags.get(277)} bands, of which only {bands} would be read": tags.get(277, 1) > bands,  # of TIFF, as below
        "4 bands, and nothing says whether the last is opacity": bands == 4 > channels
        and tags.get(262) == 2
        and 338 not in tags,
        "signed numbers, and nothing says which value is white": 2 in tags.get(339, ()) and bits < 32,
        "a palette of 8 bits, where TIFF has 16, which Pillow reads as black": 0 < max(tags.get(320, (0,))) < 256,
        "more than 8 bits with 0 for white, which Pillow reads wrong": bits > 8 and white == 0,
        "more than 8 bits in a plane per colour, which Pillow reads wrong": bits > 8 and planes,
    }
    what = next((what for what, is_so in found.items() if is_so), "")
    return what and f"{name} has {what}. Save what you need of it as one picture, RGB or grey, with 8 bits; {OR_WINDOW}"


def _goes_on(picture: Any, decoder: str, _: Any, start: int, white: Any) -> bool:
    """Whether a file of PPM's family, not loaded yet, has another header behind its first image's pixels."""
    bits = {"1": 1, "L": 8, "I": 16}.get(picture.mode, 48 if decoder == "ppm" and white[1] > 255 else 24)
    picture.fp.seek(start + (0 if decoder == "ppm_plain" else -(-picture.width * bits // 8) * picture.height))
    return re.sub(rb"#.*|[\s\d]+", b"", picture.fp.read(1 << 26)).startswith(b"P")


def eight_bit(picture: Image.Image, lowered: bool, name: object = "image") -> Image.Image:
    """A PIL image with 8 bits: of more, 65,535 is white, since no file says which other value it would be.

    Raises:
        ValueError: if its values say that another one is white; ``name`` is the picture's in the message.
    """
    deep = picture.mode == "F" or picture.mode.startswith("I")
    if not (deep or lowered):
        return picture
    kept = picture if deep or picture.mode == "CMYK" else picture.convert("RGB")
    values = np.asarray(kept) if deep else 256 * np.asarray(kept, np.int32)  # Pillow has kept 8
    least, most = (values.min(), values.max()) if deep else (0, values.max() or 255)
    if deep and most == 65535 and (values == most).mean() < 0.1:  # of a mark that was burnt in
        most = values[values < 65535].max(initial=0) or most
    if picture.mode == "F" or least < 0 or most > 65535 or 0 < most < LEAST_WHITE:
        raise ValueError(
            f"{name} has pixels of {'fractions' if picture.mode == 'F' else 'more than 8 bits'}, from {least:g} to "
            f"{most:g}, and nothing says which value is white; only 16 bits with 65535 for white can be read, and no "
            f"brightest value below {LEAST_WHITE} (dark, or of 8 to 14 bits). Save it with 8 bits, 255 for white: with "
            "NumPy, (values * (255 / white)).clip(0, 255).round().astype('uint8'), with the value that is white; "
            f"{OR_WINDOW}"
        )
    return Image.fromarray(((values.astype(np.int32) + 128) // 257).astype(np.uint8)) if deep else picture


def scaled_in(picture: Image.Image, name: object = "image") -> str:
    """An error about an opened file whose values Pillow scales, or reads wrong; empty if it does not."""
    scaled = loses_bits(picture) or (picture.format, picture.mode) == ("PPM", "I")  # or of 2 or 4 bits, as below
    scaled |= bool(re.search(r"'L;[24]'|'ppm.*\('(L|RGB)', (?!255\))", str(getattr(picture, "tile", ""))))
    scaled |= picture.format == "TIFF" and picture.mode in ("I", "F")  # of 32 bits
    return f"{name} has other than 8 bits, of a kind whose values Pillow changes. Save it as TIFF" if scaled else ""


def own_values(picture: Image.Image, channels: int | None) -> np.ndarray:
    """A picture's values as its file has them, (H, W) or (H, W, C): not scaled, and colours grey for one channel."""
    if picture.mode[0] in "FI" or picture.mode == "L" or (picture.mode, channels) in (("LA", 2), ("RGBA", 4)):
        return np.asarray(picture)
    picture = picture.convert("RGBA") if picture.mode == "P" else picture  # else it would warn
    return np.asarray(picture.convert("L" if channels == 1 or picture.mode in ("1", "LA") else "RGB"))


def windowed(values: Any, prepared: Preprocessing, name: object = "image") -> tv_tensors.Image:
    """Values, an array (H, W) or (H, W, C) or tensor (C, H, W), as (C, H, W) from 0 to 1; else a ValueError."""
    given = checked_preprocessing(prepared)
    assert given.window is not None
    (low, high), channels, kind = given.window, len(given.mean), str(values.dtype).removeprefix("torch.")
    values = values * 255 if kind == "bool" else values  # of TIFF with 1 bit; other formats have 255
    if not isinstance(values, torch.Tensor):
        values = values.astype(np.float32 if kind in ("uint8", "uint16", "int16") else np.float64)
        values = torch.from_numpy(values if values.ndim == 3 else values[..., None]).movedim(-1, 0)
    if values.ndim != 3 or len(values) not in (channels, 1 if channels == 3 else channels) or 0 in values.shape:
        raise ValueError(
            f"{name} must have the model's {channels} channels, got {len(values)} of {tuple(values.shape[1:])}; build "
            "the model for as many (--channels), or save those that you need"
        )
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    least, most = values.aminmax()  # NaN if a value is
    shares = "float" in kind and high - low > 255 and 0 <= least < most <= 1
    if shares or (kind == "uint8" and (low < 0 or high > 255)) or ("int" in kind and 0 <= low < high <= 1 < most):
        raise ValueError(
            f"{name} has {'8 bits' if kind == 'uint8' else kind} with values from {least:g} to {most:g}, and the "
            f"window goes from {low:g} to {high:g}; pass the values that the window is for"
        )
    if bool(least.isnan()):
        raise ValueError(f"{name} has pixels without a value (NaN); write a number there, such as {low:g}")
    values = ((values - low) / (high - low)).clamp(0, 1).float()
    return tv_tensors.Image(values.expand(channels, -1, -1))


def _as_shown(image: Any, prepared: Preprocessing) -> Any:
    channels = len(prepared.mean)
    if not isinstance(image, Image.Image | np.ndarray | torch.Tensor):
        came = type(image).__name__
        raise TypeError(f"image must be a PIL image, array or tensor, got {came}; PIL.Image.open(path) opens a file")
    kind, shape = getattr(image, "dtype", None), image.size if isinstance(image, Image.Image) else tuple(image.shape)
    layouts = f"an array (H, W) or (H, W, C), or a tensor (C, H, W) of the model's {channels} channels"
    misfit = ValueError(f"image must be {layouts}, got {shape}{'' if kind is None else f' of {kind}'}")
    if 0 in shape or len(shape) < 2:
        raise misfit
    if prepared.window is not None:
        if not isinstance(image, Image.Image):
            if len(shape) != 3 and not (len(shape) == 2 and isinstance(image, np.ndarray)):
                raise misfit
            return windowed(image, prepared)
        if lost := lost_in(image, channels=channels) or scaled_in(image):
            raise ValueError(f"{lost.partition('. ')[0]}. Pass its values as an array, as tifffile.imread(path) does")
        return windowed(own_values(upright(image), channels), prepared)
    wrong = image.ndim == 3 and kind != np.uint8 if isinstance(image, np.ndarray) else kind not in (None, torch.uint8)
    values = ""
    if isinstance(image, torch.Tensor) and image.is_floating_point():
        low, high = image.aminmax()
        wrong, values = not (-0.2 <= low <= high <= 1.5), f", {low:g} to {high:g}"
    if wrong:
        raise ValueError(
            f"image must be of 8 bits (uint8), or a tensor of floats in [0, 1], got {kind}{values}; divide a "
            "tensor of floats by its white, and do not normalise it, or write "
            "(image / white * 255).round().astype('uint8') of an array"
        )
    if isinstance(image, np.ndarray):
        if len(shape) == 3 and shape[2] not in (1, 3, channels):  # Pillow would take the last one for opacity
            raise ValueError(f"{misfit}; image[..., :{channels}] has the first {channels}")
        try:
            image = Image.fromarray(image.squeeze(-1) if shape[2:] == (1,) else image)
        except TypeError as error:  # of more dimensions or channels, or of a type, that PIL does not know
            raise misfit from error
    if not isinstance(image, Image.Image):
        if len(shape) < 3 or (shape[-3], channels) not in ((channels, channels), (1, 3)):
            raise misfit
        return image
    fits = channels in (1, 3) or image.mode in {2: ("LA",), 4: ("RGBA", "RGBX")}.get(channels, ())
    other = f"image must have the model's {channels} channels, got mode {image.mode}; pass a tensor (C, H, W) of them"
    if lost := lost_in(image, channels=channels) or ("" if fits else other):
        raise ValueError(lost)
    lowered, mode = loses_bits(image), {1: "L", 3: "RGB"}.get(channels, image.mode)
    copied = not hasattr(image, "filename")  # so nothing says of how many bits the file was
    image = eight_bit(upright(image), lowered).convert(mode)
    if copied and mode == "RGB" and 0 < max(most for _, most in image.getextrema()) < 16:  # as white has of 12 bits
        warnings.warn(
            "image is nearly black; if it is a copy of an opened picture with more than 8 bits, pass that one itself, "
            "since Pillow keeps the upper 8 bits of it",
            stacklevel=2,
        )
    return image if channels in (1, 3) else v2.functional.pil_to_tensor(image)  # Pillow would resize by opacity


def renormalised(images: torch.Tensor, given: Preprocessing, expected: Preprocessing) -> torch.Tensor:
    """Images (N, C, H, W) that were normalised for one model, normalised for another one."""
    if (given.mean, given.std) == (expected.mean, expected.std):
        return images
    mean, std, own_mean, own_std = (
        torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
        for values in (given.mean, given.std, expected.mean, expected.std)
    )
    return (images * std + mean - own_mean) / own_std


class ResizeToCover(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """Resize so that the image just covers a size that is not square; keep the proportions.

    Equal to timm's ``ResizeKeepRatio`` to the pixel, as a transform of v2, so masks and boxes are resized too.

    Args:
        size: (H, W) to cover.
        interpolation: torchvision's.
    """

    def __init__(self, size: tuple[int, int], interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size, self.interpolation = size, interpolation

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The size for this image."""
        sides = v2.query_size(flat_inputs)
        ratio = min(side / wanted for side, wanted in zip(sides, self.size, strict=True))
        return {"size": [round(side / ratio) for side in sides]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image, mask or boxes."""
        return self._call_kernel(v2.functional.resize, inpt, params["size"], interpolation=self.interpolation)


def checked_preprocessing(given: Preprocessing) -> Preprocessing:
    """The same in plain numbers and tuples.

    Raises:
        TypeError: if it is not a Preprocessing, or its fields are not numbers.
        ValueError: if images cannot be prepared so.
    """
    if not isinstance(given, Preprocessing):
        raise TypeError(
            "preprocessing must be an aimwrap.Preprocessing(image_size, mean, std, ...) or None, got "
            f"{type(given).__name__}"
        )
    try:
        height, width = map(operator.index, given.image_size)
        mean, std = (tuple(map(float, values)) for values in (given.mean, given.std))
        crop = float(given.crop)
        window: Any = None if given.window is None else tuple(map(float, given.window))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"preprocessing must have image_size (H, W), whole numbers, and a mean and a std per channel, got {given}"
        ) from error
    names = [method.value for method in InterpolationMode]
    fits = {
        "image_size of positive numbers": min(height, width) > 0,
        "a mean and a std for each channel": len(mean) == len(std) > 0,
        "finite means": all(map(math.isfinite, mean)),
        "a positive std": all(0 < value < math.inf for value in std),
        "a crop in (0, 1]": 0 < crop <= 1,
        f"an interpolation of {', '.join(names)}": given.interpolation in names,
        "squash True or False": isinstance(given.squash, bool),
        "a window of two numbers, the first smaller": window is None
        or (len(window) == 2 and -math.inf < window[0] < window[1] < math.inf),
    }
    for expected, fit in fits.items():
        if not fit:
            raise ValueError(f"preprocessing must have {expected}, got {given}")
    return Preprocessing((height, width), mean, std, given.interpolation, crop, given.squash, window)
