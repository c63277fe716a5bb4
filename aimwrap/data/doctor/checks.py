"""The doctor's checks: counts and groups, missing and unnamed files, sizes, masks, boxes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torchvision.ops import box_iou

from ..._text import numbered
from ..io import FolderListing, pictures
from ..release import SPLITS, Box, Record, Release, ReleaseDataset, are_inside, counts_stored, likely_ids
from ..sets import Expected
from .report import Check, Count, Finding, Mark
from .scan import Look


def count(release: Release) -> tuple[Count, ...]:
    """Count the images of each split that has some."""
    counts, num_labels, num_groups = [], len(release.classes), len(release.classes) * len(release.places)
    for split in ReleaseDataset(release, None).splits:
        images = ReleaseDataset(release, split)
        labels = tuple(torch.bincount(images.labels, minlength=num_labels).tolist())
        groups = None if images.groups is None else tuple(torch.bincount(images.groups, minlength=num_groups).tolist())
        counts.append(Count(split, len(images), labels, groups))
    return tuple(counts)


def check_counts(
    counts: Sequence[Count], release: Release, expected: Mapping[str, Expected] | None, authority: str
) -> Check:
    """Compare the counts with the expected ones."""
    number = sum(row.images for row in counts)
    splits = " + ".join(f"{row.images:,} {row.split}" for row in counts)
    if expected is None:
        return Check("counts", "ok", f"{numbered(number, 'image')} ({splits}), not compared with official counts")
    found = {row.split: row for row in counts}
    empty = Count("", 0, (0,) * len(release.classes), (0,) * (len(release.classes) * len(release.places)))
    findings: list[Finding] = []
    for split in SPLITS:
        there, official = found.get(split, empty), expected.get(split, Expected(0))
        findings += _differences(split, there, official, release, authority)
    if findings:
        summary = f"not those of {authority}: get the set again; if this is a part of it on purpose, pass --subset"
        return Check("counts", "fault", summary, tuple(findings))
    return Check("counts", "ok", f"{numbered(number, 'image')} ({splits}), as {authority} has them")


def _differences(split: str, found: Count, expected: Expected, release: Release, authority: str) -> list[Finding]:
    findings = []
    if expected.images is not None and found.images != expected.images:
        findings.append(Finding(split, f"{numbered(found.images, 'image')}, and {authority} has {expected.images:,}"))
    for names, numbers, official in (
        (release.classes, found.labels, expected.labels),
        (group_names(release), found.groups, expected.groups),
    ):
        findings += [
            Finding(f"{split}, {name}", f"{numbered(number, 'image')}, and {authority} has {right:,}")
            for name, number, right in zip(names, numbers or (), official or (), strict=False)
            if number != right
        ]
    if expected.balanced and found.groups is not None:
        findings += [
            Finding(
                f"{split}, {name}", f"{' and '.join(map(str, row))} images on the places; these numbers must be equal"
            )
            for name, row in zip(release.classes, _rows(found.groups, len(release.places)), strict=True)
            if max(row) - min(row) > 1
        ]
    return findings


def check_labels(counts: Sequence[Count], release: Release, num_classes: int | None) -> Check:
    """Whether there are as many classes as there should be, each with images in every split."""
    if num_classes not in (None, len(release.classes)):
        there = numbered(len(release.classes), "class", "classes")
        return Check("labels", "fault", f"{there}, and the official release has {num_classes:,}")
    findings = [
        Finding(f"{row.split}, {name}", "no images")
        for row in counts
        for name, number in zip(release.classes, row.labels, strict=True)
        if not number
    ]
    if not any(row.split == "train" for row in counts):
        findings.insert(0, Finding("train", "no images to train on"))
    if findings:
        return Check("labels", "warning", "some have no images in a split", tuple(findings))
    if warning := "".join(likely_ids(release)):
        return Check("labels", "warning", warning)
    return Check("labels", "ok", f"{len(release.classes):,}, each with images in every split")


def check_groups(counts: Sequence[Count], release: Release) -> Check:
    """How the places are tied to the labels in training, and whether the other splits have every group."""
    train = next((row.groups for row in counts if row.split == "train"), None)
    ties = [
        f"{name} on {release.places[row.index(max(row))]} {max(row) / sum(row):.1%}".replace("%", " %")
        for name, row in zip(release.classes, _rows(train or (), len(release.places)), strict=False)
        if sum(row)
    ]
    ties_text = "in training " + ", ".join(ties[:2]) + (f", and {len(ties) - 2} more" if len(ties) > 2 else "")
    findings = tuple(
        Finding(f"{row.split}, {name}", "no images, so its accuracy is not known")
        for row in counts
        # Only where some label is on several places, as where groups are compared; not so in TravelingBirds.
        if row.split != "train"
        and any(sum(map(bool, each)) > 1 for each in _rows(row.groups or (), len(release.places)))
        for name, number in zip(group_names(release), row.groups or (), strict=True)
        if not number
    )
    if findings:
        return Check("groups", "warning", f"{ties_text}; some have no images to be tested on", findings)
    return Check("groups", "ok", ties_text)


def _rows(groups: tuple[int, ...], num_places: int) -> list[tuple[int, ...]]:
    """Groups by label: the numbering is ``label * num_places + place``."""
    return [groups[start : start + num_places] for start in range(0, len(groups), num_places)] if num_places else []


def group_names(release: Release) -> list[str]:
    """Names, by number of group; none without places."""
    return [f"{label} on {place}" for label in release.classes for place in release.places]


def worth_a_digest(paths: Iterable[Path], listing: FolderListing) -> set[Path]:
    """The files of which another has as many bytes: files of different sizes differ."""
    sizes = {path: listing.files(path.parent).get(path.name) for path in paths}
    times = Counter(sizes.values())
    return {path for path, size in sizes.items() if times[size] > 1}


def check_duplicates(release: Release, images: Mapping[Path, Look], mark: Mark) -> Check:
    """Whether the same file content is in several splits or under several labels."""
    same: dict[str, list[Record]] = defaultdict(list)
    for record in release.records:
        look = images.get(record.path)
        if look is not None and look.digest is not None:
            same[look.digest].append(record)
    findings = []
    for records in same.values():
        apart = len({(record.split, record.label) for record in records}) > 1
        if apart and len({record.path for record in records}) > 1:
            first, *others = (
                f"{shown(each.path, release.root)} ({each.split}, {release.classes[each.label]})" for each in records
            )
            findings.append(Finding(first, "the same as " + " and ".join(others)))
    if not findings:
        return Check("duplicates", "ok", "no file's content is in two splits or under two labels")
    contents = numbered(len(findings), "content is", "contents are")
    summary = f"{contents} in two splits or under two labels: scores on them are not on new images"
    return Check("duplicates", mark, summary, tuple(findings))


def check_images_there(release: Release, listing: FolderListing) -> Check:
    """Whether every image that the release names is on disk, and is named once."""
    times = Counter(record.path for record in release.records)
    missing = _missing(times, release.root, listing)
    twice = [
        Finding(shown(path, release.root), f"named {count} times; it must be once")
        for path, count in times.items()
        if count > 1
    ]
    ids = Counter(record.id for record in release.records)
    shared = [Finding(name, f"the id of {count} images; it must be of one") for name, count in ids.items() if count > 1]
    findings = (*missing, *twice, *shared)
    if not findings:
        return Check("images", "ok", f"all {len(times):,} are there")
    parts = [
        f"{len(missing):,} of {len(times):,} missing: get the release again, or unpack it again" if missing else "",
        f"files or ids that are named more than once: {len(twice) + len(shared):,}" if twice or shared else "",
    ]
    return Check("images", "fault", "; ".join(filter(None, parts)), findings)


def check_masks_there(release: Release, listing: FolderListing, where_to_get: str) -> Check:
    """Whether every image has the mask that the release promises."""
    paths = [record.mask_path for record in release.records if record.mask_path is not None]
    without = [record for record in release.records if record.mask_path is None]
    if not paths:
        if not where_to_get:
            return Check("object masks", "ok", "this kind of set has none")
        return Check("object masks", "warning", f"there are none, so pointing cannot be measured. {where_to_get}")
    missing = _missing(paths, release.root, listing)
    if missing:
        return Check("object masks", "fault", f"{len(missing):,} of {len(paths):,} missing", tuple(missing))
    if without and where_to_get:
        findings = tuple(Finding(shown(record.path, release.root), "has no object mask") for record in without)
        summary = f"{len(without):,} of {len(release.records):,} images without one"
        return Check("object masks", "warning", summary, findings)
    return Check("object masks", "ok", f"all {len(paths):,} are there")


def _missing(paths: Iterable[Path], root: Path, listing: FolderListing) -> list[Finding]:
    return [Finding(shown(path, root), _hint(path, listing)) for path in paths if not listing.has(path)]


def _hint(path: Path, listing: FolderListing) -> str:
    names = sorted(listing.files(path.parent))
    near = next((name for name in names if Path(name).stem.lower() == path.stem.lower()), None)
    if near is not None:
        return f"missing; there is {near}, which differs in letter case or suffix: rename it, or correct the table"
    return "missing" if names else "missing, with its complete folder"


def check_unnamed(release: Release, folders: Iterable[Path], listing: FolderListing) -> Check:
    """Whether there are images on disk that the release does not name."""
    named = {path for record in release.records for path in (record.path, record.mask_path)}
    found = [path for path in pictures(listing, folders) if path not in named]
    findings = tuple(Finding(shown(path, release.root), "") for path in found)
    if not findings:
        return Check("other files", "ok", "no unlisted image")
    several = numbered(len(findings), "image is", "images are")
    return Check("other files", "warning", f"{several} on disk that the release does not name; never read", findings)


def shown(path: Path, root: Path) -> str:
    """A path as findings have it: below the root without the root."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


