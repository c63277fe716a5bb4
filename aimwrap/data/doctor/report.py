"""Results of the doctor: for programs (``as_dict``), for the shell (``exit_code``) and as text (``str``)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..._text import numbered, printable, table

EXAMPLES = 10  # of a check's findings; --json has all
WIDTH = 110

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
        mark: ``"ok"``; ``"warning"``, worth a look, but the set can be used; ``"fault"``.
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
        path: as given.
        kind: what it was recognised as, by its name for ``--as``.
        release: the release's full name.
        root: the folder that was examined.
        reason: why it was recognised as that.
        classes: names, by label; empty where the tables could not be read.
        places: names, by number of place; empty without places.
        counts: of each split.
        checks: that were made, in order.
        notes: common mistakes with this release, healthy or not.
        next_lines: what to run now.
        quick: whether only the files' headers were read.
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
        return report(self)


Paint = Callable[[str, Mark], str]


def report(examination: Examination, paint: Paint = lambda text, mark: text) -> str:
    """An examination as text."""
    taken = printable(f"{examination.release} in {examination.root}")
    notes = [f"  - {_wrapped(note, '    ').lstrip()}" for note in examination.notes]
    blocks = [
        f"{taken}\n{_wrapped(f'Recognised because {examination.reason}.', '  ')}",
        _table(examination),
        "\n".join(_check(check, paint) for check in examination.checks),
        "\n".join(["Known pitfalls of this release", *notes] if notes else []),
        _verdict(examination, paint),
        "\n".join(["Next", *(f"  {printable(line)}" for line in examination.next_lines)]),
    ]
    return "\n\n".join(block for block in blocks if block)


def _table(examination: Examination) -> str:
    """Images by split and by group, or by label; only their sum where a line would be too long."""
    rows = examination.counts
    if not rows:
        return ""
    grouped = all(row.groups is not None for row in rows)
    names = [f"{label}, {place}" for label in examination.classes for place in examination.places]
    header = ["", *map(printable, names if grouped else examination.classes), "all"]
    cells = [header] + [
        [row.split, *(f"{number:,}" for number in (row.groups if grouped else row.labels) or ()), f"{row.images:,}"]
        for row in rows
    ]
    complete = table(cells, "<>", "  ")
    if len(complete.partition("\n")[0]) <= WIDTH:
        return complete
    return table([[row[0], row[-1]] for row in cells], "<>", "  ")


def _check(check: Check, paint: Paint) -> str:
    mark = "FAULT" if check.mark == "fault" else check.mark
    text = _wrapped(f"{check.name}: {check.summary}", " " * 11)
    lines = [f"  {paint(f'{mark:<7}', check.mark)}  {text.lstrip()}"]
    for finding in check.findings[:EXAMPLES]:
        lines.append(f"             {': '.join(printable(part) for part in finding if part)}")
    if len(check.findings) > EXAMPLES:
        lines.append(f"             and {len(check.findings) - EXAMPLES:,} more (--json lists all)")
    return "\n".join(lines)


def _verdict(examination: Examination, paint: Paint) -> str:
    if faults := len(examination.faults):
        return paint(f"{numbered(faults, 'check')} found faults: fix them before training.", "fault")
    if warnings := len(examination.warnings):
        return paint(f"No faults; {numbered(warnings, 'check has a warning', 'checks have warnings')}.", "warning")
    return paint("Healthy.", "ok")


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        printable(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
