"""``aimwrap demo`` on the command line, with the training replaced by prepared scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from aimwrap import demo
from aimwrap.cli import app
from aimwrap.demo import Run, Scores, Settings

runner = CliRunner()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Replace the training; gives what it was called with."""
    seen: dict[str, object] = {}

    def run(
        ties: Sequence[float], seeds: Sequence[int], settings: Settings, output: Path, heads: Sequence[str]
    ) -> list[Run]:
        seen.update(ties=ties, seeds=seeds, settings=settings, output=output, heads=heads)
        return [Run(tie, seed, "AIM", Scores(0.9, 0.8, 0.7, 0.6, 0.25, 1.0), 0.1) for tie in ties for seed in seeds]

    monkeypatch.setattr(demo, "run_demo", run)
    return seen


def test_defaults(asked: dict[str, object]) -> None:
    result = runner.invoke(app, ["demo"])
    assert result.exit_code == 0, result.output
    assert asked["ties"] == [0.95, 1.0] and asked["seeds"] == [0] and asked["output"] == Path("demo.png")
    assert asked["heads"] == ["feature-preserving"]
    assert asked["settings"] == Settings()
    assert "0.900" in result.output and "demo.png" in result.output


def test_options(asked: dict[str, object]) -> None:
    arguments = [
        "demo",
        "--seeds",
        "3",
        "--ties",
        "1",
        "--epochs",
        "2",
        "--tau",
        "0.1",
        "--out",
        "out.png",
        "--json",
    ]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert asked["seeds"] == [0, 1, 2] and asked["ties"] == [1.0] and asked["output"] == Path("out.png")
    assert asked["settings"] == Settings(epochs=2, tau=0.1, quiet=True)
    scores = json.loads(result.output)
    assert [run["seed"] for run in scores] == [0, 1, 2] and scores[0]["scores"]["accuracy"] == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seeds none", "--seeds must be a count"),
        ("--seeds 0", "--seeds must be a count"),
        ("--ties 95", "--ties must be shares"),
        ("--epochs 0", "epochs"),
        ("--heads feature", "--heads must be among feature-preserving, paper"),
    ],
)
def test_errors(asked: dict[str, object], arguments: str, message: str) -> None:
    result = runner.invoke(app, ["demo", *arguments.split()])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not asked


def test_the_image_s_path_is_checked_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path, "output must be an image file that ends in one of ."),
        (tmp_path / "demo.gif2", "ends in '.gif2'"),
        (tmp_path / "file" / "demo.png", "use another path"),
    ):
        result = runner.invoke(app, ["demo", "--out", str(path)])
        assert result.exit_code == 1 and message in result.stderr and not result.stdout


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ImportError('the demo needs something: pip install "aimwrap[demo]"')

    monkeypatch.setattr(demo, "run_demo", fail)
    result = runner.invoke(app, ["demo"])
    assert result.exit_code == 1 and "aimwrap[demo]" in result.stderr
