"""What a built set holds, for programs and for people."""

from __future__ import annotations

from typing import Any

from ..data.release import SPLITS, Release


def summary(release: Release) -> dict[str, Any]:
    """A built set's groups by split, for ``--json``."""
    groups: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        records = [record for record in release.records if record.split == split]
        if records:
            pairs = [(label, place) for label in range(len(release.classes)) for place in range(len(release.places))]
            counts = {pair: 0 for pair in pairs}
            for record in records:
                assert record.place is not None
                counts[record.label, record.place] += 1
            groups[split] = {
                f"{release.classes[label]} on {release.places[place]}": count
                for (label, place), count in counts.items()
                if count or len(pairs) <= 16
            }
    return {
        "out": str(release.root),
        "num_images": len(release.records),
        "classes": list(release.classes),
        "places": list(release.places),
        "groups": groups,
    }


def format_summary(release: Release) -> str:
    """A built set's groups by split, for people."""
    found = summary(release)
    lines = [f"{found['num_images']} images in {release.root}"]
    for split, groups in found["groups"].items():
        shown = [f"{name} {count}" for name, count in list(groups.items())[:8]]
        more = [f"and {len(groups) - 8} more groups"] if len(groups) > 8 else []
        lines.append(f"  {split}, {sum(groups.values())}: {', '.join([*shown, *more])}")
    lines.append(f'Read it with aimwrap.data.Built("{release.root}", "train").')
    return "\n".join(lines)
