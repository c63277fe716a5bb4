"""Sets that ``aimwrap data build`` wrote, which say themselves how many images they have and how these are tied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..builder.tying import images_per_group
from ..builder.writing import MANIFEST
from ..built import read_built
from ..files import read_json
from ..release import SPLITS, Release
from .counts import Expected, count
from .kind import Kind, Sources, call
from .listing import folders_below


def built_evidence(folder: Path, sources: Sources) -> str | None:
    """What the builder leaves from its first second on."""
    return f"it has {MANIFEST}, which aimwrap data build writes" if (folder / MANIFEST).is_file() else None


def built_expected(release: Release) -> Mapping[str, Expected] | None:
    """What was asked for when it was built: how many images, and how each label's are spread over the places."""
    manifest = read_json(release.root / MANIFEST)
    found = {row.split: row.labels for row in count(release)}
    try:
        sizes = {split: int(manifest["num_images"][split]) for split in SPLITS}
        tyings = manifest.get("tyings", {})
        return {
            split: _as_tied(size, tyings[split], found[split], len(release.places))
            if split in tyings and split in found
            else Expected(size)
            for split, size in sizes.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):  # edited by hand; the reader needs the names alone
        return None


def _as_tied(size: int, tying: Mapping[str, Any], labels: tuple[int, ...], num_places: int) -> Expected:
    tie = 1 / num_places if tying["tie"] is None else float(tying["tie"])
    rows = images_per_group(labels, tie, num_places, int(tying["shift"]))
    return Expected(size, groups=tuple(number for row in rows for number in row))


BUILT = Kind(
    "built",
    "a set that aimwrap data build wrote",
    built_evidence,
    lambda root, sources: read_built(root),
    lambda root, sources: call("Built", root),
    expected=built_expected,
    authority=MANIFEST,
    own_folders=lambda release: folders_below(release.root),
)
