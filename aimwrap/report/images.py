"""The images: each read once from disk and prepared for every model, with a thumbnail for the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ..data import Sample, SampleTransform
from ..data.io import as_picture
from ..data.release import ReleaseDataset, read_sample
from ..data.sample import with_object
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
    """An image, cropped but not normalised, as a JPEG file; never enlarged."""
    small, file = as_picture(image), BytesIO()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
    small.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()


def as_url(jpeg: bytes) -> str:
    """A JPEG file as the ``data:`` address that a page shows without a request."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


class View(NamedTuple):
    """One model's view of an image (C, H, W), normalised, and the object's mask (H, W): zero where it is not ``known``.

    Of a batch, each has a dimension in front.
    """

    image: Tensor
    object_mask: Tensor
    known: Tensor


class PreparedImage(NamedTuple):
    """An image for every model: number in the data set, one view per preprocessing, a JPEG thumbnail.

    Of a batch, the numbers are (N,), and the thumbnails a list.
    """

    number: Tensor
    views: Sequence[View]
    jpeg: Any


class PreparedImages(Dataset[PreparedImage]):
    """The images of a split for all models, without its transform; thumbnails show the first preprocessing."""

    def __init__(self, images: ReleaseDataset, preprocessings: Sequence[Preprocessing], side: int) -> None:
        self._images, self._side = images, side
        self._how = [(len(each.mean), each.window) for each in preprocessings]  # a file is read once for each of these
        self._read = dict(zip(self._how, preprocessings, strict=True))
        self._steps = [
            (SampleTransform(preprocessing.resize_and_crop(), ()), v2.Compose(preprocessing.normalise()))
            for preprocessing in preprocessings
        ]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def __getitem__(self, index: int) -> PreparedImage:
        """Read and prepare an image."""
        record, release = self._images.records[index], self._images.release
        samples = {how: read_sample(record, release, prepared) for how, prepared in self._read.items()}
        cropped = [crop(samples[how]) for (crop, _), how in zip(self._steps, self._how, strict=True)]
        views = [_view(seen, normalise) for seen, (_, normalise) in zip(cropped, self._steps, strict=True)]
        return PreparedImage(torch.tensor(index), views, thumbnail(cropped[0].image, self._side))


def _view(sample: Sample, normalise: Callable[[Any], Any]) -> View:
    """A cropped image, normalised, with the object's mask, or the union of its boxes where there is no mask."""
    image, mask = normalise(sample.image), with_object(sample).object_mask
    known = torch.tensor(mask is not None)
    mask = image.new_zeros(image.shape[-2:]) if mask is None else mask[0]
    return View(image.as_subclass(Tensor), mask.as_subclass(Tensor), known)
