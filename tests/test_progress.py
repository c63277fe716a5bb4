"""Progress in logs: few lines, or none."""

from __future__ import annotations

import io
import sys

import pytest

pytest.importorskip("tqdm")

from aimwrap import _text as progress
from aimwrap._text import with_progress


class Clock:
    """Goes on by so many seconds whenever it is looked at."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now


def lines(monkeypatch: pytest.MonkeyPatch, count: int, seconds: float, total: int | None = None) -> list[str]:
    """What is printed where the error output is a file, with so many seconds per batch."""
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    monkeypatch.setattr(progress, "time", Clock(seconds))
    batches = range(count) if total is None else iter(list(range(count)))
    assert list(with_progress(batches, "looking", total=total)) == list(range(count))
    assert "\r" not in log.getvalue()
    return log.getvalue().splitlines()


def test_logs_get_a_line_per_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lines(monkeypatch, 1000, 1.0)
    assert len(found) == 9 and found[0] == "looking: 10%, 100 of 1000, 101 s"


def test_and_no_more_than_one_in_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, 1000, 0.009) == []
    assert len(lines(monkeypatch, 1000, 0.03)) == 2  # thirty seconds in all


def test_where_the_number_is_not_known_lines_grow_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lines(monkeypatch, 1000, 1.0, total=-1)
    assert [line.split(",")[0] for line in found[:3]] == [
        "looking: 9 so far",
        "looking: 19 so far",
        "looking: 32 so far",
    ]
    assert len(found) == 7 and found[-1] == "looking: 512 so far, 513 s"


def test_terminals_and_notebooks_get_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(with_progress(range(3), "looking")) == [0, 1, 2]
    assert "looking: 100%" in terminal.getvalue() and "\r" in terminal.getvalue()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not progress._shows_bars()
    monkeypatch.setitem(sys.modules, "ipykernel", io)
    assert progress._shows_bars()