LOW_OVERLAP = 0.5  # of a box with its mask's; where CUB's are the image's own, they hardly ever fall below
MANY_LOW = 0.01  # share of boxes below LOW_OVERLAP from which the table is taken to be in another order

Seen = tuple[Record, Look, Look | None]  # of the image, and of its mask


def check_readable(looks: Mapping[Path, Look], root: Path, quick: bool) -> Check:
    """Whether every file could be opened, and decoded to its end."""
    findings = tuple(Finding(shown(path, root), look.error) for path, look in looks.items() if look.error is not None)
    if findings:
        again = "copy or download again what is damaged, and save the others as RGB or grey, with 8 bits (or --window)"
        summary = f"{len(findings):,} of {len(looks):,} files cannot be read: {again}"
        return Check("readable", "fault", summary, findings)
    how = "only headers were read; without --quick every file is decoded" if quick else "opened and decoded to the end"
    return Check("readable", "ok", f"{numbered(len(looks), 'file')}, {how}")


def check_sizes(seen: Sequence[Seen], root: Path) -> Check:
    """Whether images have the sizes of the release, and masks have their images' sizes."""
    resized, apart, shorter = [], [], []
    for record, image, mask in seen:
        if image.size is None:
            continue
        shorter.append(min(image.size))
        if record.size not in (None, image.size):
            message = f"{_by(image.size)} pixels (W x H), and {_by(record.size)} in the release"
            resized.append(Finding(shown(record.path, root), message))
        if record.mask_path is not None and mask is not None and mask.size not in (None, image.size):
            message = f"{_by(mask.size)} pixels (W x H), and its image {_by(image.size)}"
            apart.append(Finding(shown(record.mask_path, root), message))
    if resized or apart:
        parts = [
            f"images of another size than in the release: {len(resized):,}" if resized else "",
            f"masks of another size than their images: {len(apart):,}" if apart else "",
        ]
        summary = f"{'; '.join(filter(None, parts))}. They were resized, or are another release's"
        return Check("sizes", "fault", summary, (*resized, *apart))
    sides = f"shorter sides from {min(shorter)} to {max(shorter)} pixels" if shorter else "none is known"
    fit = ", and every mask has its image's size" if any(mask is not None for _, _, mask in seen) else ""
    return Check("sizes", "ok", f"{sides}{fit}")


