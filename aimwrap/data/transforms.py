"""Transforms of complete samples: the object mask and the boxes move with the image.

Geometry comes first and moves image, mask and boxes with one draw for all three, by transforms of
``torchvision.transforms.v2``; colours and normalisation then change the image alone. The mask is filtered as the image
is. So it stays on the object to a fraction of a pixel, and its values stay the share of a pixel that the object covers;
v2 itself would take the nearest value, which is up to half a pixel off, and loses what is thin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from ..preprocessing import Preprocessing
from .sample import Sample


class Augmentation(NamedTuple):
    """What training does to a sample before the image is normalised; transforms of ``torchvision.transforms.v2``.

    Attributes:
        geometry: called with image, mask and boxes; ends in images of one size.
        colour: called with the image alone, after the geometry.
    """

    geometry: Sequence[Callable[..., Any]]
    colour: Sequence[Callable[[Any], Any]] = ()


Recipe = Callable[[Preprocessing], Augmentation]


class SampleTransform:
    """A transform of samples whose mask and boxes stay on the object.

    Args:
        geometry: transforms of v2 that move pixels. They get the image, the mask as an image with one channel, and the
            boxes; so none of them may touch colours.
        pixels: transforms of an image alone, which must not move pixels.
        prepared: tells the data set how files are read: in how many channels, and through which window; None is RGB.

    Example:
        >>> flip = SampleTransform([v2.RandomHorizontalFlip(p=1)], [v2.ToImage(), v2.ToPureTensor()])
        >>> boxes = tv_tensors.BoundingBoxes([[0, 0, 2, 4]], format="XYXY", canvas_size=(4, 6))
        >>> flip(Sample(Image.new("RGB", (6, 4)), 1, None, None, None, boxes, "a.jpg", "1")).boxes.tolist()
        [[4.0, 0.0, 6.0, 4.0]]
    """

    def __init__(
        self,
        geometry: Sequence[Callable[..., Any]],
        pixels: Sequence[Callable[[Any], Any]],
        prepared: Preprocessing | None = None,
    ) -> None:
        self.geometry, self.pixels, self.prepared = tuple(geometry), tuple(pixels), prepared

    def __call__(self, sample: Sample) -> Sample:
        """Transform a sample.

        Args:
            sample: as :class:`~aimwrap.data.ReleaseDataset` reads it, or with your own tensors.

        Returns:
            The sample with its new image, mask (float32, in [0, 1]) and boxes (float32; those that were cropped away
            are gone). What is None stays None, and label, group, place, path and id stay as they are.

        Raises:
            TypeError: if it is given anything other than a sample.
            ValueError: if mask or boxes are of another size than the image, or it was not read through the window.
        """
        if not isinstance(sample, Sample):
            raise TypeError(
                f"this transform takes a complete aimwrap.data.Sample, got {type(sample).__name__}; for an image alone "
                "there is Preprocessing.transform()"
            )
        image, mask, boxes = sample.image, sample.object_mask, sample.boxes
        window, shares = self.prepared and self.prepared.window, isinstance(image, Tensor) and image.is_floating_point()
        if window is not None and not (shares and -0.5 < image.min() <= image.max() < 1.5):
            raise ValueError(
                f"the sample's image was not read through the window {window}; pass this transform itself "
                "to the data set, not a function that calls it, or a tensor of floats: 0 for black, 1 for white"
            )
        if mask is None and boxes is None:
            for step in self.geometry:
                image = step(image)
        else:
            # v2 would not move a plain tensor next to a tv_tensors.Image
            image = tv_tensors.Image(image) if isinstance(image, Tensor) else image
            image, mask, boxes = self._move(image, mask, boxes)
        for step in self.pixels:
            image = step(image)
        return sample._replace(image=image, object_mask=mask, boxes=boxes)

    def _move(self, image: Any, mask: Any, boxes: Any) -> tuple[Any, Any, Any]:
        _check_sizes(image, mask, boxes)
        if mask is not None:
            mask = tv_tensors.Image(mask.float())
        if boxes is not None:
            boxes = _as_boxes(boxes, v2.functional.get_size(image))
        for step in self.geometry:
            image, mask, boxes = step(image, mask, boxes)
            if mask is not None:
                mask = tv_tensors.Image(mask.clamp(0, 1))  # filters overshoot, and 8-bit images are cut off there
            if boxes is not None:
                boxes = _with_area(boxes)  # not only at the end: turning a box without area would give it one
        mask = None if mask is None else tv_tensors.Mask(mask)
        return image, mask, None if boxes is None else _with_area(v2.functional.clamp_bounding_boxes(boxes))

    def __repr__(self) -> str:
        steps = ",\n  ".join(map(str, (*self.geometry, *self.pixels)))
        return f"{type(self).__name__}(\n  {steps}\n)"


def eval_transform(preprocessing: Preprocessing) -> SampleTransform:
    """Prepare samples for a model in evaluation: the pixels of :meth:`Preprocessing.transform`, with mask and boxes.

    Group DRO, DFR, SpuCo and Hard-ImageNet squash images to 256 x 256 whatever their proportions, and crop 224 from the
    middle: ``eval_transform(preprocessing._replace(squash=True, crop=224 / 256))``.

    Args:
        preprocessing: the backbone's, ``model.preprocessing`` or :func:`~aimwrap.preprocessing_of`.

    Returns:
        A transform of samples to image (C, H, W) float32, normalised, object mask (1, H, W) and boxes.

    Example:
        >>> transform = eval_transform(Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
        >>> sample = Sample(Image.new("RGB", (400, 300)), 1, 2, 0, None, None, "a.jpg", "1")
        >>> transform(sample).image.shape
        torch.Size([3, 224, 224])
    """
    return SampleTransform(preprocessing.resize_and_crop(), preprocessing.normalise(), preprocessing)


def crop_and_flip(preprocessing: Preprocessing) -> Augmentation:
    """At least 70 % of the image's area, in proportions from 3:4 to 4:3, flipped in half of the cases.

    As on Waterbirds in group DRO (Sagawa et al. 2020, ``data/cub_dataset.py``, with ``--augment_data``), DFR
    (Kirichenko et al. 2023, ``wb_data.py``) and MaskTune (Asgari et al. 2022). They filter bilinearly; here the model's
    record says how.

    Args:
        preprocessing: gives the size and the interpolation.

    Returns:
        The augmentation.
    """
    return Augmentation(_random_crop_and_flip(preprocessing, (0.7, 1.0)))


def jitter_crop_and_flip(preprocessing: Preprocessing) -> Augmentation:
    """At least 8 % of the image's area, flipped in half of the cases, with another brightness and saturation.

    As on CUB and TravelingBirds in concept bottleneck models (Koh et al. 2020, ``CUB/dataset.py``), which jitter before
    they crop; here the colours come last, which gives the same except for the rounding and costs less. Argument and
    result as for :func:`crop_and_flip`.
    """
    jitter = v2.ColorJitter(brightness=32 / 255, saturation=(0.5, 1.5))
    return Augmentation(_random_crop_and_flip(preprocessing, (0.08, 1.0)), (jitter,))


def trivial_augment(preprocessing: Preprocessing) -> Augmentation:
    """Squashed, one random shape, flip, a close crop, and one random colour; nearly all of the image stays.

    As on CUB in PIP-Net's training of its classifier (Nauta et al. 2023, ``util/data.py``), after TrivialAugment
    (Müller and Hutter 2021): one operation of a list, at a random strength. Here most strengths are continuous and not
    in 31 steps, and shapes are filtered bilinearly and not to the nearest pixel. PIP-Net cuts the birds out of their
    images before, and this does not. Argument and result as for :func:`crop_and_flip`; the colours need 8-bit images.
    """
    (height, width), method = preprocessing.image_size, InterpolationMode(preprocessing.interpolation)
    shape = partial(v2.RandomAffine, interpolation=InterpolationMode.BILINEAR)
    shear = math.degrees(math.atan(0.5))
    shapes = [
        v2.Identity(),
        shape(degrees=0, shear=(-shear, shear, 0, 0)),
        shape(degrees=0, shear=(0, 0, -shear, shear)),
        shape(degrees=0, translate=(16 / (width + 8), 0)),
        shape(degrees=0, translate=(0, 16 / (height + 8))),
        shape(degrees=60),
    ]
    colours = [
        v2.Identity(),
        v2.ColorJitter(brightness=0.5),
        v2.ColorJitter(saturation=0.02),
        v2.ColorJitter(contrast=0.5),
        v2.RandomChoice([v2.RandomAdjustSharpness(step / 10, p=1) for step in range(5, 16)]),
        v2.RandomChoice([v2.RandomPosterize(bits, p=1) for bits in range(2, 9)]),
        v2.RandomAutocontrast(p=1),
        v2.RandomEqualize(p=1),
    ]
    geometry = (
        v2.Resize((height + 8, width + 8), method),
        v2.ToImage(),  # Pillow's shapes end elsewhere at the image's border than torch's, which move the mask
        v2.RandomChoice(shapes),
        v2.RandomHorizontalFlip(),
        v2.RandomResizedCrop((height + 4, width + 4), scale=(0.95, 1.0), interpolation=method),
        v2.RandomCrop((height, width)),
    )
    return Augmentation(geometry, (v2.RandomChoice(colours),))


def no_augmentation(preprocessing: Preprocessing) -> Augmentation:
    """The same crop as in evaluation.

    As on Hard-ImageNet in its authors' linear probes (Moayeri et al. 2022, ``augmentations.py``) and, by default, on
    Waterbirds in group DRO; both squash, see :func:`eval_transform`. Argument and result as for :func:`crop_and_flip`,
    and the preprocessing gives the crop, too.
    """
    return Augmentation(preprocessing.resize_and_crop())


def train_transform(preprocessing: Preprocessing, recipe: Recipe = crop_and_flip) -> SampleTransform:
    """Prepare samples for training: augmented, at the model's size and normalisation.

    Args:
        preprocessing: the backbone's, ``model.preprocessing`` or :func:`~aimwrap.preprocessing_of`.
        recipe: what is augmented: :func:`crop_and_flip`, :func:`jitter_crop_and_flip`, :func:`trivial_augment`,
            :func:`no_augmentation`, or your own function from a preprocessing to an :class:`Augmentation`.

    Returns:
        A transform of samples to image (C, H, W) float32, normalised, object mask (1, H, W) and boxes. It draws from
        torch's global random state, so a ``DataLoader``'s workers draw differently.

    Example:
        >>> transform = train_transform(Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3), jitter_crop_and_flip)
        >>> transform(Sample(Image.new("RGB", (400, 300)), 1, 2, 0, None, None, "a.jpg", "1")).image.shape
        torch.Size([3, 224, 224])
    """
    augmentation = recipe(preprocessing)
    return SampleTransform(augmentation.geometry, (*augmentation.colour, *preprocessing.normalise()), preprocessing)


def image_only(transform: Callable[[Any], Any]) -> Callable[[Sample], Sample]:
    """Make a transform of images one of samples, without mask and boxes: for torchvision's first version or timm's.

    Such a transform cannot say where it moved the pixels, so mask and boxes would no longer be on the object: they are
    set to None.

    Args:
        transform: from a ``PIL.Image`` to an image, such as ``timm.data.create_transform(...)``,
            ``weights.transforms()`` or ``torchvision.transforms.Compose([...])``.

    Returns:
        The transform, for ``ReleaseDataset(transform=)``.

    Example:
        >>> from torchvision import transforms
        >>> to_tensor = image_only(transforms.ToTensor())
        >>> to_tensor(Sample(Image.new("RGB", (4, 3)), 1, 2, 0, None, None, "a.jpg", "1")).image.shape
        torch.Size([3, 3, 4])
    """
    return partial(_transform_image, transform)  # a closure would not reach workers that are spawned


def _transform_image(transform: Callable[[Any], Any], sample: Sample) -> Sample:
    return sample._replace(image=transform(sample.image), object_mask=None, boxes=None)


def transformed(sample: Sample, transform: Callable[[Sample], Sample]) -> Sample:
    """Apply a user's transform to a sample; ValueError if mask or boxes then have another size than the image."""
    try:
        result = transform(sample)
    except (TypeError, AttributeError) as error:
        raise TypeError(
            f"transform failed on the sample of {sample.path} ({type(error).__name__}: {error}). "
            + _WHAT_TRANSFORMS_TAKE
        ) from error
    if not isinstance(result, Sample):
        raise TypeError(
            f"transform must return an aimwrap.data.Sample, got {type(result).__name__}. {_WHAT_TRANSFORMS_TAKE}"
        )
    _check_sizes(result.image, result.object_mask, result.boxes)
    return result


