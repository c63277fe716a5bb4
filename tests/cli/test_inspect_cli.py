"""``aimwrap inspect`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from aimwrap.cli import app

runner = CliRunner()


def test_text_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    result = runner.invoke(app, ["inspect", "zoo:TinyNet", "--head", "paper", "--image-size", "32", "--json"])
    found = json.loads(result.stdout)
    assert found["name"] == "zoo:TinyNet" and found["image_shape"] == [3, 32, 32] and found["head"] == "paper"
    known = SimpleNamespace(as_dict=dict)
    monkeypatch.setattr("aimwrap.backbones.inspection.inspect_backbone", lambda *given, **options: known)
    result = runner.invoke(app, ["inspect", "zoo:TinyNet"])
    assert result.exit_code == 0 and result.stdout == f"{known}\n"


def test_what_is_no_backbone_is_refused() -> None:
    result = runner.invoke(app, ["inspect", "resnet1800"])
    assert result.exit_code == 1 and "did you mean resnet" in result.stderr and not result.stdout
    result = runner.invoke(app, ["inspect", "zoo:Missing", "--json"])
    assert result.exit_code == 1 and list(json.loads(result.stdout)) == ["name", "error"]
    assert runner.invoke(app, ["inspect", "zoo:TinyNet", "--head", "best"]).exit_code == 2
    assert runner.invoke(app, ["inspect"]).exit_code == 2
    assert runner.invoke(app, ["inspect", "zoo:TinyNet", "--channels", "1"]).exit_code == 2


def test_code_of_one_s_own_may_raise_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_that_breaks.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / "net_that_lacks.py").write_text("def build(width): ...\ndef broken(): raise KeyError('width')")
    for name, message in (
        ("net_that_breaks:build", "cannot be imported: RuntimeError('no licence')"),
        ("net_that_lacks:build", "calling it without arguments fails: TypeError"),
        ("net_that_lacks:broken", "calling it without arguments fails: KeyError('width')"),
    ):
        result = runner.invoke(app, ["inspect", name])
        assert result.exit_code == 1 and message in result.stderr


def test_errors_of_inspect_name_the_options() -> None:
    result = runner.invoke(app, ["inspect", "resnet10t", "--channels", "4", "--image-size", "64"])
    assert result.exit_code == 1
    assert result.output.strip().endswith("aimwrap inspect has --channels, too, and other commands need three.")
