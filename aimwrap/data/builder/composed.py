"""Writing sets to disk that make their images in memory, such as the digits on photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..built import read_built
from ..files import written
from ..release import Release
from .drawing import Drawn
from .writing import Entry, FileFormat, SetToWrite, write_set


class ComposedSample(Protocol):
    """What is written of an image."""

    @property
    def image(self) -> Tensor:
        """(3, H, W) in [0, 1]."""

    @property
    def object_mask(self) -> Tensor:
        """(1, H, W) in [0, 1]."""


class Composed(Protocol):
    """A split that draws its images, each by its index alone."""

    @property
    def labels(self) -> Tensor:
        """(N,) numbers."""

    @property
    def places(self) -> Tensor:
        """(N,) numbers."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """By label."""

    @property
    def place_names(self) -> tuple[str, ...]:
        """By place."""

    def __getitem__(self, index: int) -> ComposedSample:
        """Draw image ``index``."""

    def source_names(self, index: int) -> tuple[str, str]:
        """What image ``index`` is made of: its cut-out and its background."""


def build_composed(
    out: Path | str,
    splits: Mapping[str, Composed],
    arguments: Mapping[str, Any],
    *,
    file_format: FileFormat = "jpg",
    workers: int = 0,
    progress: bool = True,
) -> Release:
    """Write a set to disk as :func:`aimwrap.data.builder.build` does, in the same layout and with the same promises.

    Args:
        out: a folder that is new, empty, or of an earlier build with the same arguments.
        splits: ``"train"``, ``"val"`` and ``"test"``, or some of them; with the same names of labels and places.
        arguments: all that the pixels depend on, for ``build.json``; what JSON can hold.
        file_format: ``"jpg"`` or ``"png"``.
        workers: how many processes; 0 draws in this one.
        progress: whether to show a bar.

    Returns:
        The set, read back.

    Raises:
        FileExistsError: if the folder has something else in it.
    """
    entries, images = [], []
    for split, data in splits.items():
        for index, (label, place) in enumerate(zip(data.labels.tolist(), data.places.tolist(), strict=True)):
            cutout, background = data.source_names(index)
            entries.append(Entry(split, index, label, place, background, cutout))
            images.append((data, index))
    first = next(iter(splits.values()))
    to_write = SetToWrite(entries, first.label_names, first.place_names, arguments, file_format)
    write_set(written(out), to_write, _Drawing(images), workers=workers, progress=progress)
    return read_built(out)


class _Drawing:
    """Draws an image by its number, in any process."""

    def __init__(self, images: Sequence[tuple[Composed, int]]) -> None:
        self.images = images

    def __call__(self, number: int) -> Drawn:
        data, index = self.images[number]
        sample = data[index]
        image, mask = ((part * 255).round().byte().numpy() for part in (sample.image, sample.object_mask))
        return Drawn(image.transpose(1, 2, 0), mask[0])
