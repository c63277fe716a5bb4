"""Which files are missing, which are named twice, which nobody names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..release import Release
from .examination import Check, Finding
from .listing import Listing, pictures


def check_images_there(release: Release, listing: Listing) -> Check:
    """Whether every image that the release names lies on disk, and is named once."""
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
    return Check("images", "fault", "; ".join(part for part in parts if part), findings)


def check_masks_there(release: Release, listing: Listing, where_to_get: str) -> Check:
    """Whether every image has the mask that the release promises.

    Args:
        release: that is examined.
        listing: of its folders.
        where_to_get: how masks come to this release, for those who have none; empty if it never has any.
    """
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
        return Check(
            "object masks", "warning", f"{len(without):,} of {len(release.records):,} images without one", findings
        )
    return Check("object masks", "ok", f"all {len(paths):,} are there")


def _missing(paths: Iterable[Path], root: Path, listing: Listing) -> list[Finding]:
    return [Finding(shown(path, root), _hint(path, listing)) for path in paths if not listing.has(path)]


def _hint(path: Path, listing: Listing) -> str:
    near = listing.near_miss(path)
    if near is not None:
        return f"missing; there is {near}, which differs in letter case or suffix: rename it"
    return "missing" if listing.files(path.parent) else "missing, with its whole folder"


def check_unnamed(release: Release, folders: Iterable[Path], listing: Listing) -> Check:
    """Whether there are images on disk that the release does not name.

    Args:
        release: that is examined.
        folders: in which every image should be named.
        listing: of them.
    """
    named = {path for record in release.records for path in (record.path, record.mask_path)}
    found = [path for path in pictures(listing, folders) if path not in named]
    findings = tuple(Finding(shown(path, release.root), "") for path in found)
    if not findings:
        return Check("other files", "ok", "no image that the release does not name")
    several = "images lie" if len(findings) > 1 else "image lies"
    return Check(
        "other files",
        "warning",
        f"{len(findings):,} {several} there which the release does not name, and which are never read",
        findings,
    )


def shown(path: Path, root: Path) -> str:
    """A path as findings have it: below the root without the root."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()
