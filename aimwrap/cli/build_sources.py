"""What ``aimwrap data build`` builds of, from its options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from ..data.builder import (
    Background,
    Cutout,
    Tying,
    backgrounds_in,
    backgrounds_of,
    cutouts_in,
    cutouts_of,
    relabelled,
    travelingbirds,
    waterbirds,
)
from ..data.builder import water_or_land as water_or_land_of
from ..data.cub import read_cub
from ..data.files import read_csv
from ..data.release import SPLITS


def chosen_tyings(
    permuted: bool, tie: float | None, num_images: Sequence[int | None], keep_label_shares: bool
) -> dict[str, Tying]:
    """What the backgrounds tell, by split; ``num_images`` are ``--train``, ``--val`` and ``--test``."""
    numbers = {split: number for split, number in zip(SPLITS, num_images, strict=True) if number is not None}
    if permuted:
        return travelingbirds(1.0 if tie is None else tie, num_images=numbers)
    return waterbirds(0.95 if tie is None else tie, num_images=numbers, keep_label_shares=keep_label_shares)


def chosen_cutouts(
    folder: Path | None, opacity: Path | None, cub: Path | None, labels: Path | None, by_water: bool
) -> list[Cutout]:
    """The cut-outs, each with its label."""
    if cub is not None and opacity is not None:
        raise typer.BadParameter("--opacity goes with --cutouts: --cub finds the segmentations in its folder or beside")
    if by_water and (cub is None or labels is not None):
        raise typer.BadParameter("--water-or-land goes with --cub, and without --labels, which says it otherwise")
    if cub is not None and folder is None:
        found = cutouts_of(read_cub(cub, object_masks=True))
    elif folder is not None and cub is None:
        found = cutouts_in(folder, opacity)
    else:
        raise typer.BadParameter("give either --cutouts or --cub")
    if by_water:
        return relabelled(found, {cutout.class_name: water_or_land_of(cutout.class_name) for cutout in found})
    if labels is None:
        return found
    return relabelled(found, _labels_by_class(labels))


def _labels_by_class(table: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in read_csv(table, ("class", "label"), "Name them so in its first line"):
        name, label = row.values["class"].strip(), row.values["label"].strip()
        if found.setdefault(name, label) != label:
            raise ValueError(
                f"{row.where}: class {name} has the label {label} here and {found[name]} above; remove one"
            )
    return found


def chosen_backgrounds(folder: Path | None, places: Sequence[str] | None) -> list[Background]:
    """The photographs, each with its place."""
    if (folder is None) == (not places):
        raise typer.BadParameter("give either --backgrounds or --place, the latter once for each folder")
    if folder is not None:
        return backgrounds_in(folder)
    folders: dict[str, list[Path | str]] = {}
    for text, path in folders_of(places).items():
        folders.setdefault(text.partition("=")[0], []).append(path)
    return backgrounds_of(folders)


def folders_of(places: Sequence[str] | None) -> dict[str, Path]:
    """Of ``--place``, by the whole text."""
    for text in places or ():
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise typer.BadParameter(f"--place must be NAME=FOLDER, such as water=places365/o/ocean, got {text!r}")
    return {text: Path(text.partition("=")[2]) for text in places or ()}


def check_outside(out: Path, folders: Sequence[Path | None]) -> None:
    """See that nothing is built among the sources."""
    for folder in folders:
        if folder is not None and (
            out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve())
        ):
            raise typer.BadParameter(
                f"{out} and {folder} lie in each other, so built images would be taken for sources"
            )
