"""Reading built data sets, complete and broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builder_sources import make_backgrounds, make_cutouts

from aimwrap.data import Built, examine, read_built
from aimwrap.data.builder import Placed, backgrounds_in, build, cutouts_in, waterbirds


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    cutouts, backgrounds = cutouts_in(make_cutouts(folder / "c")), backgrounds_in(make_backgrounds(folder / "b"))
    build(folder / "set", cutouts, backgrounds, waterbirds(0.75), style=Placed(image_size=16), progress=False)
    return folder / "set"


def lines(root: Path, change: Callable[[list[str]], list[str]]) -> None:
    table = root / "metadata.csv"
    table.write_text("".join(f"{line}\n" for line in change(table.read_text().splitlines())))


def again(number: str, split: str) -> Callable[[list[str]], list[str]]:
    """The first row a second time, with another number and in another split."""

    def change(rows: list[str]) -> list[str]:
        values = rows[1].split(",")
        return [*rows, ",".join([number, values[1], values[2], split, *values[4:]])]

    return change


def manifest(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "build.json").write_text(text) and None


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "in two splits": (lambda root: lines(root, again("9999", "2")), r"is there twice\. Build the set again"),
    "one id twice": (lambda root: lines(root, lambda rows: [*rows[:2], rows[1][:2] + rows[2][2:]]), "is there twice"),
    "a hidden repetition": (
        lambda root: lines(root, lambda rows: [*rows, rows[1].replace("1,", "9999,", 1).replace("/", "/./", 1)]),
        "is there twice",
    ),
    "no images": (lambda root: lines(root, lambda rows: rows[:1]), "has a header and no images"),
    "no such class": (
        manifest('{"classes": ["cat"], "places": ["beach", "forest"]}'),
        "y must be an integer from 0 to 0",
    ),
    "names as one text": (manifest('{"classes": "ab", "places": "cd"}'), "must list the names of classes and places"),
    "no names": (manifest("[]"), "must list the names of classes and places"),
    "no JSON": (manifest("{"), "build.json is not JSON"),
    "too deep": (manifest("[" * 100_000), "build.json is not JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sets_are_refused(built: Path, tmp_path: Path, name: str) -> None:
    spoil, message = BROKEN[name]
    root = tmp_path / "set"
    shutil.copytree(built, root)
    spoil(root)
    with pytest.raises(ValueError, match=message):
        read_built(root)
    assert examine(root).checks[0].mark == "fault"


def test_dots_and_the_home_folder(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built)
    assert Built(".", "test").release.name == "the set in set"
    monkeypatch.setenv("HOME", str(built.parent))
    assert Built("~/set", "test").records == Built(".", "test").records
