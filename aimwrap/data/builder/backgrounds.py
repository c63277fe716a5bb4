"""Backgrounds: a square crop of a photograph, or all of it behind a picture, and its colours drawn afresh."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageOps

# The mean of a background is moved to a brightness and a colourfulness drawn from these, whatever the photograph.
BRIGHTNESS = (0.3, 0.7)
COLOURFULNESS = (0.04, 0.16)
MAX_SATURATION_GAIN, MAX_POWER = 3.0, 2.5  # no more, or grey and dark photographs show little but their compression


def crop_square(
    photograph: Image.Image, image_size: int, crop: tuple[float, float], rng: Generator, *, mirror: bool = True
) -> np.ndarray:
    """A random square of a photograph, perhaps mirrored. Every scale is equally likely.

    No crop is smaller than half the image, or it would be a blur that tells the photograph by its size.

    Args:
        photograph: RGB.
        image_size: side of the image in pixels.
        crop: smallest and largest side of the square, as shares of the photograph's shorter side.
        rng: draws.
        mirror: whether every second one is mirrored.

    Returns:
        (image_size, image_size, 3) float32 in [0, 1].
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


def fit_behind(photograph: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """As much of the middle of a photograph as has the shape of a picture, resized to it, as Waterbirds was made.

    Args:
        photograph: RGB.
        size: width and height of the picture.

    Returns:
        (height, width, 3) float32 in [0, 1].
    """
    return np.asarray(ImageOps.fit(photograph, size, Image.Resampling.LANCZOS), np.float32) / 255


def jitter_colour(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Turn the hue by any angle and move mean brightness and colourfulness to drawn values.

    Jitter around a photograph's own brightness and saturation would leave most skies lighter than most woods; values
    drawn afresh do not. Brightness moves by a power, which keeps black and white, and beyond its limit by an offset.

    Args:
        image: (H, W, 3) float32 in [0, 1].
        rng: draws.

    Returns:
        Likewise.
    """
    brightness, colourfulness, angle = rng.uniform(*BRIGHTNESS), rng.uniform(*COLOURFULNESS), rng.uniform(0, 2 * np.pi)
    luma = image @ _TO_YIQ[0]
    chroma = image @ _TO_YIQ[1:].T
    gain = min(colourfulness / max(float(np.sqrt((chroma**2).sum(-1).mean())), 1e-3), MAX_SATURATION_GAIN)
    turn = gain * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    luma = luma.clip(0, 1) ** _power_to_mean(luma.clip(0, 1), brightness)
    luma += brightness - luma.mean()
    jittered: np.ndarray = (np.concatenate([luma[..., None], chroma @ turn], axis=-1) @ _FROM_YIQ.T).clip(0, 1)
    return jittered


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
