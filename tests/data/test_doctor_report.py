"""The report as text and for programs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from releases import cut_off, make_cub, make_waterbirds

pytest.importorskip("typer")
from typer.testing import CliRunner

from aimwrap.cli import app
from aimwrap.data.doctor import Check, Count, Examination, Finding, examine
from aimwrap.data.doctor.report import WIDTH, report

runner = CliRunner()


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("birds")
    make_cub(parent)
    return make_waterbirds(parent)


def an_examination(*checks: Check, classes: tuple[str, ...] = ("land bird", "water bird")) -> Examination:
    counts = (Count("train", 1200, (1000, 200), (900, 100, 50, 150)), Count("test", 4, (2, 2), (1, 1, 1, 1)))
    return Examination(
        Path("birds"),
        "waterbirds",
        "Waterbirds (95 %)",
        Path("data/birds"),
        "metadata.csv has the columns img_id and y",
        classes,
        ("land", "water"),
        counts,
        checks,
        ("A trap that is known.",),
        ("aimwrap inspect convnext_tiny",),
        False,
    )


def test_a_report_reads_downward() -> None:
    fault = Check("readable", "fault", "2 of 9 files cannot be read", (Finding("a.jpg", "is not complete"),) * 2)
    text = str(an_examination(Check("counts", "ok", "9 images"), fault))
    assert text == (
        """Waterbirds (95 %) in data/birds
  Recognised because metadata.csv has the columns img_id and y.

         land bird, land  land bird, water  water bird, land  water bird, water    all
  train              900               100                50                150  1,200
  test                 1                 1                 1                  1      4

  ok       counts: 9 images
  FAULT    readable: 2 of 9 files cannot be read
             a.jpg: is not complete
             a.jpg: is not complete

Known pitfalls of this release
  - A trap that is known.

1 check found faults: fix them before training.

