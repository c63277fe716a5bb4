"""Every file opened as the reader opens it, in parallel, so that a file that passes can also be read.

In threads, since Pillow releases Python's lock while it decodes: as fast as processes for photographs of ImageNet's
size, and 20 times as fast for 3,000 small images, because new processes import torch again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import ImageFile
from torchvision.transforms.v2.functional import get_size

from ..._files import checksum
from ..._text import with_progress
from ...preprocessing import Preprocessing
from ..io import is_tiff, open_object_mask, read_image, size_and_orientation
from ..release import Box

CHUNK = 32  # files a thread takes at once
T = TypeVar("T")


class MaskLook(NamedTuple):
    """The part of an image that a mask covers."""

    share: float  # of the pixels that are at least half object
    brightest: float  # value, in [0, 1]
    box: Box | None  # around the pixels that are at least half object


class Look(NamedTuple):
    """Properties of an opened file."""

    size: tuple[int, int] | None  # (H, W), or None if it could not be read
    error: str | None = None  # why it could not
    digest: str | None = None  # SHA-256, where it was asked for
    mask: MaskLook | None = None  # where it is a mask and was decoded
    orientation: int = 1  # by its EXIF data, which turn it upright


def look_at_image(path: Path, quick: bool = False, digest: bool = False, prepared: Preprocessing | None = None) -> Look:
    """Open an image; one with a window is always read."""
    try:
        through = prepared is not None and prepared.window is not None
        size, orientation = ((0, 0), 1) if through and is_tiff(path) else size_and_orientation(path)
        if through or not quick:  # by notes behind the pixels too, as some programs write in PNG
            size = tuple(get_size(read_image(path, prepared=prepared)))
        return Look(size, digest=checksum(path) if digest and not quick else None, orientation=orientation)
    except Exception as error:  # a decoder that meets arbitrary bytes raises what it likes
        return Look(None, _reason(error, path))


def look_at_mask(path: Path, any_value: bool, quick: bool = False) -> Look:
    """Open a mask."""
    try:
        if quick:
            return Look(size_and_orientation(path)[0])
        mask = open_object_mask(path, any_value)[0].numpy()
    except Exception as error:
        return Look(None, _reason(error, path))
    half = mask >= 0.5
    rows, columns = np.flatnonzero(half.any(axis=1)), np.flatnonzero(half.any(axis=0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)) if len(rows) else None
    height, width = mask.shape
    return Look((height, width), mask=MaskLook(float(half.mean()), float(mask.max()), box))


def _reason(error: Exception, path: Path) -> str:
    """The error's first sentence, without the path, which the finding has already."""
    text = str(error) or type(error).__name__
    return text.removeprefix(f"{path} ").split(". ")[0]


def look_at_all(
    look: Callable[[T], Look], items: Sequence[T], workers: int | None, description: str, progress: bool
) -> list[Look]:
    """Call ``look`` with every item, in threads; None takes as many as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    with _strict_and_silent_decoding(), ThreadPoolExecutor(workers or cores) as pool:
        try:
            parts = pool.map(lambda chunk: [look(item) for item in chunk], chunks)
            looks: Iterable[Look] = (seen for part in parts for seen in part)
            return list(with_progress(looks, description, "file", len(items)) if progress else looks)
        except BaseException:  # Ctrl-C is not to wait for the files that are queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _strict_and_silent_decoding() -> Iterator[None]:
    """Pillow accepts truncated files as complete where ``LOAD_TRUNCATED_IMAGES`` is set, as many training scripts do.

    Its warnings are silenced around all threads at once, since ``catch_warnings`` is not safe inside of them.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
