"""Masks off tau made two long lines per epoch."""

from pathlib import Path
from typing import Any

import pytest

from aimwrap.cli import train

FINDING = "the mask of stage {} is off tau (area 0.48 in evaluation, tau 0.1): train longer, for some reason or other"


def test_a_remedy_is_printed_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run_training(settings: Any, folder: Path, fabric: Any, report: Any, **more: Any) -> None:
        for _ in range(2):
            report({"mask_findings": [FINDING.format(2), FINDING.format(3)]}, 1.0)

    monkeypatch.setattr("aimwrap.train.run_training", run_training)
    monkeypatch.setattr("aimwrap.train.report.format_epoch", lambda line, seconds: "epoch")
    settings = train.settings_of(None, {"data": "folder", "root": "data/mine"})
    train._run(settings, Path("runs"), None, False, {})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"  warning: {FINDING.format(2)}"
    short = [f"  warning: {FINDING.format(stage).partition(':')[0]}" for stage in (3, 2, 3)]
    assert lines[1:] == short