Next
  aimwrap inspect convnext_tiny"""
    )


def test_the_last_line_says_how_it_is() -> None:
    for mark, words in (
        ("ok", "Healthy."),
        ("warning", "No faults; 1 check has a warning."),
        ("fault", "fix them"),
    ):
        found = an_examination(Check("boxes", mark, "text"))  # type: ignore[arg-type]
        assert words in str(found)
        assert found.exit_code == int(mark == "fault")


def test_ten_examples_and_how_many_more() -> None:
    many = Check("images", "fault", "133 are missing", tuple(Finding(f"{n:03d}.jpg", "missing") for n in range(133)))
    lines = str(an_examination(many)).splitlines()
    assert [line.strip() for line in lines if "jpg" in line] == [f"{n:03d}.jpg: missing" for n in range(10)]
    assert "             and 123 more (--json lists all)" in lines
    assert len(an_examination(many).as_dict()["checks"][0]["findings"]) == 133


def test_names_cannot_command_the_terminal() -> None:
    odd = Finding("evil\x1b[2J\r\n\u202e\udcff.jpg", "named\x07")
    text = str(an_examination(Check("other files", "warning", "x", (odd,)), classes=("a\x1b", "b")))
    assert "\x1b" not in text and "\r" not in text and "\u202e" not in text
    assert r"evil\x1b[2J\r\n\u202e\udcff.jpg: named\x07" in text
    text.encode()  # no lone surrogate


def test_lines_fit_a_terminal_and_wide_tables_are_cut() -> None:
    long = an_examination(Check("counts", "ok", "word " * 60), classes=("a" * 40, "b" * 40))
    assert max(map(len, str(long).splitlines())) <= WIDTH
    assert "  train  1,200" in str(long).splitlines()


def test_marks_are_painted() -> None:
    text = report(an_examination(Check("counts", "ok", "fine")), lambda text, mark: f"<{mark}>{text}</>")
    assert "  <ok>ok     </>  counts: fine" in text and "<ok>Healthy.</>" in text


def test_json_keeps_its_shape(birds: Path) -> None:
    """What programs rely on: changing it needs another version number."""
    result = runner.invoke(app, ["data", "doctor", str(birds), "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert list(found) == (
        [
            "version",
            "path",
            "kind",
            "release",
            "root",
            "reason",
            "classes",
            "places",
            "counts",
            "checks",
            "notes",
            "next_lines",
            "quick",
            "healthy",
        ]
    )
    assert found["version"] == 1 and found["kind"] == "waterbirds" and found["healthy"] is False
    assert found["counts"][0] == {"split": "train", "images": 24, "labels": [4, 20], "groups": [3, 1, 5, 15]}
    assert all(list(check) == ["name", "mark", "summary", "findings"] for check in found["checks"])
    assert [check["name"] for check in found["checks"]] == [
        "tables", "counts", "labels", "groups", "images", "object masks", "other files", "readable", "sizes",
        "mask contents", "boxes", "duplicates",
    ]  # fmt: skip
    assert found["checks"][1]["findings"][0] == {
        "subject": "train",
        "message": "24 images, and the official release has 4,795",
    }


def test_exit_codes(birds: Path, tmp_path: Path) -> None:
    healthy = runner.invoke(app, ["data", "doctor", str(birds), "--subset", "--workers", "1"])
    assert healthy.exit_code == 0 and "Healthy." in healthy.stdout
    parts = runner.invoke(app, ["data", "doctor", str(birds)])
    assert parts.exit_code == 1 and "FAULT    counts" in parts.stdout
    assert parts.stdout.rstrip().splitlines()[-1].startswith("  aimwrap data doctor ")
    for code, arguments in (
        (1, [str(tmp_path)]),
        (1, [str(tmp_path / "none")]),
        (2, [str(birds), "--as", "no"]),
        (2, [str(birds), "--workers", "0"]),
    ):
        result = runner.invoke(app, ["data", "doctor", *arguments])
        assert result.exit_code == code and result.stdout == "" and "Traceback" not in result.stderr and result.stderr
    unknown = runner.invoke(app, ["data", "doctor", str(tmp_path), "--json"])
    assert unknown.exit_code == 1
    assert list(json.loads(unknown.stdout)) == ["version", "path", "error"]


def test_options_reach_the_doctor(tmp_path: Path) -> None:
    home = make_waterbirds(tmp_path / "birds")
    make_cub(tmp_path / "elsewhere")
    cut_off(next(home.rglob("*.jpg")), share=0.95)
    options = ["--subset", "--quick", "--as", "waterbirds", "--cub", str(tmp_path / "elsewhere"), "--json"]
    found = json.loads(runner.invoke(app, ["data", "doctor", str(home), *options]).stdout)
    assert found["healthy"] and found["quick"]
    marks = {check["name"]: check["mark"] for check in found["checks"]}
    assert marks["object masks"] == "ok" and "boxes" in marks


def test_the_next_lines_run(birds: Path) -> None:
    result = runner.invoke(app, ["data", "doctor", str(birds), "--subset", "--json"])
    inspect, python = json.loads(result.stdout)["next_lines"]
    assert inspect.startswith("aimwrap inspect ")
    code = python.removeprefix("python -c '").removesuffix("'")
    names: dict[str, object] = {}
    exec(code, names)
    assert len(names["train"]) == 24  # type: ignore[arg-type]


def test_the_command_to_repeat_keeps_its_options(birds: Path, tmp_path: Path) -> None:
    home = make_waterbirds(tmp_path, name="my birds")
    (home / "001.Black_footed_Albatross").rename(tmp_path / "away")
    arguments = ["--as", "waterbirds", "--cub", str(birds.parent / "CUB_200_2011"), "--subset", "--quick"]
    (again,) = examine(home, "waterbirds", cub=birds.parent / "CUB_200_2011", official=False, quick=True).next_lines
    assert shlex.split(again, comments=True) == ["aimwrap", "data", "doctor", str(home), *arguments]
    (home / "metadata.csv").write_text("damaged")
    (again,) = examine(home, "waterbirds", cub=birds.parent / "CUB_200_2011", official=False, quick=True).next_lines
    assert shlex.split(again, comments=True) == ["aimwrap", "data", "doctor", str(home), *arguments]


def test_names_of_folders_do_not_reach_the_terminal_as_orders(tmp_path: Path) -> None:
    for name in ("a\x1b[2J", "b c"):
        make_waterbirds(tmp_path, name=f"set {name}", pictures=False)
    result = runner.invoke(app, ["data", "doctor", str(tmp_path)])
    assert result.exit_code == 1 and "\x1b" not in result.stderr
    commands = [shlex.split(line, comments=True) for line in result.stderr.splitlines()[1:]]
    assert [len(command) for command in commands] == [4, 4], "a path with a space is one word"
    found = runner.invoke(app, ["data", "doctor", str(tmp_path / "set a\x1b[2J"), "--subset"])
    assert "Next" in found.stdout and "\x1b" not in found.stdout
