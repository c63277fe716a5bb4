"""The complete command line: help, version, exit codes, completion, and how commands end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

import aimwrap
from aimwrap.cli import app, main

runner = CliRunner()
COMMANDS = ("demo", "inspect", "data digits", "data doctor", "data build", "train", "report", "masks", "export")
ENTRY = "import sys; sys.argv[0] = 'aimwrap'; from aimwrap.cli import main; main()"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, whose output is a pipe."""
    return subprocess.run(
        [sys.executable, "-c", ENTRY, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_help_is_shown_where_no_command_is_given() -> None:
    alone, asked = runner.invoke(app, []), runner.invoke(app, ["--help"])
    assert alone.exit_code == asked.exit_code == 0 and alone.stdout == asked.stdout and not alone.stderr
    data = runner.invoke(app, ["data"])
    assert data.exit_code == 0 and "doctor" in data.stdout


def test_help_has_the_commands_in_the_order_of_their_use() -> None:
    text = runner.invoke(app, ["--help"]).stdout
    places = [text.index(f"│ {name} ") for name in ("demo", "inspect", "data", "train", "report", "masks", "export")]
    assert places == sorted(places)
    assert text.index("Before training") < text.index("─ Training") < text.index("With a trained model")
    for line in (
        "aimwrap data digits digits95",
        "aimwrap train built digits95",
        "aimwrap export runs/try/seed-0/model",
    ):
        assert line in text
    assert "Documentation: " in text and "130  interrupted" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_and_exit_codes(name: str) -> None:
    text = runner.invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"}).stdout
    assert f"   aimwrap {name}" in text.partition("Examples:")[2]
    assert [line[3] for line in text.partition("Exit codes:\n")[2].splitlines()[:3]] == ["0", "1", "2"]
    assert "--json" in text and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", ["train", "report"])
def test_commands_for_one_class_per_image_say_so(name: str) -> None:
    text = runner.invoke(app, [name, "--help"], env={"COLUMNS": "80"}).stdout
    assert "Each image has exactly one class." in text


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_usage_is_exit_code_2_and_leaves_the_output_empty(name: str) -> None:
    result = runner.invoke(app, [*name.split(), "--jsno"])
    assert result.exit_code == 2 and not result.stdout and "--json" in result.stderr  # the near one is suggested


def test_near_commands_are_suggested() -> None:
    result = runner.invoke(app, ["trian"])  # codespell:ignore trian
    assert result.exit_code == 2 and "Did you mean 'train'?" in result.stderr


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0 and result.stdout == f"aimwrap {aimwrap.__version__}\n"


def test_help_and_completion_do_not_import_torch() -> None:
    script = "import sys, aimwrap.cli; sys.exit(any(name in sys.modules for name in ('torch', 'timm', 'lightning')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_help_in_a_pipe_has_no_colours_and_complete_boxes() -> None:
    piped = command("train", "--help", COLUMNS="80", GITHUB_ACTIONS="", FORCE_COLOR="", PY_COLORS="")
    lines = piped.stdout.splitlines()
    assert "\x1b" not in piped.stdout and not piped.stderr
    assert {line[-1] for line in lines if line.startswith("│")} == {"│"}
    assert {len(line) for line in lines if line[:1] in {"│", "╭", "╰"}} == {80}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("aimwrap ex", ["export"]),
        ("aimwrap inspect resnet10t", ["resnet10t"]),
        ("aimwrap inspect torchvision/convnext_t", ["torchvision/convnext_tiny"]),
        ("aimwrap train hard", ["hard-imagenet"]),
        ("aimwrap train cub x --preset ours-f", ["ours-frozen"]),
        ("aimwrap train cub x --frozen no", ["nothing", "norm-statistics"]),
        ("aimwrap data doctor x --as trav", ["traveling-birds"]),
        ("aimwrap export x --format ao", ["aotinductor"]),
    ],
)
def test_completion(words: str, expected: list[str]) -> None:
    environment = {"_AIMWRAP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    result = runner.invoke(app, [], env=environment, prog_name="aimwrap")
    assert result.stdout.split() == expected


def test_a_closed_pipe_is_no_error() -> None:
    first = f'{sys.executable} -c "{ENTRY}" train --help | head -n 1'
    found = subprocess.run(first, shell=True, capture_output=True, text=True, check=False)
    assert found.returncode == 0 and not found.stderr


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*arguments: object, **options: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr("aimwrap.data.builder.build", interrupted)
    monkeypatch.setattr("aimwrap.data.builder.cutouts_in", lambda *arguments: [])
    monkeypatch.setattr("aimwrap.data.builder.backgrounds_in", lambda *arguments: [])
    result = runner.invoke(app, ["data", "build", str(tmp_path / "out"), "--cutouts", "a", "--backgrounds", "b"])
    assert result.exit_code == 130 and not result.stdout
    assert "Run the same command again: it keeps the finished images" in result.stderr
    monkeypatch.setattr("aimwrap.backbones.inspection.inspect_backbone", interrupted)
    result = runner.invoke(app, ["inspect", "resnet18"])
    assert result.exit_code == 130 and "Interrupted." in result.stderr


def test_entry_point(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["aimwrap", "--help"])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 0 and "demo" in capsys.readouterr().out