def as_read(release: Release, record: Record, image: Look, mask: Look | None) -> Look:
    """An image's look, with its size on disk where its mask or boxes count those pixels."""
    known = record.size if mask is None else mask.size
    by_boxes = counts_stored(record, release) and known != image.size
    if image.size is None or image.orientation < 5 or not (by_boxes or known == image.size[::-1]):
        return image
    return image._replace(size=image.size[::-1])


def check_turned(seen: Sequence[Seen], release: Release) -> Check | None:
    """A warning of turned images of which no size tells whether masks or boxes count the pixels as shown, or None."""
    findings = []
    for record, image, mask in seen:
        size = image.size if mask is None else mask.size
        told = image.orientation > 4 and (record.size or mask) is not None and size is not None and size[0] != size[1]
        told = told or counts_stored(record, release)
        if image.orientation > 1 and not told and (record.boxes or record.mask_path) is not None:
            findings.append(Finding(shown(record.path, release.root), f"EXIF orientation {image.orientation}"))
    summary = (
        f"{len(findings):,} with masks or boxes are turned upright as their EXIF data say, and no size tells whether "
        "masks and boxes fit that: look at them. If they fit the pixels on disk, remove the EXIF orientation"
    )
    return Check("turned images", "warning", summary, tuple(findings)) if findings else None


