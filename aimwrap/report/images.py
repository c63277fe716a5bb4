"""The images: each read once from disk and prepared for every model, with a thumbnail for the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ..data import Sample, SampleTransform
from ..data.release import ReleaseDataset, groups_of, read_sample
from ..metrics import boxes_to_masks
from ..preprocessing import Preprocessing

# Longer side in pixels, by how many images there are: a page of 500 then has 3 MB, and one of 5,000 some 13.
_SIDES = ((120, 224), (1200, 160))
_MANY = 80
_QUALITY = 80


def thumbnail_side(images: int) -> int:
    """The longer side of thumbnails, in pixels, on a page with this number of images.

    >>> thumbnail_side(100), thumbnail_side(500), thumbnail_side(5000)
    (224, 160, 80)
    """
    return next((side for most, side in _SIDES if images <= most), _MANY)


def thumbnail(image: Any, side: int) -> bytes:
    """A PIL image or 8-bit tensor (3, H, W), cropped but not normalised, as a JPEG file; never enlarged."""
    small: Image.Image = image if isinstance(image, Image.Image) else v2.functional.to_pil_image(image)
    longer = max(small.size)
    if longer > side:
        size = [max(1, round(length * side / longer)) for length in small.size]
        small = small.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    file = BytesIO()
    small.convert("RGB").save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()


def as_url(jpeg: bytes) -> str:
    """A JPEG file as the ``data:`` address that a page shows without a request."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


class View(NamedTuple):
    """One model's view of an image (3, H, W), normalised, and the object's mask (H, W), None where it is unknown."""

    image: Tensor
    object_mask: Tensor | None


class PreparedImage(NamedTuple):
    """An image for every model: number in the data set, label, group, one view per preprocessing, a thumbnail."""

    number: int
    label: int
    group: int
    views: tuple[View, ...]
    jpeg: bytes


class ViewBatch(NamedTuple):
    """One model's view of several images (N, 3, H, W); masks (N, H, W) are zero where ``known`` (N,) is False."""

    images: Tensor
    object_masks: Tensor
    known: Tensor


class PreparedBatch(NamedTuple):
    """Several images for every model: (N,) numbers, labels and groups, one view per preprocessing, N thumbnails."""

    indices: Tensor
    labels: Tensor
    groups: Tensor
    views: tuple[ViewBatch, ...]
    jpegs: tuple[bytes, ...]


class PreparedImages(Dataset[PreparedImage]):
    """The images of a split for all models, without its transform; thumbnails show the first preprocessing."""

    def __init__(self, images: ReleaseDataset, preprocessings: Sequence[Preprocessing], side: int) -> None:
        self._images, self._side, self._groups = images, side, groups_of(images)
        self._steps = [
            (SampleTransform(preprocessing.resize_and_crop(), ()), preprocessing.normalise())
            for preprocessing in preprocessings
        ]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def __getitem__(self, index: int) -> PreparedImage:
        """Read and prepare an image."""
        sample = read_sample(self._images.records[index], self._images.release)
        cropped = [crop(sample) for crop, _ in self._steps]
        views = tuple(
            View(_through(normalise, seen.image), _object_mask(seen))
            for seen, (_, normalise) in zip(cropped, self._steps, strict=True)
        )
        group = int(self._groups[index])
        return PreparedImage(index, sample.label, group, views, thumbnail(cropped[0].image, self._side))


class PreparedBatches:
    """The images in their order, several at once."""

    def __init__(self, images: PreparedImages, batch_size: int, workers: int) -> None:
        own = torch.Generator()  # else torch's own would move
        self._loader: DataLoader[PreparedImage] = DataLoader(
            images, batch_size, num_workers=workers, collate_fn=_together, generator=own
        )

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[PreparedBatch]:
        """Read batch after batch; an error in a worker reads as it would without workers."""
        try:
            yield from self._loader
        except (OSError, ValueError) as error:
            before, _, said = str(error).rpartition(f"\n{type(error).__name__}: ")
            if not before.startswith("Caught "):
                raise
            raise type(error)(said.strip()) from None


def _together(images: Sequence[PreparedImage]) -> PreparedBatch:
    indices, labels, groups = (torch.tensor([image[part] for image in images]) for part in range(3))
    views = zip(*(image.views for image in images), strict=True)
    return PreparedBatch(indices, labels, groups, tuple(map(_view_batch, views)), tuple(i.jpeg for i in images))


def _view_batch(views: Sequence[View]) -> ViewBatch:
    images = torch.stack([view.image for view in views])
    nothing = images.new_zeros(images.shape[-2:])
    masks = [nothing if view.object_mask is None else view.object_mask for view in views]
    known = torch.tensor([view.object_mask is not None for view in views])
    return ViewBatch(images, torch.stack(masks), known)


def _object_mask(sample: Sample) -> Tensor | None:
    """The object's mask, or the union of its boxes where there is no mask."""
    if sample.object_mask is not None:
        mask: Tensor = sample.object_mask.as_subclass(Tensor)[0]
        return mask
    if sample.boxes is None:
        return None
    height, width = sample.boxes.canvas_size
    return boxes_to_masks([sample.boxes.as_subclass(Tensor)], (height, width))[0].float()


def _through(steps: Sequence[Any], image: Any) -> Tensor:
    for step in steps:
        image = step(image)
    tensor: Tensor = image
    return tensor
