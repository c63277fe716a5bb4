"""Whether every file can be read, and whether masks and boxes belong to their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..release import Box, Record, Release
from .examination import Check, Finding, Mark
from .files_there import shown
from .scan import Look
from .words import numbered

FAINT = 0.1  # a mask that is nowhere brighter was written with 0 and 1 where 0 and 255 are meant
LOW_OVERLAP = 0.5  # of a box with its mask's; where CUB's are the image's own, they hardly ever fall below
MANY_LOW = 0.01  # share of boxes below LOW_OVERLAP from which the table is taken to be in another order

Seen = tuple[Record, Look, Look | None]  # of the image, and of its mask


def check_readable(looks: Mapping[Path, Look], root: Path, quick: bool) -> Check:
    """Whether every file could be opened, and decoded to its end."""
    findings = tuple(Finding(shown(path, root), look.error) for path, look in looks.items() if look.error is not None)
    if findings:
        again = "it is damaged, get it again" if len(findings) == 1 else "they are damaged, get them again"
        summary = f"{len(findings):,} of {len(looks):,} files cannot be read: {again}"
        return Check("readable", "fault", summary, findings)
    how = "headers alone were read; without --quick every file is decoded" if quick else "opened and decoded to the end"
    return Check("readable", "ok", f"{numbered(len(looks), 'file')}, {how}")


def check_sizes(seen: Sequence[Seen], root: Path) -> Check:
    """Whether images have the sizes that the release says, and masks have their images' sizes."""
    resized, apart, shorter = [], [], []
    for record, image, mask in seen:
        if image.size is None:
            continue
        shorter.append(min(image.size))
        if record.size not in (None, image.size):
            message = f"{_by(image.size)} pixels (W x H), and the release says {_by(record.size)}"
            resized.append(Finding(shown(record.path, root), message))
        if record.mask_path is not None and mask is not None and mask.size not in (None, image.size):
            message = f"{_by(mask.size)} pixels (W x H), and its image {_by(image.size)}"
            apart.append(Finding(shown(record.mask_path, root), message))
    if resized or apart:
        parts = [
            f"images of another size than the release says: {len(resized):,}" if resized else "",
            f"masks of another size than their images: {len(apart):,}" if apart else "",
        ]
        summary = f"{'; '.join(part for part in parts if part)}. They were resized, or are another release's"
        return Check("sizes", "fault", summary, (*resized, *apart))
    sides = f"shorter sides from {min(shorter)} to {max(shorter)} pixels" if shorter else "none is known"
    fit = ", and every mask has its image's size" if any(mask is not None for _, _, mask in seen) else ""
    return Check("sizes", "ok", f"{sides}{fit}")


def _by(size: tuple[int, int] | None) -> str:
    return "unknown" if size is None else f"{size[1]} x {size[0]}"


def check_mask_contents(seen: Sequence[Seen], root: Path, empty_is_usual: bool) -> Check:
    """Whether masks show something, and not everything.

    Args:
        seen: images and masks.
        root: of the release.
        empty_is_usual: whether the release itself has empty masks, as Hard-ImageNet.
    """
    empty, odd, number = [], [], 0
    for record, _, look in seen:
        if look is None or look.mask is None or record.mask_path is None:
            continue
        number += 1
        name = shown(record.mask_path, root)
        if look.mask.brightest == 0:
            empty.append(Finding(name, "empty: no pixel is object"))
        elif look.mask.box is None:
            values = f"its brightest value is {round(look.mask.brightest * 255)} of 255"
            faint = look.mask.brightest <= FAINT
            guess = "written with 0 and 1, or class numbers, where 0 and 255 are meant" if faint else "all too soft"
            odd.append(Finding(name, f"no pixel is at least half object; {values}: {guess}"))
        elif look.mask.share == 1:
            odd.append(Finding(name, "full: every pixel is object"))
    if odd or (empty and not empty_is_usual):
        summary = f"masks that show nothing, or everything: {len(odd) + len(empty):,} of {number:,}"
        return Check("mask contents", "fault", summary, (*odd, *empty))
    if empty:
        summary = f"empty: {len(empty):,} of {number:,}, as some of this release are; leave them out of scores"
        return Check("mask contents", "ok", summary, tuple(empty))
    return Check("mask contents", "ok", "every mask shows an object and a background")


def check_boxes(seen: Sequence[Seen], release: Release) -> Check:
    """Whether boxes lie in their images and around their masks; those of other images do not."""
    outside, apart, compared = [], [], 0
    for record, image, look in seen:
        if record.boxes is None or image.size is None:
            continue
        name = shown(record.path, release.root)
        if not all(_lies_inside(box, image.size) for box in record.boxes):
            outside.append(Finding(name, f"box {_rounded(record.boxes)} is not inside of its {_by(image.size)} pixels"))
        elif len(record.boxes) == 1 and (mask_box := _box_of(look, image.size)) is not None:
            compared += 1
            overlap = box_overlap(record.boxes[0], mask_box)
            if overlap < LOW_OVERLAP:
                message = f"box {_rounded(record.boxes)} and mask {_rounded([mask_box])} overlap by {overlap:.2f}"
                apart.append(Finding(name, message))
    findings = (*outside, *apart)
    if not findings:
        around = f", and around {compared:,} masks" if compared else ""
        return Check("boxes", "ok", f"inside of their images{around}")
    many = len(apart) > MANY_LOW * compared
    mark: Mark = "fault" if outside or many else "warning"
    if mark == "fault":
        summary = (
            f"not in their image: {len(outside):,}; not around their mask: {len(apart):,}. They are other images', "
            "as in a table that was sorted: get it again"
        )
    else:
        summary = f"overlap with their mask's box below {LOW_OVERLAP}: {len(apart):,} of {compared:,}; look at them"
    return Check("boxes", mark, summary, findings)


def _box_of(look: Look | None, size: tuple[int, int]) -> Box | None:
    """Around a mask that can be compared; those that are at fault themselves have been found before."""
    if look is None or look.mask is None or look.size != size or look.mask.share == 1:
        return None
    return look.mask.box


def _lies_inside(box: Box, size: tuple[int, int]) -> bool:
    """To a pixel of rounding, as the reader has it."""
    (left, top, right, bottom), (height, width) = box, size
    return -1 <= left < right <= width + 1 and -1 <= top < bottom <= height + 1


def box_overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes.

    >>> box_overlap((0, 0, 4, 4), (2, 0, 6, 4))  # 8 of 24
    0.3333333333333333
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def _rounded(boxes: Sequence[Box]) -> str:
    return ", ".join("(" + ", ".join(f"{value:g}" for value in box) + ")" for box in boxes)
