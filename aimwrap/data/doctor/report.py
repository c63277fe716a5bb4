"""An examination as text for people: a table of the images, a line per check, the traps, what to run next."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from ..._text import table
from .findings import Check, Count, Examination, Mark

EXAMPLES = 10  # of a check's findings; --json has all
WIDTH = 110

Paint = Callable[[str, Mark], str]


def _plain(text: str, mark: Mark) -> str:
    return text


def report(examination: Examination, paint: Paint = _plain) -> str:
    """Lay an examination out.

    Args:
        examination: what was found.
        paint: colours a mark.

    Returns:
        The text; characters that a terminal would obey, which names of files may contain, are escaped.
    """
    blocks = [
        _head(examination),
        _table(examination),
        "\n".join(_check(check, paint) for check in examination.checks),
        _paragraphs("Known traps of this release", examination.notes),
        _verdict(examination, paint),
        "\n".join(["Next", *(f"  {printable(line)}" for line in examination.next_lines)])
        if examination.next_lines
        else "",
    ]
    return "\n\n".join(block for block in blocks if block)


def printable(text: str) -> str:
    r"""Escape what a terminal would obey or could not show.

    >>> print(printable("a\x1b[2Jb\udcff.jpg"))
    a\x1b[2Jb\udcff.jpg
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _head(examination: Examination) -> str:
    taken = f"{examination.release} in {examination.root}"
    return f"{printable(taken)}\n{_wrapped(f'Taken for it because {examination.reason}.', '  ')}"


def _table(examination: Examination) -> str:
    """Images by split and by group, or by label; in all alone where there are too many of them for a line."""
    rows = examination.counts
    if not rows:
        return ""
    header, *cells = _cells(examination, rows)
    whole = _aligned([header, *cells])
    if len(whole.partition("\n")[0]) <= WIDTH:
        return whole
    return _aligned([[row[0], row[-1]] for row in (header, *cells)])


def _cells(examination: Examination, rows: tuple[Count, ...]) -> list[list[str]]:
    grouped = all(row.groups is not None for row in rows)
    names = [f"{label}, {place}" for label in examination.classes for place in examination.places]
    header = ["", *map(printable, names if grouped else examination.classes), "all"]
    return [header] + [
        [row.split, *(f"{number:,}" for number in (row.groups if grouped else row.labels) or ()), f"{row.images:,}"]
        for row in rows
    ]


def _aligned(cells: list[list[str]]) -> str:
    return table(cells, "<>", "  ")


def _check(check: Check, paint: Paint) -> str:
    mark = "FAULT" if check.mark == "fault" else check.mark
    text = _wrapped(f"{check.name}: {check.summary}", " " * 11)
    lines = [f"  {paint(f'{mark:<7}', check.mark)}  {text.lstrip()}"]
    lines += [
        f"             {printable(subject)}: {printable(message)}" if message else f"             {printable(subject)}"
        for subject, message in check.findings[:EXAMPLES]
    ]
    if len(check.findings) > EXAMPLES:
        lines.append(f"             and {len(check.findings) - EXAMPLES:,} more (--json lists all)")
    return "\n".join(lines)


def _paragraphs(title: str, sentences: tuple[str, ...]) -> str:
    items = [f"  - {_wrapped(sentence, '    ').lstrip()}" for sentence in sentences]
    return "\n".join([title, *items]) if items else ""


def _verdict(examination: Examination, paint: Paint) -> str:
    faults, warnings = len(examination.faults), len(examination.warnings)
    if faults:
        text = f"{faults} {'check' if faults == 1 else 'checks'} found faults: mend them before training."
        return paint(text, "fault")
    if warnings:
        text = f"No faults; {warnings} {'check deserves' if warnings == 1 else 'checks deserve'} a look."
        return paint(text, "warning")
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
