"""From cut-outs and backgrounds to a set on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

from torch import Tensor

from ..io import expand_path
from ..release import SPLITS, Release
from ..sets.built import read_built
from .draw import Drawn, Placed, Style, forget_pictures
from .plan import Shot, Source, Tying, generator_of, plan_shots
from .sources import Background, Cutout
from .write import Entry, FileFormat, SetToWrite, write_set


def build(
    out: Path | str,
    cutouts: Sequence[Cutout],
    backgrounds: Sequence[Background],
    tyings: Mapping[str, Tying],
    seed: int = 0,
    *,
    style: Style | None = None,
    classes: Sequence[str] | None = None,
    places: Sequence[str] | None = None,
    test_share: float = 0.2,
    val_share: float = 0.2,
    cutout_uses: int = 1,
    background_uses: int = 1,
    file_format: FileFormat = "jpg",
    workers: int = 0,
    progress: bool = True,
) -> Release:
    """Build a set whose background is tied to the label.

    The folder gets ``<class>/<split>_<number>.jpg``, the masks of the objects under the same names in ``segmentations``
    (brightness is how much of the pixel the object covers), ``metadata.csv`` with Waterbirds' columns, and
    ``build.json`` with the arguments. No source picture is in two splits, not even under two names.

    An image depends on the sources, the arguments, its split and its number alone: two builds are the same byte for
    byte, with any number of workers, and also if one was interrupted and called again, which continues. So that
    this holds, a folder is refused that was begun with other arguments, or with another version of Pillow or numpy.

    Args:
        out: a folder that is new, empty, or of an earlier build with the same arguments.
        cutouts: from :func:`cutouts_in` or :func:`cutouts_of`.
        backgrounds: from :func:`backgrounds_in` or :func:`backgrounds_of`.
        tyings: from :func:`waterbirds` or :func:`travelingbirds`, or of your own, by split.
        seed: draws the splits, which object is on which background, and every image.
        style: :class:`Placed` or :class:`InPlace`; by default ``Placed()``.
        classes: which classes, in the order of their labels; by default all, sorted by name. Label k is tied
            to place k.
        places: which places, in the order of their numbers; by default all, sorted by name, or where the tyings shift
            places, which takes as many of them as there are classes, the first ones.
        test_share: share of the cut-outs and of the backgrounds that are for the test, if they have no splits of their
            own; 0 leaves the test out.
        val_share: share of the others that are for the validation, if they have none of their own; 0 leaves it out.
        cutout_uses: how many images may show the same cut-out.
        background_uses: how many images may show the same background.
        file_format: ``"jpg"`` (quality 95) or ``"png"`` of the images.
        workers: how many processes; 0 draws in this one.
        progress: whether to show a bar.

    Returns:
        The set, read back.

    Raises:
        FileExistsError: if the folder has something else in it.
        OSError: if it cannot be written to.
        ValueError: if an argument is out of range, there are too few cut-outs or backgrounds, names clash, or source
            pictures cannot be read, each named; the other images are then written, and the next call goes on.
    """
    style = Placed() if style is None else style
    style.check()
    _check_numbers(tyings, seed, test_share, val_share, cutout_uses, background_uses)
    if file_format not in get_args(FileFormat):
        raise ValueError(f"file_format must be one of {', '.join(get_args(FileFormat))}, got {file_format!r}")
    cutouts_by_class = _by_kind(cutouts, [cutout.class_name for cutout in cutouts], classes, "classes")
    by_place = _by_kind(backgrounds, [background.place for background in backgrounds], places, "places")
    shifts = any(tying.shift for tying in tyings.values())
    if shifts and places is None:
        by_place = dict(list(by_place.items())[: len(cutouts_by_class)])
    if shifts and len(by_place) != len(cutouts_by_class):
        raise ValueError(
            f"there must be as many places as classes where every class has its own, got {len(by_place)} places and "
            f"{len(cutouts_by_class)} classes; add backgrounds, or choose with classes and places"
        )
    if any(tying.shift % len(by_place) == 0 for tying in tyings.values() if tying.shift):
        raise ValueError(
            f"shift must not be a multiple of the number of places ({len(by_place)}), because it would move nothing"
        )
    shots = plan_shots(
        cutouts_by_class,
        by_place,
        tyings,
        seed,
        test_share=test_share,
        val_share=val_share,
        cutout_uses=cutout_uses,
        background_uses=background_uses,
    )
    entries = [
        Entry(shot.split, shot.number, shot.label, shot.place, shot.background.name, shot.cutout.name) for shot in shots
    ]
    arguments = {
        "seed": seed,
        "tyings": {split: tying._asdict() for split, tying in tyings.items()},
        "style": {type(style).__name__: style._asdict()},
        "test_share": test_share,
        "val_share": val_share,
        "cutout_uses": cutout_uses,
        "background_uses": background_uses,
        "sources": _digest(entries),
    }
    to_write = SetToWrite(entries, list(cutouts_by_class), list(by_place), arguments, file_format)
    try:
        write_set(expand_path(out), to_write, Shooting(shots, style, seed), workers=workers, progress=progress)
    finally:
        forget_pictures()  # which may be others the next time
    return read_built(out)


class Shooting:
    """Draws an image by its number, in any process."""

    def __init__(self, shots: Sequence[Shot], style: Style, seed: int) -> None:
        self.shots, self.style, self.seed = shots, style, seed

    def __call__(self, number: int) -> Drawn:
        """Draw it."""
        shot = self.shots[number]
        rng = generator_of(self.seed, SPLITS.index(shot.split), shot.number)
        return self.style.draw(shot.cutout, shot.background, rng)


def _digest(entries: Sequence[Entry]) -> str:
    """Of which object is on which background, by the sources' names."""
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _by_kind(
    sources: Sequence[Source], kinds: Sequence[str], chosen: Sequence[str] | None, argument: str
) -> dict[str, list[Source]]:
    names: list[str] = sorted({*kinds}) if chosen is None else list(chosen)
    unknown = [name for name in names if name not in kinds]
    if unknown or len({*names}) < len(names) or not names:
        raise ValueError(
            f"{argument} must name some of {', '.join(sorted({*kinds})[:10]) or 'none at all'}, each once, got "
            f"{', '.join(names) or 'none'}"
        )
    return {name: [source for source, kind in zip(sources, kinds, strict=True) if kind == name] for name in names}


def _check_numbers(
    tyings: Mapping[str, Tying],
    seed: int,
    test_share: float,
    val_share: float,
    cutout_uses: int,
    background_uses: int,
) -> None:
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    uses: dict[str, Any] = {"cutout_uses": cutout_uses, "background_uses": background_uses}
    for name, number in uses.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name, share in (("test_share", test_share), ("val_share", val_share)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be a share from 0 to below 1, got {share}")
    for split, tying in tyings.items():
        if split not in SPLITS:
            raise ValueError(f"tyings must have splits as keys ({', '.join(SPLITS)}), got {split!r}")
        if tying.tie is not None and not 0 <= tying.tie <= 1:
            raise ValueError(f"tie must be a share of the images, 0 to 1, got {tying.tie} for {split}")
        if tying.num_images is not None and {"test": test_share, "val": val_share}.get(split) == 0:
            raise ValueError(
                f"{split} was asked for {tying.num_images} images, but {split}_share is 0: give it a share"
            )


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
    write_set(expand_path(out), to_write, _Drawing(images), workers=workers, progress=progress)
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
