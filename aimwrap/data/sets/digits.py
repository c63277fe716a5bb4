"""Handwritten digits pasted on photographs: a small set whose background shows the label, with exact object masks.

Everything comes from the scikit-learn package (extra ``demo``), so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from ..builder.plan import deal, generator_of
from ..sample import group_number, images_per_group

NUM_TRAIN_DIGITS = 1197  # of scikit-learn's 1,797; the other 600 are only ever tested on
STROKE_THRESHOLD = 0.4  # of the enlarged 8x8 digit's full ink: where a stroke begins
MAX_TILT_DEGREES = 12.0
STREAMS = {"train": 1, "test": 0}  # of random numbers


class DigitSample(NamedTuple):
    """One image with what is known about it.

    Attributes:
        image: (3, H, W) float32 in [0, 1], RGB, not normalised.
        label: the class of the digit, 0 or 1.
        place: the photograph in its background, 0 (china) or 1 (flower).
        object_mask: (1, H, W) float32, 1 where the digit and its outline cover the photograph, else 0.
    """

    image: Tensor
    label: int
    place: int
    object_mask: Tensor


class DigitsOnPhotographs(Dataset[DigitSample]):
    """Scikit-learn's handwritten zeros and ones, pasted on crops of its two photographs.

    The label is the digit, 0 or 1. In training the photograph is *tied* to it: a share ``tie`` of each label's images
    is on the label's own photograph (0 on china, 1 on flower), the rest on the other. In the test it is untied:
    each digit appears on either photograph, so all four groups are equally large. A model that looks at the background
    is right in training and wrong on half of the test.

    The digits (handwritten, 8 x 8 pixels) and the photographs are real. The rest is synthetic: the pasting, the digit's
    enlargement, colour, outline, tilt, size and position, and above all the tie.

    Training and test share no digit (the first 1,197 of scikit-learn's are for training, the last 600 for the test,
    whatever the seed) and no pixel of a photograph (training crops come from the left half, test crops from the right).
    ``group`` is ``2 * label + place``: groups 0 and 3 are the usual pairs, 1 and 2 contradict the tie. Where a set is
    larger than there are digits, digits come again, each time drawn and placed differently.

    An image depends on the arguments and its index alone, never on the global random state.

    Args:
        split: ``"train"`` or ``"test"``.
        tie: share of each label's training images on that label's own photograph, 0.5 (untied) to 1; the test
            ignores it.
        seed: draws which digits are used and how each is drawn.
        image_size: side of the square images, in pixels.
        digit_size: smallest and largest side of the pasted digit, as shares of the image's side.
        num_images: how many; a multiple of 2 in training (as many of each label) and of 4 in the test (of each group).
        classes: the digits that make up label 0 and label 1, for other tasks than 0 against 1.

    Attributes:
        labels: (len,) int64, in the order of the images; also ``places`` and ``groups``.
        label_names: what label 0 and label 1 are; also ``place_names``.

    Raises:
        ValueError: for an argument outside the ranges above.
        ImportError: without scikit-learn, naming the extra.

    >>> train = DigitsOnPhotographs("train", tie=0.95, image_size=64, num_images=40)
    >>> image, label, place, object_mask = train[0]
    >>> image.shape, object_mask.shape
    (torch.Size([3, 64, 64]), torch.Size([1, 64, 64]))
    >>> torch.bincount(train.groups).tolist()  # label 0 on china, on flower; label 1 on china, on flower
    [19, 1, 1, 19]
    """

    place_names = ("china", "flower")

    def __init__(
        self,
        split: Literal["train", "test"],
        tie: float = 0.95,
        seed: int = 0,
        image_size: int = 160,
        *,
        digit_size: tuple[float, float] = (0.4, 0.55),
        num_images: int = 320,
        classes: tuple[Sequence[int], Sequence[int]] = ((0,), (1,)),
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        if not 0.5 <= tie <= 1:
            raise ValueError(f"tie is a share of the images, 0.5 (untied) to 1 (always), got {tie}.")
        if image_size < 32:
            raise ValueError(f"image_size must be at least 32 pixels to show a digit, got {image_size}.")
        if not 0.1 <= digit_size[0] <= digit_size[1] <= 0.9:
            raise ValueError(
                "digit_size must be (smallest, largest) with 0.1 <= smallest <= largest <= 0.9, as shares of the "
                f"image's side, got {digit_size}."
            )
        first, second = map(set, classes)
        if not first or not second or first & second or not first | second <= set(range(10)):
            raise ValueError(
                f"classes must be two disjoint, non-empty collections of the digits 0 to 9, got {classes}."
            )
        self.split = split
        self.tie = tie
        self.seed = seed
        self.image_size = image_size
        self.digit_size = digit_size
        self.label_names = tuple(" or ".join(map(str, digits)) for digits in classes)
        self._digits, digit_values, self._photographs = _load_sources(split)
        rng = generator_of(seed, STREAMS[split])
        chosen = _choose_digits(digit_values, classes, split, num_images, rng)
        rows = deal(chosen, images_per_group([num_images // 2] * 2, 0.5 if split == "test" else tie, num_places=2))
        rows = rows[rng.permutation(num_images)]
        self.labels, self.places = torch.from_numpy(rows[:, 0].copy()), torch.from_numpy(rows[:, 1].copy())
        self._digit_of_image: list[int] = rows[:, 2].tolist()
        self.groups = group_number(self.labels, self.places, num_places=2)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> DigitSample:
        """Draw image ``index``: the same pixels every time."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}, got {index}.")
        rng = generator_of(self.seed, STREAMS[self.split], index)
        label, place = int(self.labels[index]), int(self.places[index])
        background = _crop_photograph(self._photographs[place], self.image_size, rng)
        strokes, body = _draw_digit(self._digits[self._digit_of_image[index]], self.image_size, self.digit_size, rng)
        fill, outline = _draw_colours(rng)
        image = torch.lerp(torch.lerp(background, outline, body), fill, strokes)
        return DigitSample(image, label, place, (body >= 0.5).float())

    def source_names(self, index: int) -> tuple[str, str]:
        """Which of scikit-learn's digits and photographs image ``index`` is made of."""
        first = 0 if self.split == "train" else NUM_TRAIN_DIGITS
        return f"digit {first + self._digit_of_image[index]}", f"{self.place_names[int(self.places[index])]}.jpg"

    def stacked(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All images at once, for sets this small."""
        images, _, _, object_masks = zip(*(self[index] for index in range(len(self))), strict=True)
        return torch.stack(images), self.labels, self.places, torch.stack(object_masks)


def _load_sources(split: str) -> tuple[Tensor, np.ndarray, list[Tensor]]:
    """The split's digits (n, 8, 8), their values (n,) and its half of each photograph (3, h, w), in [0, 1]."""
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError as error:
        raise ImportError('DigitsOnPhotographs needs scikit-learn: pip install "aimwrap[demo]".') from error
    digits = load_digits()
    part = slice(0, NUM_TRAIN_DIGITS) if split == "train" else slice(NUM_TRAIN_DIGITS, None)
    halves = []
    for photograph in load_sample_images().images:  # china.jpg, flower.jpg
        middle = photograph.shape[1] // 2
        half = photograph[:, :middle] if split == "train" else photograph[:, middle:]
        halves.append(torch.from_numpy(half.copy()).permute(2, 0, 1).float() / 255)
    return torch.from_numpy(digits.images[part]).float() / 16, digits.target[part], halves


def _choose_digits(
    digit_values: np.ndarray, classes: tuple[Sequence[int], Sequence[int]], split: str, num_images: int, rng: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """For each label the same number of digits, as positions in the split's digits, shuffled.

    The test has half as many digits as images: each is once on either photograph.
    """
    candidates = [rng.permutation(np.flatnonzero(np.isin(digit_values, list(digits)))) for digits in classes]
    images_per_digit = 1 if split == "train" else 2
    step = 2 * images_per_digit
    if num_images < step or num_images % step:
        raise ValueError(f"num_images must be a positive multiple of {step} for split={split!r}, got {num_images}.")
    first, second = (np.resize(members, num_images // step) for members in candidates)  # repeats when they run out
    return first, second


def _crop_photograph(photograph: Tensor, image_size: int, rng: Generator) -> Tensor:
    """A random square, perhaps mirrored, of (3, h, w): (3, image_size, image_size).

    Its side is 15 to 30 % of the photograph's shorter one: close-ups, of which even two photographs hold many.
    """
    height, width = photograph.shape[1:]
    side = int(rng.uniform(0.15, 0.3) * min(height, width))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = photograph[:, top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop.flip(-1)
    resized = F.interpolate(crop[None], size=(image_size, image_size), mode="bilinear", antialias=True)
    return resized[0].clamp(0, 1)


def _draw_digit(
    digit: Tensor, image_size: int, digit_size: tuple[float, float], rng: Generator
) -> tuple[Tensor, Tensor]:
    """Enlarge, tilt and place an 8x8 digit."""
    side = rng.uniform(*digit_size) * image_size
    centre = rng.uniform(side / 2, image_size - side / 2, size=2)  # x, y
    angle = np.radians(rng.uniform(-MAX_TILT_DEGREES, MAX_TILT_DEGREES))
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale = image_size / side  # from the image's coordinates in [-1, 1] to the digit's
    shift = 1 - 2 * centre / image_size
    affine = torch.from_numpy(np.concatenate([scale * rotation, (scale * rotation @ shift)[:, None]], 1)).float()
    grid = F.affine_grid(affine[None], [1, 1, image_size, image_size], align_corners=False)
    # a margin of one empty pixel, so that strokes at the rim end softly; the grid is stretched to match
    ink = F.grid_sample(F.pad(digit, (1, 1, 1, 1))[None, None], grid * 0.8, mode="bicubic", align_corners=False)[0]
    strokes = ((ink - STROKE_THRESHOLD) * 6 + 0.5).clamp(0, 1)
    radius = max(1, round(side / 18))
    body = F.max_pool2d(strokes, 2 * radius + 1, stride=1, padding=radius)
    return strokes, body


def _draw_colours(rng: Generator) -> tuple[Tensor, Tensor]:
    """A fill of any hue, light or dark, and an outline of the opposite lightness, each (3, 1, 1) in [0, 1]."""
    hue = torch.from_numpy(rng.random(3)).float()
    light, dark = 0.6 + 0.4 * hue, 0.3 * hue
    fill, outline = (light, dark) if rng.random() < 0.5 else (dark, light)
    return fill[:, None, None], outline[:, None, None]
