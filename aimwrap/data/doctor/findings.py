"""What the doctor found, for people (``str``), for programs (``as_dict``) and for the shell (``exit_code``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

Mark = Literal["ok", "warning", "fault"]


class Finding(NamedTuple):
    """One thing that is not as it should be.

    Attributes:
        subject: what it is about: a file's path, a split or a group.
        message: what is wrong with it.
    """

    subject: str
    message: str


class Check(NamedTuple):
    """One question that the doctor asked.

    Attributes:
        name: of the check.
        mark: ``"ok"``; ``"warning"``, where people should look, but the set can be used; ``"fault"``.
        summary: the answer as a sentence.
        findings: all that was found, each with its file.
    """

    name: str
    mark: Mark
    summary: str
    findings: tuple[Finding, ...] = ()


class Count(NamedTuple):
    """How many images a split has.

    Attributes:
        split: its name.
        images: in all.
        labels: by label.
        groups: by group, see :func:`aimwrap.data.group_number`; None where places are not known.
    """

    split: str
    images: int
    labels: tuple[int, ...]
    groups: tuple[int, ...] | None


class Examination(NamedTuple):
    """What the doctor found; ``print`` shows it.

    Attributes:
        path: that was asked about.
        kind: what it was taken for, as ``--as`` names it.
        release: the same for people.
        root: the folder that was examined.
        reason: why it was taken for that.
        classes: names, by label; empty where the tables could not be read.
        places: names, by number of place; empty without places.
        counts: of each split.
        checks: that were made, in order.
        notes: what trips people up with this release, healthy or not.
        next_lines: what to run now.
        quick: whether files were opened for their headers alone.
    """

    path: Path
    kind: str
    release: str
    root: Path
    reason: str
    classes: tuple[str, ...]
    places: tuple[str, ...]
    counts: tuple[Count, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    next_lines: tuple[str, ...]
    quick: bool

    @property
    def faults(self) -> tuple[Check, ...]:
        """The checks that found faults."""
        return tuple(check for check in self.checks if check.mark == "fault")

    @property
    def warnings(self) -> tuple[Check, ...]:
        """The checks that found something to look at."""
        return tuple(check for check in self.checks if check.mark == "warning")

    @property
    def healthy(self) -> bool:
        """Whether there is no fault; warnings do not count."""
        return not self.faults

    @property
    def exit_code(self) -> int:
        """0 if it is healthy, else 1."""
        return 0 if self.healthy else 1

    def as_dict(self) -> dict[str, Any]:
        """All of it in plain types, for JSON; every finding is there, not only the first."""
        return {
            "version": 1,
            **self._asdict(),
            "path": str(self.path),
            "root": str(self.root),
            "healthy": self.healthy,
            "counts": [count._asdict() for count in self.counts],
            "checks": [
                {**check._asdict(), "findings": [finding._asdict() for finding in check.findings]}
                for check in self.checks
            ],
        }

    def __str__(self) -> str:
        from .report import report

        return report(self)
