"""What a verification finds, to read, to print and to look at in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .._text import table
from . import html


class Check(NamedTuple):
    """One guarantee.

    Attributes:
        name: what must hold.
        passed: whether it does.
        detail: what was found; where it fails, the leak and where to look for it.
    """

    name: str
    passed: bool
    detail: str


class Survival(NamedTuple):
    """How often a prediction survives when the pixels outside a region are replaced.

    Attributes:
        region: what is kept: ``"merged mask"``; of a second look ``"kept pixels"``; ``"moved mask"``, the control,
            which is the same shape elsewhere; or ``"plain CAM"``, as many pixels where the plain model's own class
            activation map is highest.
        filling: what replaces the rest: ``"mean colour"``, ``"blur"`` or ``"another image"``.
        masks: ``"fixed"`` (those of the whole image), ``"recomputed"`` (from what is left), ``"none"`` (plain model).
        rate: share of the images whose predicted class stays the same.
        low, high: its 95 % confidence interval (Wilson 1927).
        images: how many there were.
    """

    region: str
    filling: str
    masks: str
    rate: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found; ``print`` it.

    Attributes:
        checks: the guarantees.
        survival: the measurements; empty where they were not asked for or would mean nothing.
        area: mean area of the merged mask, or of a second look's kept pixels, which the regions share; NaN where it was
            not measured.
        note: why there are no measurements.
    """

    checks: tuple[Check, ...]
    survival: tuple[Survival, ...]
    area: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every guarantee holds."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The guarantees that do not hold."""
        return tuple(check for check in self.checks if not check.passed)

    def __str__(self) -> str:
        lines = [f"{'ok    ' if check.passed else 'FAILED'} {check.name}: {check.detail}" for check in self.checks]
        if self.survival:
            lines += ["", f"Prediction survives when only a region's pixels are left (area {self.area:.2f}):"]
            rows = []
            for region, filling, masks, rate, low, high, images in self.survival:
                interval = f"[{low:.3f}, {high:.3f}]"
                rows.append((region, filling, f"masks {masks}", f"{rate:.3f}", interval, f"of {images}"))
            lines.append(table(rows))
        if self.note:
            lines += ["", f"Pixels not measured: {self.note}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for check in self.checks:
            colour, word = ("inherit", "ok") if check.passed else ("#d33", "FAILED")
            rows.append((html.Markup(f'<b style="color:{colour}">{word}</b>'), check.name, check.detail))
        parts = [html.table(("", "guarantee", "found"), rows)]
        if self.survival:
            parts.append(html.line(f"Prediction survives when only a region's pixels are left (area {self.area:.2f}):"))
            measured = (
                (row.region, row.filling, row.masks, html.interval(row.rate, row.low, row.high), f"{row.images}")
                for row in self.survival
            )
            parts.append(html.table(("region", "filling", "masks", "survives, with 95 % interval", "images"), measured))
        if self.note:
            parts.append(html.line(f"Pixels not measured: {self.note}"))
        return html.block(*parts)
