"""The documentation's page on reports runs as a reader would paste it."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aimwrap.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
SMALLER = {"digits95 --tie 0.95": "digits95 --tie 0.95 --num-images 16 --workers 0 -q", "--epochs 6": "--epochs 1 -q"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)
    assert "pictures, split test: 8 images" in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = "".join(blocks("sh")).replace("\\\n", " ")
    for given, smaller in SMALLER.items():
        assert given in commands
        commands = commands.replace(given, smaller)
    lines = [shlex.split(line) for line in commands.splitlines()]
    assert [line[:2] for line in lines] == [
        ["aimwrap", verb] for verb in ("data", "train", "train", "report", "report")
    ]
    for line in lines:
        found = CliRunner().invoke(app, line[1:])
        assert found.exit_code == 0, found.output
    assert (tmp_path / "report.html").is_file() and (tmp_path / "compared.json").is_file()
