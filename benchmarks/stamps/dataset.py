"""Stamps: photographed birds and mammals pasted on photographs of water or sky and of land or plants.

A small Waterbirds with exact object masks, made of Debian packages: run ``fetch.py`` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from sources import DOWNLOADS, PLACES, Cutout, Photograph, Sources, check_files, path_of, read_sources
from torch import Tensor
from torch.utils.data import Dataset

from aimwrap.data.builder.draw import (
    MASK_THRESHOLD,
    Placement,
    crop_square,
    crop_to_object,
    jitter_colour,
    paste,
    place_object,
)
from aimwrap.data.builder.plan import evenly, generator_of, part_names
from aimwrap.data.sample import images_per_group

TRAIN_SHARE = 0.6  # of the animals and of the photographs; the rest are only ever tested on
NUM_IMAGES = {"train": 1200, "test": 400}
LONGEST_SIDE = 1600  # of a decoded photograph: no crop needs more
OBJECT_SIZE = (0.5, 0.8)  # smallest and largest longer side of a cut-out, as shares of the image's
CROP = (0.15, 1.0)  # smallest and largest crop, of the photograph's shorter side
TEST_STREAM, TRAIN_STREAM, SOURCES_STREAM = 0, 1, 2  # of random numbers


class StampSample(NamedTuple):
    """One image with what is known about it.

    Attributes:
        image: (3, H, W) float32 in [0, 1], RGB, not normalised.
        label: 0 bird, 1 mammal.
        place: 0 water or sky, 1 land or plants.
        object_mask: (1, H, W) float32, 1 where the animal's alpha is at least one half, else 0.
        cutout: the animal's image: its row in ``cutouts.csv``, from 0.
    """

    image: Tensor
    label: int
    place: int
    object_mask: Tensor
    cutout: int


class Stamps(Dataset[StampSample]):
    """Cut-outs of birds and mammals on photographs of water or sky and of land or plants.

    In training the place is *tied* to the label: a share ``tie`` of each label's images shows birds on water or sky and
    mammals on land or plants, the rest the other place. In the test it is untied: all four pairs are equally
    frequent, and each cut-out is on both places equally often. ``group`` is ``2 * label + place``: groups 0 and 3
    are the usual pairs, 1 and 2 contradict the tie.

    The seed draws which 60 % of the animals and of the photographs are trained on; the test has only the others, so it
    shows no animal and no background pixel of the training. It also draws every image: a square crop of the photograph,
    of its complete shorter side down to 15 % of it, perhaps mirrored, turned to any hue and moved to a random
    brightness and colourfulness; on it the cut-out, its longer side 0.5 to 0.8 of the image's, anywhere, perhaps
    mirrored, in its own colours.

    An image depends on the arguments and its index alone, never on the global random state.

    Args:
        split: ``"train"`` or ``"test"``.
        tie: share of each label's training images on that label's own place, 0.5 (untied) to 1; the test ignores it.
        seed: draws what is trained and tested on, and how each image is made.
        image_size: side of the square images, in pixels.
        num_images: how many; a multiple of 2 in training and of 4 in the test. By default 1,200 and 400.
        object_size: smallest and largest longer side of the cut-out, as shares of the image's side.
        placement: where the cut-out is: ``"anywhere"`` inside the image, in its ``"centre"``, or at an ``"edge"``,
            with a quarter to a half of it outside; the object mask then is of the part inside.
        folder: where ``fetch.py`` put the images.
        sources: other lists than the two in this folder.

    Attributes:
        labels: (len,) int64, in the order of the images; also ``places``, ``groups``, ``cutouts`` (rows of
            ``cutouts.csv``) and ``photographs`` (rows of ``photographs.csv``).
        label_names, place_names: what the numbers are.

    Raises:
        ValueError: for an argument outside the ranges above, or an image that differs from the lists.
        FileNotFoundError: for images that were not fetched.
    """

    label_names = ("bird", "mammal")
    place_names = PLACES

    def __init__(
        self,
        split: Literal["train", "test"],
        tie: float = 0.95,
        seed: int = 0,
        image_size: int = 160,
        *,
        num_images: int | None = None,
        object_size: tuple[float, float] = OBJECT_SIZE,
        placement: Placement = "anywhere",
        folder: Path | str = DOWNLOADS,
        sources: Sources | None = None,
    ) -> None:
        num_images = _check_arguments(split, tie, image_size, num_images, object_size, placement)
        self.split = split
        self.tie = tie
        self.seed = seed
        self.image_size = image_size
        self.object_size = object_size
        self.placement = placement
        sources = self._sources = read_sources() if sources is None else sources
        check_files(sources, Path(folder))
        members = split_sources(sources, split, seed)
        order = _compose(members, split, tie, num_images, generator_of(seed, _stream(split)))
        self.labels, self.places, self.cutouts, self.photographs = (torch.from_numpy(column) for column in order.T)
        self.groups = 2 * self.labels + self.places
        self._cutouts = {index: _load_cutout(sources.cutouts[index], Path(folder)) for index in np.unique(order[:, 2])}
        self._photographs = {
            index: _load_photograph(sources.photographs[index], Path(folder)) for index in np.unique(order[:, 3])
        }

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> StampSample:
        """Make image ``index``: the same pixels every time."""
        background, rng = self._draw_background(index)
        cutout = int(self.cutouts[index])
        colour, alpha = place_object(self._cutouts[cutout], self.image_size, self.object_size, self.placement, rng)
        image = paste(colour, alpha, background)
        return StampSample(
            torch.from_numpy(image.transpose(2, 0, 1).copy()),
            int(self.labels[index]),
            int(self.places[index]),
            torch.from_numpy((alpha >= MASK_THRESHOLD).astype(np.float32).transpose(2, 0, 1).copy()),
            cutout,
        )

    def background(self, index: int) -> Tensor:
        """Image ``index`` without its animal, (3, H, W)."""
        return torch.from_numpy(self._draw_background(index)[0].transpose(2, 0, 1).copy())

    def source_names(self, index: int) -> tuple[str, str]:
        """Which files image ``index`` is made of."""
        cutout = self._sources.cutouts[int(self.cutouts[index])]
        photograph = self._sources.photographs[int(self.photographs[index])]
        return f"{cutout.package}/{cutout.path}", f"{photograph.package}/{photograph.path}"

    def stacked(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All images at once; ``cutouts`` is in the same order.

        Returns:
            images (len, 3, H, W), labels (len,), places (len,) and object masks (len, 1, H, W).
        """
        images = torch.empty(len(self), 3, self.image_size, self.image_size)
        object_masks = torch.empty(len(self), 1, self.image_size, self.image_size)
        for index in range(len(self)):
            sample = self[index]
            images[index], object_masks[index] = sample.image, sample.object_mask
        return images, self.labels, self.places, object_masks

    def _draw_background(self, index: int) -> tuple[np.ndarray, Generator]:
        """The background (H, W, 3) and the image's generator, ready for the cut-out."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}, got {index}.")
        rng = generator_of(self.seed, _stream(self.split), index)
        crop = crop_square(self._photographs[int(self.photographs[index])], self.image_size, CROP, rng)
        return jitter_colour(crop, rng), rng


def _stream(split: str) -> int:
    return TRAIN_STREAM if split == "train" else TEST_STREAM


def split_sources(
    sources: Sources, split: Literal["train", "test"], seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Draw which cut-outs and photographs belong to the split.

    Returns:
        For each label the rows of its cut-outs, and for each place the rows of its photographs.

    Raises:
        ValueError: if a label has fewer than two animals, or a place fewer than two photographs.
    """
    rng = generator_of(seed, SOURCES_STREAM)
    animals = [(cutout.label, cutout.animal) for cutout in sources.cutouts]
    places = [(photograph.place, photograph.path) for photograph in sources.photographs]
    cutouts = tuple(_part(animals, label, split, rng, "animals of label") for label in (0, 1))
    photographs = tuple(_part(places, place, split, rng, "photographs of place") for place in (0, 1))
    return cutouts, photographs