_WHAT_TRANSFORMS_TAKE = (
    "It is given the complete sample, so that the object mask moves with the image: use "
    "aimwrap.data.eval_transform(preprocessing), train_transform(preprocessing) or transforms of "
    "torchvision.transforms.v2. Wrap a transform of only images, such as timm's, in "
    "aimwrap.data.image_only(transform), which drops mask and boxes"
)


def _random_crop_and_flip(
    preprocessing: Preprocessing, scale: tuple[float, float]
) -> tuple[v2.Transform, v2.Transform]:
    method = InterpolationMode(preprocessing.interpolation)
    crop = v2.RandomResizedCrop(preprocessing.image_size, scale=scale, ratio=(3 / 4, 4 / 3), interpolation=method)
    return crop, v2.RandomHorizontalFlip()


def _as_boxes(boxes: Tensor, size: Sequence[int]) -> tv_tensors.BoundingBoxes:
    boxes = boxes.to(torch.float32)
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        return v2.functional.convert_bounding_box_format(boxes, new_format="XYXY")
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(size))


def _with_area(boxes: tv_tensors.BoundingBoxes) -> tv_tensors.BoundingBoxes:
    """The boxes without those that a crop left outside: these end as lines on the image's border."""
    corners = boxes.as_subclass(Tensor)
    kept = (corners[:, 2:] > corners[:, :2]).all(1)
    return boxes if bool(kept.all()) else tv_tensors.wrap(corners[kept], like=boxes)


def _check_sizes(image: Any, mask: Any, boxes: Any) -> None:
    if not isinstance(image, Image.Image | Tensor):
        return
    size = tuple(v2.functional.get_size(image))
    for what, other in (
        ("object_mask", None if mask is None else tuple(mask.shape[-2:])),
        ("boxes", getattr(boxes, "canvas_size", None)),
    ):
        if other is not None and tuple(other) != size:
            raise ValueError(
                f"{what} must be of the image's size, {size} (H, W), got {tuple(other)}: the transform changed the "
                f"image and not {what}, or the sample was like this before. {_WHAT_TRANSFORMS_TAKE}"
            )
