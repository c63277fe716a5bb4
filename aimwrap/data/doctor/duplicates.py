"""The same content in two splits, or under two labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..release import Record, Release
from .examination import Check, Finding, Mark
from .files_there import shown
from .listing import Listing
from .scan import Look


def worth_a_digest(paths: Sequence[Path], listing: Listing) -> list[bool]:
    """For each file whether another has as many bytes: files of different sizes differ."""
    sizes = [listing.size(path) for path in paths]
    times = Counter(sizes)
    return [times[size] > 1 for size in sizes]


def check_duplicates(release: Release, images: Mapping[Path, Look], mark: Mark) -> Check:
    """Whether a file's content comes again in another split, where it is trained on and tested, or under another label.

    Args:
        release: that is examined.
        images: what was seen of each, with digests.
        mark: what such a pair is: a fault or, where the release itself has some, a warning.
    """
    same: dict[str, list[Record]] = defaultdict(list)
    for record in release.records:
        look = images.get(record.path)
        if look is not None and look.digest is not None:
            same[look.digest].append(record)
    findings = [_finding(records, release) for records in same.values() if _is_a_leak(records)]
    if not findings:
        return Check("duplicates", "ok", "no file's content lies in two splits or under two labels")
    contents = "content lies" if len(findings) == 1 else "contents lie"
    return Check(
        "duplicates",
        mark,
        f"{len(findings):,} {contents} in two splits or under two labels: scores on them are not scores on new images",
        tuple(findings),
    )


def _is_a_leak(records: Sequence[Record]) -> bool:
    kinds = {(record.split, record.label) for record in records}
    return len(kinds) > 1 and len({record.path for record in records}) > 1


def _finding(records: Sequence[Record], release: Release) -> Finding:
    first, *others = (
        f"{shown(record.path, release.root)} ({record.split}, {_label(record, release)})" for record in records
    )
    return Finding(first, "the same as " + " and ".join(others))


def _label(record: Record, release: Release) -> str:
    return release.classes[record.label] if record.label < len(release.classes) else str(record.label)