def _part(
    keys: Sequence[tuple[int, str]], kind: int, split: Literal["train", "test"], rng: Generator, what: str
) -> np.ndarray:
    """Rows of ``keys`` of one kind whose name belongs to the split; equal names stay together."""
    names = sorted({name for other, name in keys if other == kind})
    if len(names) < 2:
        raise ValueError(f"sources must list at least 2 {what} {kind}, one to train and one to test on, got {names}.")
    train, test = part_names(names, (TRAIN_SHARE, 1 - TRAIN_SHARE), rng)
    chosen = {(kind, name) for name in (train if split == "train" else test)}
    return np.array([row for row, key in enumerate(keys) if key in chosen])


def _check_arguments(
    split: str,
    tie: float,
    image_size: int,
    num_images: int | None,
    object_size: tuple[float, float],
    placement: str,
) -> int:
    if split not in NUM_IMAGES:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
    if not 0.5 <= tie <= 1:
        raise ValueError(f"tie is a share of the images, 0.5 (untied) to 1 (always), got {tie}.")
    if image_size < 32:
        raise ValueError(f"image_size must be at least 32 pixels to show an animal, got {image_size}.")
    if not 0.1 <= object_size[0] <= object_size[1] <= 1:
        raise ValueError(
            "object_size must be (smallest, largest) with 0.1 <= smallest <= largest <= 1, as shares of the image's "
            f"side, got {object_size}."
        )
    if placement not in get_args(Placement):
        raise ValueError(f"placement must be one of {', '.join(map(repr, get_args(Placement)))}, got {placement!r}.")
    num_images = NUM_IMAGES[split] if num_images is None else num_images
    step = 2 if split == "train" else 4
    if num_images < step or num_images % step:
        raise ValueError(f"num_images must be a positive multiple of {step} for split={split!r}, got {num_images}.")
    return num_images


