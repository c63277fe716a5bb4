"""How many images there are, against how many there should be, and how the groups are tied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..release import SPLITS, Release
from ..sample import group_number
from .examination import Check, Count, Finding
from .words import numbered


class Expected(NamedTuple):
    """What the official release has in a split; None where that is not known.

    Attributes:
        images: in all.
        labels: by label.
        groups: by group.
        balanced: whether each label has as many images on every place, but for one.
    """

    images: int | None
    labels: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None
    balanced: bool = False


def count(release: Release) -> tuple[Count, ...]:
    """Count the images of each split that has some."""
    num_labels, num_places = len(release.classes), len(release.places)
    counts = []
    for split in SPLITS:
        records = [record for record in release.records if record.split == split]
        if not records:
            continue
        labels = Counter(record.label for record in records)
        groups = None
        if num_places and all(record.place is not None for record in records):
            found = Counter(group_number(record.label, record.place, num_places) for record in records)
            groups = tuple(found[group] for group in range(num_labels * num_places))
        counts.append(Count(split, len(records), tuple(labels[label] for label in range(num_labels)), groups))
    return tuple(counts)


def check_counts(
    counts: Sequence[Count], release: Release, expected: Mapping[str, Expected] | None, authority: str
) -> Check:
    """Hold the counts against the right ones.

    Args:
        counts: that were found.
        release: that they are of.
        expected: by split; None if there is nothing to compare with, or nothing is to be compared.
        authority: what says which are right, such as ``"the official release"``.
    """
    number = sum(row.images for row in counts)
    splits = " + ".join(f"{row.images:,} {row.split}" for row in counts)
    if expected is None:
        return Check("counts", "ok", f"{numbered(number, 'image')} ({splits}), not held against any others")
    found = {row.split: row for row in counts}
    empty = Count("", 0, (0,) * len(release.classes), (0,) * (len(release.classes) * len(release.places)))
    findings = [
        finding
        for split in SPLITS
        for finding in _differences(
            split, found.get(split, empty), expected.get(split, Expected(0)), release, authority
        )
    ]
    if findings:
        summary = f"not those of {authority}: get the set again; if you took a part on purpose, pass --subset"
        return Check("counts", "fault", summary, tuple(findings))
    return Check("counts", "ok", f"{numbered(number, 'image')} ({splits}), as {authority} has them")


def _differences(split: str, found: Count, expected: Expected, release: Release, authority: str) -> list[Finding]:
    findings = []
    if expected.images is not None and found.images != expected.images:
        findings.append(Finding(split, f"{numbered(found.images, 'image')}, and {authority} has {expected.images:,}"))
    for names, numbers, official in (
        (release.classes, found.labels, expected.labels),
        (_group_names(release), found.groups, expected.groups),
    ):
        findings += [
            Finding(f"{split}, {name}", f"{numbered(number, 'image')}, and {authority} has {right:,}")
            for name, number, right in zip(names, numbers or (), official or (), strict=False)
            if number != right
        ]
    if expected.balanced and found.groups is not None:
        findings += [
            Finding(f"{split}, {name}", f"{' and '.join(map(str, row))} images on the places, which must be as many")
            for name, row in zip(release.classes, _rows(found.groups, len(release.places)), strict=True)
            if max(row) - min(row) > 1
        ]
    return findings


def check_labels(counts: Sequence[Count], release: Release, num_classes: int | None) -> Check:
    """Whether there are as many classes as there should be, each with images in every split.

    Args:
        counts: that were found.
        release: that they are of.
        num_classes: of the official release, or None.
    """
    if num_classes not in (None, len(release.classes)):
        there = len(release.classes)
        return Check(
            "labels", "fault", f"{numbered(there, 'class', 'classes')}, and the official release has {num_classes:,}"
        )
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
    return Check("labels", "ok", f"{len(release.classes):,}, each with images in every split")


def check_groups(counts: Sequence[Count], release: Release) -> Check:
    """How the places are tied to the labels in training, and whether the other splits have every group."""
    train = next((row.groups for row in counts if row.split == "train"), None)
    ties = [
        f"{name} on {release.places[row.index(max(row))]} {max(row) / sum(row):.1%}".replace("%", " %")
        for name, row in zip(release.classes, _rows(train or (), len(release.places)), strict=False)
        if sum(row)
    ]
    said = "in training " + ", ".join(ties[:2]) + (f", and {len(ties) - 2} more" if len(ties) > 2 else "")
    findings = tuple(
        Finding(f"{row.split}, {name}", "no images, so its accuracy is not known")
        for row in counts
        if row.split != "train" and _untied(row, len(release.places))
        for name, number in zip(_group_names(release), row.groups or (), strict=True)
        if not number
    )
    if findings:
        return Check("groups", "warning", f"{said}; some have no images to be tested on", findings)
    return Check("groups", "ok", said)


def _untied(row: Count, num_places: int) -> bool:
    """Whether some label stands on several places, as where groups are compared; not so in TravelingBirds."""
    return any(sum(number > 0 for number in places) > 1 for places in _rows(row.groups or (), num_places))


def _rows(groups: tuple[int, ...], num_places: int) -> list[tuple[int, ...]]:
    """Groups by label: the numbering is ``label * num_places + place``."""
    return [groups[start : start + num_places] for start in range(0, len(groups), num_places)] if num_places else []


def _group_names(release: Release) -> list[str]:
    return [f"{label} on {place}" for label in release.classes for place in release.places]
