"""One image with what is known about it, and a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..metrics import boxes_to_masks


class Sample(NamedTuple):
    """One image with what is known about it; what is not known is None.

    Attributes:
        image: an RGB ``PIL.Image`` as it is on disk, or what the transform made of it: (C, H, W).
        label: class number.
        group: the pair of label and place as one number, see :func:`group_number`.
        place: number of the background's kind.
        object_mask: the object, (1, H, W) float32 in [0, 1], a ``tv_tensors.Mask`` so that transforms of
            ``torchvision.transforms.v2`` move it with the image. 1 is object, 0 background, and where a release has
            soft masks, what is between is how much of the pixel the object covers.
        boxes: around the objects, (boxes, 4) float32 as left, top, right, bottom in pixels, a
            ``tv_tensors.BoundingBoxes``.
        path: of the image's file.
        id: the release's own name or number of the image.
    """

    image: Any
    label: int
    group: int | None
    place: int | None
    object_mask: Any | None
    boxes: Any | None
    path: str
    id: str


class Batch(NamedTuple):
    """Samples stacked by :func:`collate`.

    Attributes:
        image: (N, C, H, W).
        label: (N,) int64.
        group: (N,) int64, or None if it is not known of every sample; also ``place``.
        place: (N,) int64, or None.
        object_mask: (N, 1, H, W) float32, or None if some sample has none.
        boxes: for each image its boxes, (boxes, 4), or None if some sample has none.
        path: of each image's file.
        id: of each image.
    """

    image: Tensor
    label: Tensor
    group: Tensor | None
    place: Tensor | None
    object_mask: Tensor | None
    boxes: tuple[Tensor, ...] | None
    path: tuple[str, ...]
    id: tuple[str, ...]


def group_number(label: Any, place: Any, num_places: int) -> Any:
    """Number the pairs of label and place: ``label * num_places + place``.

    This is the one numbering of groups in aimwrap. With two labels and two places it is ``2 * label + place``, as in
    group DRO's and wilds' code for Waterbirds: 0 land bird on land, 1 land bird on water, 2 water bird on land, 3
    water bird on water. MaskTune's code counts ``2 * place + label`` and so swaps the two in the middle.

    Args:
        label: number or tensor of numbers.
        place: number of the background's kind.
        num_places: how many places there are.

    Returns:
        The group's number, or a tensor of them.

    >>> [group_number(label, place, num_places=2) for label in (0, 1) for place in (0, 1)]
    [0, 1, 2, 3]
    """
    return label * num_places + place


def with_object(sample: Sample) -> Sample:
    """The sample with its boxes, filled, as the object mask where it has none."""
    if sample.object_mask is not None or sample.boxes is None:
        return sample
    return sample._replace(object_mask=boxes_to_masks([sample.boxes], sample.boxes.canvas_size).float())


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples: the ``collate_fn`` of a ``DataLoader``, whose own does not know None.

    Args:
        samples: with images and masks of one size, so after a transform.

    Returns:
        The batch.

    Raises:
        TypeError: if the images are not tensors.
        ValueError: if the images differ in size, or a mask from its image, or there is no sample.

    >>> image = torch.zeros(3, 4, 4)
    >>> batch = collate([Sample(image, 1, None, None, None, None, "a.jpg", "1")] * 2)
    >>> batch.image.shape, batch.label.tolist(), batch.object_mask
    (torch.Size([2, 3, 4, 4]), [1, 1], None)
    """
    if not samples:
        raise ValueError("samples must have at least one sample, got none")
    images, labels, groups, places, masks, boxes, paths, ids = zip(*samples, strict=True)
    for image, path in zip(images, paths, strict=True):
        if not isinstance(image, Tensor):
            raise TypeError(
                f"images must be tensors to be stacked, got {type(image).__name__}; give the data set a "
                "transform that ends in a tensor, such as transform=aimwrap.data.eval_transform(preprocessing)"
            )
        if image.shape != images[0].shape:
            raise ValueError(
                f"the images of a batch must have one size, got {tuple(images[0].shape)} for {paths[0]} and "
                f"{tuple(image.shape)} for {path}; give the data set a transform that resizes them, "
                "such as transform=aimwrap.data.eval_transform(preprocessing)"
            )
    for mask, path in zip(masks, paths, strict=True):
        if mask is not None and mask.shape[-2:] != images[0].shape[-2:]:
            raise ValueError(
                f"the object_mask of {path} has shape {tuple(mask.shape)}, and the images {tuple(images[0].shape)}; "
                "give the data set a transform of the complete sample, so that the mask moves with the image"
            )
    return Batch(
        _stack(images),
        torch.tensor(labels),
        None if None in groups else torch.tensor(groups),
        None if None in places else torch.tensor(places),
        None if any(mask is None for mask in masks) else _stack(masks),
        None if any(box is None for box in boxes) else tuple(box.as_subclass(Tensor) for box in boxes),
        paths,
        ids,
    )


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    stacked: Tensor = default_collate([tensor.as_subclass(Tensor) for tensor in tensors])  # a worker's in shared memory
    return stacked


def own_place(label: int, num_places: int, shift: int = 0) -> int:
    """The place that a label is tied to: the one with the same number, modulo the number of places.

    >>> [own_place(label, 3) for label in range(4)], [own_place(label, 3, shift=1) for label in range(3)]
    ([0, 1, 2, 0], [1, 2, 0])
    """
    return (label + shift) % num_places


def images_per_group(
    images_per_label: Sequence[int], tie: float, num_places: int, shift: int = 0
) -> tuple[tuple[int, ...], ...]:
    """How many images of each label are on each place.

    ``round(tie * n)`` of a label's n images are on its own place; Python rounds a half to the even neighbour. The
    others are spread over the other places as evenly as can be: where they do not divide, the places that follow the
    own one get one more. So the share is exactly the tie wherever ``tie * n`` is an integer, else within half an image.

    >>> images_per_group([100, 40], 0.95, num_places=2)
    ((95, 5), (2, 38))
    >>> images_per_group([10], 1.0, num_places=3, shift=1)
    ((0, 10, 0),)
    >>> images_per_group([30], 1 / 3, num_places=3)
    ((10, 10, 10),)
    """
    sizes = []
    for label, count in enumerate(images_per_label):
        own = own_place(label, num_places, shift)
        row = [0] * num_places
        row[own] = round(tie * count) if num_places > 1 else count
        for step in range(1, num_places):
            share, more = divmod(count - row[own], num_places - 1)
            row[(own + step) % num_places] = share + (step <= more)
        sizes.append(tuple(row))
    return tuple(sizes)