def _by(size: tuple[int, int] | None) -> str:
    return "unknown" if size is None else f"{size[1]} x {size[0]}"


def check_mask_contents(seen: Sequence[Seen], root: Path, of_empty: Mark) -> Check:
    """Whether masks show something, and not everything."""
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
            odd.append(Finding(name, f"no pixel is at least half object; {values}: all too soft"))
        elif look.mask.share == 1:
            (empty if of_empty == "warning" else odd).append(Finding(name, "full: every pixel is object"))
    if odd or (empty and (of_empty == "fault" or len(empty) == number)):
        summary = f"masks that show nothing, or everything: {len(odd) + len(empty):,} of {number:,}"
        return Check("mask contents", "fault", summary, (*odd, *empty))
    if empty:
        full = " or full" * (of_empty == "warning")
        summary = f"empty{full}: {len(empty):,} of {number:,}, right if the images are so; scores leave out empty ones"
        return Check("mask contents", of_empty, summary, tuple(empty))
    return Check("mask contents", "ok", "every mask shows an object and a background")


def check_boxes(seen: Sequence[Seen], release: Release) -> Check:
    """Whether boxes are inside their images and around their masks."""
    outside, apart, compared = [], [], 0
    for record, image, look in seen:
        if record.boxes is None or image.size is None:
            continue
        name = shown(record.path, release.root)
        if not are_inside(record.boxes, image.size):
            outside.append(Finding(name, f"box {_rounded(record.boxes)} is not inside its {_by(image.size)} pixels"))
        elif len(record.boxes) == 1 and (mask_box := _box_of(look, image.size)) is not None:
            compared += 1
            overlap = float(box_iou(torch.tensor(record.boxes), torch.tensor([mask_box])))
            if overlap < LOW_OVERLAP:
                message = f"box {_rounded(record.boxes)} and mask {_rounded([mask_box])} overlap by {overlap:.2f}"
                apart.append(Finding(name, message))
    findings = (*outside, *apart)
    if not findings:
        around = f", and around {compared:,} masks" if compared else ""
        return Check("boxes", "ok", f"inside their images{around}")
    many = len(apart) > MANY_LOW * compared
    if outside or many:
        summary = (
            f"not in their image: {len(outside):,}; not around their mask: {len(apart):,}. They are other "
            "images', as in a table that was sorted, or have x and y or edges and sizes swapped: get it again"
        )
        return Check("boxes", "fault", summary, findings)
    summary = f"overlap with their mask's box below {LOW_OVERLAP}: {len(apart):,} of {compared:,}; look at them"
    return Check("boxes", "warning", summary, findings)


def _box_of(look: Look | None, size: tuple[int, int]) -> Box | None:
    """Around a mask without a fault of its own, which an earlier check reports."""
    if look is None or look.mask is None or look.size != size or look.mask.share == 1:
        return None
    return look.mask.box


def _rounded(boxes: Sequence[Box]) -> str:
    return ", ".join("(" + ", ".join(f"{value:g}" for value in box) + ")" for box in boxes)
