"""The doctor on sets that the builder wrote, of which it knows what was asked for."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from builder_sources import make_backgrounds, make_cutouts

from aimwrap.data.builder import Placed, backgrounds_in, build, cutouts_in, travelingbirds, waterbirds
from aimwrap.data.doctor import Examination, examine


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    cutouts, backgrounds = cutouts_in(make_cutouts(folder / "c")), backgrounds_in(make_backgrounds(folder / "b"))
    style = Placed(image_size=48)
    for name, tyings in (("tied", waterbirds(0.75)), ("shifted", travelingbirds())):
        build(folder / name, cutouts, backgrounds, tyings, style=style, progress=False)
    return folder


def faults(found: Examination) -> dict[str, str]:
    return {
        check.name: f"{check.findings[0].subject}: {check.findings[0].message}" if check.findings else check.summary
        for check in found.checks
        if check.mark != "ok"
    }


def test_built_sets_are_healthy_and_have_their_tie(built: Path) -> None:
    found = examine(built / "tied")
    assert faults(found) == {}
    assert found.kind == "built"
    assert found.checks[1].summary.endswith("as build.json has them")
    assert faults(examine(built / "shifted")) == {}


@pytest.mark.parametrize(
    ("pattern", "new", "named"),
    [
        (r"(train_00000.jpg,1,0),1", r"\1,0", "train, dog on beach: "),
        (r"(val_00000.jpg,\d),1,", r"\1,2,", "val: "),
    ],
)
def test_a_changed_table_is_found(built: Path, tmp_path: Path, pattern: str, new: str, named: str) -> None:
    home = Path(shutil.copytree(built / "tied", tmp_path / "tied"))
    text, number = re.subn(pattern, new, (home / "metadata.csv").read_text(), count=1)
    assert number == 1
    (home / "metadata.csv").write_text(text)
    assert faults(examine(home))["counts"].startswith(named)


def test_a_build_that_was_killed_is_reported(built: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(built / "tied", tmp_path / "tied"))
    (home / "metadata.csv").unlink()
    assert "Run the same command again to continue" in faults(examine(home))["tables"]


def test_a_manifest_that_was_edited_is_no_accident_of_the_doctor(built: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(built / "tied", tmp_path / "tied"))
    for manifest in ("{", "[]", '{"classes": ["cat", "dog"], "places": ["beach", "forest"], "tyings": 3}'):
        (home / "build.json").write_text(manifest)
        assert examine(home).exit_code in (0, 1)