def _compose(
    members: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    split: str,
    tie: float,
    num_images: int,
    rng: Generator,
) -> np.ndarray:
    """Label, place, cut-out and photograph of every image, (num_images, 4), shuffled.

    Within a group every cut-out comes equally often, and every photograph too, up to one image.
    """
    sizes = images_per_group([num_images // 2] * 2, 0.5 if split == "test" else tie, num_places=2)
    groups = []
    for label, cutouts in enumerate(members[0]):
        shuffled = rng.permutation(cutouts)
        for place, photographs in enumerate(members[1]):
            count = sizes[label][place]
            # the test takes the cut-outs in one order for both places, so that each is on both equally often
            in_group = np.resize(shuffled if split == "test" else rng.permutation(cutouts), count)
            behind = evenly(photographs, count, rng)
            groups.append(np.stack([np.full(count, label), np.full(count, place), in_group, behind], axis=1))
    return rng.permutation(np.concatenate(groups)).astype(np.int64)


def _load_cutout(cutout: Cutout, folder: Path) -> Image.Image:
    """The animal, cropped to where its alpha says it is; colours multiplied by alpha, for clean rims when resized."""
    with Image.open(path_of(cutout, folder)) as file:
        picture = file.convert("RGBA")
    return crop_to_object(picture, cutout.path)


def _load_photograph(photograph: Photograph, folder: Path) -> Image.Image:
    """The part that is used, no larger than needed."""
    with Image.open(path_of(photograph, folder)) as file:
        factor = max(1.0, max(file.size) / LONGEST_SIDE)
        size = round(file.width / factor), round(file.height / factor)
        file.draft("RGB", size)  # lets the JPEG decoder do most of the shrinking
        picture = file.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top, right, bottom = photograph.part
    width, height = size
    return picture.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
