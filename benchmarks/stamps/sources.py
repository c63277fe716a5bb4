"""The files of Stamps: which cut-outs and photographs, from which Debian packages, and what they must contain.

The lists are ``cutouts.csv`` and ``photographs.csv`` next to this file; we looked at every image in them.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
DOWNLOADS = HERE / "downloads"
LABELS = ("bird", "mammal")
PLACES = ("water or sky", "land or plants")
# Packages and the versions (Debian 12) that the checksums were taken from.
PACKAGES = {
    "tuxpaint-stamps-default": "2022.06.04-1",
    "tuxpaint-data": "1:0.9.28-sdl2-1",
    "mate-backgrounds": "1.26.0-1",
    "lomiri-wallpapers-16.04": "20.04.0-2",
    "plasma-workspace-wallpapers": "4:5.27.5-2",
}


class Cutout(NamedTuple):
    """An animal with its alpha channel.

    Attributes:
        label: 0 bird, 1 mammal.
        animal: the same name where two cut-outs show the same animal; these are never split between training and test.
        package: the Debian package.
        path: inside the package.
        sha256: of the file.
    """

    label: int
    animal: str
    package: str
    path: str
    sha256: str


class Photograph(NamedTuple):
    """A background.

    Attributes:
        place: 0 water or sky, 1 land or plants.
        package: the Debian package.
        path: inside the package.
        sha256: of the file.
        part: what is used of it, (left, top, right, bottom) as shares of its width and height.
    """

    place: int
    package: str
    path: str
    sha256: str
    part: tuple[float, float, float, float]


class Sources(NamedTuple):
    cutouts: list[Cutout]
    photographs: list[Photograph]

    def files(self) -> Iterator[Cutout | Photograph]:
        yield from self.cutouts
        yield from self.photographs


def read_sources(folder: Path = HERE) -> Sources:
    """Read the two lists."""
    with (folder / "cutouts.csv").open(newline="", encoding="utf-8") as file:
        cutouts = [
            Cutout(LABELS.index(row["label"]), row["animal"], row["package"], row["path"], row["sha256"])
            for row in csv.DictReader(file)
        ]
    with (folder / "photographs.csv").open(newline="", encoding="utf-8") as file:
        photographs = [
            Photograph(
                PLACES.index(row["place"]),
                row["package"],
                row["path"],
                row["sha256"],
                (float(row["left"]), float(row["top"]), float(row["right"]), float(row["bottom"])),
            )
            for row in csv.DictReader(file)
        ]
    return Sources(cutouts, photographs)


def path_of(source: Cutout | Photograph, folder: Path) -> Path:
    """Where ``fetch.py`` puts a file."""
    return folder / source.package / source.path


def faults(sources: Sources, folder: Path) -> list[str]:
    """What is missing or differs, a line for each file; empty if all is well."""
    found = []
    for source in sources.files():
        path = path_of(source, folder)
        if not path.is_file():
            found.append(f"missing: {source.package}: {source.path}")
        elif (sha256 := hashlib.sha256(path.read_bytes()).hexdigest()) != source.sha256:
            found.append(f"differs: {source.package}: {source.path} (SHA-256 {sha256[:12]}, not {source.sha256[:12]})")
    return found


def check_files(sources: Sources, folder: Path) -> None:
    """Make sure that every file is there and is the one that the lists mean.

    Raises:
        FileNotFoundError: if any is missing, with the command that fetches it.
        ValueError: if any differs.
    """
    found = faults(sources, folder)
    if not found:
        return
    total = len(sources.cutouts) + len(sources.photographs)
    lines = "\n  ".join(found[:5] + ([f"and {len(found) - 5} more"] if len(found) > 5 else []))
    message = f"folder must hold the {total} files of the lists as they were, but in {folder}\n  {lines}\n"
    if any(line.startswith("missing") for line in found):
        raise FileNotFoundError(f"{message}Fetch them: python benchmarks/stamps/fetch.py --to {folder}")
    raise ValueError(
        f"{message}Fetch them again: python benchmarks/stamps/fetch.py --to {folder}. Other files give other images, "
        "and results that cannot be compared."
    )
