"""``aimwrap data build`` on the command line."""

# ruff: noqa: B008  # typer makes the options of the defaults
from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._choices import FileFormat, Placement
from .options import AsJson, Quiet, Workers, listed, options_in
from .outcomes import closing, exit_on_error, exit_on_interrupt, print_result

if TYPE_CHECKING:
    from ..data.builder import Background, Cutout
    from ..data.release import Release


def print_summary(as_json: bool, release: Release) -> None:
    """Print a built set's groups by split."""
    from ..data.doctor.checks import count, group_names

    names = group_names(release)
    groups = {
        row.split: {
            name: number for name, number in zip(names, row.groups or (), strict=True) if number or len(names) <= 16
        }
        for row in count(release)
    }
    lines = [f"{len(release.records)} images in {release.root}"]
    for split, numbers in groups.items():
        shown = [f"{name} {number}" for name, number in list(numbers.items())[:8]]
        more = [f"and {len(numbers) - 8} more groups"] if len(numbers) > 8 else []
        lines.append(f"  {split}, {sum(numbers.values())}: {', '.join([*shown, *more])}")
    lines.append(f'Read it with aimwrap.data.Built("{release.root}", "train").')
    found = {
        "out": str(release.root),
        "num_images": len(release.records),
        "classes": list(release.classes),
        "places": list(release.places),
        "groups": groups,
    }
    print_result(as_json, found, "\n".join(lines))


def chosen_cutouts(
    folder: Path | None, opacity: Path | None, cub: Path | None, labels: Path | None, by_water: bool
) -> list[Cutout]:
    """The cut-outs, each with its label."""
    from ..data.builder import cutouts_in, cutouts_of, relabelled
    from ..data.builder import water_or_land as water_or_land_of
    from ..data.sets.cub import read_cub

    if cub is not None and opacity is not None:
        raise typer.BadParameter(
            "--opacity goes with --cutouts: --cub finds the segmentations in its folder or next to it"
        )
    if by_water and (cub is None or labels is not None):
        raise typer.BadParameter("--water-or-land goes with --cub, and cannot be used with --labels")
    if cub is not None and folder is None:
        found = cutouts_of(read_cub(cub, object_masks=True))
    elif folder is not None and cub is None:
        found = cutouts_in(folder, opacity)
    else:
        raise typer.BadParameter("give either --cutouts or --cub")
    if by_water:
        return relabelled(found, {cutout.class_name: water_or_land_of(cutout.class_name) for cutout in found})
    return found if labels is None else relabelled(found, _labels_by_class(labels))


def _labels_by_class(table: Path) -> dict[str, str]:
    from ..data.io import read_csv

    found: dict[str, str] = {}
    for row in read_csv(table, ("class", "label"), "Use these names in its first line"):
        name, label = row.values["class"].strip(), row.values["label"].strip()
        if found.setdefault(name, label) != label:
            raise ValueError(
                f"{row.where}: class {name} has the label {label} here and {found[name]} above; remove one"
            )
    return found


def chosen_backgrounds(folder: Path | None, places: Sequence[str] | None) -> list[Background]:
    """The photographs, each with its place."""
    from ..data.builder import backgrounds_in, backgrounds_of

    if (folder is None) == (not places):
        raise typer.BadParameter("give either --backgrounds or --place (once for each folder)")
    return backgrounds_of(folders_of(places)) if folder is None else backgrounds_in(folder)


def folders_of(places: Sequence[str] | None) -> dict[str, list[Path]]:
    """The folders of ``--place``, by the place."""
    folders: dict[str, list[Path]] = {}
    for text in dict.fromkeys(places or ()):
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise typer.BadParameter(f"--place must be NAME=FOLDER, such as water=places365/o/ocean, got {text!r}")
        folders.setdefault(name, []).append(Path(folder))
    return folders


def check_outside(out: Path, folders: Sequence[Path | None]) -> None:
    """Refuse an output folder that contains a source folder, or is in one."""
    for folder in folders:
        if folder is not None and (
            out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve())
        ):
            raise typer.BadParameter(
                f"one of {out} and {folder} contains the other, so built images would be read as sources"
            )


EPILOG = closing(
    [
        "aimwrap data build set95 --cutouts cutouts --backgrounds places --tie 0.95",
        "aimwrap data build birds95 --cub CUB_200_2011 --water-or-land --in-place \\",
        "    --place water=places/ocean --place land=places/forest",
    ],
    "the data set is complete",
    "the data set is incomplete; the error message says why",
)
INTERRUPTED = "Interrupted. Run the same command again: it keeps the finished images, and draws the others."
_source, _label, _split, _drawn = map(options_in, ("Sources", "Labels and places", "Splits", "How images are drawn"))


def build(
    out: Annotated[Path, typer.Argument(help="Output folder: new, empty, or of an interrupted build.")],
    cutouts: Path | None = _source(
        None, "Folder of object images with an alpha channel: a folder per class, or per split and class."
    ),
    opacity: Path | None = _source(
        None, "Folder of PNG masks, bright where the object is, named like the cut-outs; instead of alpha channels."
    ),
    cub: Path | None = _source(
        None, "Folder of CUB_200_2011 with its segmentations, instead of --cutouts. Its test split is kept."
    ),
    water_or_land: bool = _label(
        False, "Use two labels, water birds and land birds, instead of CUB's 200 species.", "--water-or-land"
    ),
    labels: Path | None = _label(
        None, "CSV file with the columns class and label, to merge classes into labels.", exists=True, dir_okay=False
    ),
    backgrounds: Path | None = _source(None, "Folder of photographs: a folder per place, or per split and place."),
    place: list[str] | None = _source(
        None, "Place and folder of its photographs, as NAME=FOLDER, instead of --backgrounds. Repeatable."
    ),
    tie: float | None = _label(
        None,
        "Share of each label's training images that are on that label's place (spurious correlation).",
        min=0,
        max=1,
        show_default="0.95, or 1 with --permuted",
    ),
    permuted: bool = _label(
        False,
        "In the test split, show every class on another class's background, as TravelingBirds does.",
        "--permuted",
    ),
    seed: int = _drawn(0, "Random seed of the splits, the backgrounds and every image.", min=0),
    classes: str | None = _label(
        None,
        "Classes to use, separated by commas, such as landbird,waterbird; the first one gets number 0.",
        show_default="all",
    ),
    places: str | None = _label(
        None,
        "Places to use, separated by commas; the first class is tied to the first place, and so on.",
        show_default="all",
    ),
    train: int | None = _split(None, "Number of training images.", min=1, show_default="all cut-outs"),
    val: int | None = _split(None, "Number of validation images.", min=1, show_default="all cut-outs"),
    test: int | None = _split(None, "Number of test images.", min=1, show_default="all cut-outs"),
    test_share: float = _split(0.2, "Share of the cut-outs for the test split, if they have no splits.", min=0, max=1),
    val_share: float = _split(
        0.2, "Share of the remaining cut-outs for the validation split, if they have no splits.", min=0, max=1
    ),
    keep_label_shares: bool = _split(
        False, "In validation and test, use each label as often as in the cut-outs.", "--keep-label-shares"
    ),
    cutout_uses: int = _source(1, "Largest number of images that show the same cut-out.", min=1),
    background_uses: int = _source(1, "Largest number of images that show the same background.", min=1),
    in_place: bool = _drawn(
        False, "Keep the size of the cut-out's image and the object's position, as Waterbirds does.", "--in-place"
    ),
    image_size: int | None = _drawn(None, "Side of square images, in pixels.", min=1, show_default="224"),
    object_size: tuple[float, float] | None = _drawn(
        None,
        "Smallest and largest length of the object's longer side, as shares of the image's side.",
        show_default="0.5 0.8",
    ),
    placement: Placement | None = _drawn(None, "Position of the object.", show_default="anywhere"),
    crop: tuple[float, float] | None = _drawn(
        None, "Smallest and largest crop of the background, as shares of its shorter side.", show_default="0.5 1"
    ),
    no_mirror: bool = _drawn(False, "Never mirror objects or backgrounds.", "--no-mirror"),
    recolour: bool = _drawn(False, "Change hue and brightness of the backgrounds at random.", "--recolour"),
    file_format: FileFormat = _drawn("jpg", "Image format.", "--format"),
    workers: Workers = 2,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Build a data set like Waterbirds or TravelingBirds: objects pasted on backgrounds that predict the label.

    If it is interrupted, run the same command again to continue.
    """
    placed = {
        "image_size": image_size,
        "object_size": object_size,
        "placement": placement,
        "mirror": False if no_mirror else None,
        "crop": crop,
        "recolour": True if recolour else None,
    }
    given: dict[str, Any] = {name: value for name, value in placed.items() if value is not None}
    if in_place and given:
        names = ("--no-mirror" if name == "mirror" else f"--{name.replace('_', '-')}" for name in given)
        raise typer.BadParameter(
            f"--in-place keeps the object and the image size as they are: leave out {', '.join(names)}"
        )
    if permuted and keep_label_shares:
        raise typer.BadParameter("--keep-label-shares has no effect with --permuted, which keeps them anyway")
    with exit_on_error(OSError, ValueError, as_json=as_json, facts={"out": str(out)}), exit_on_interrupt(INTERRUPTED):
        from ..data.builder import InPlace, Placed, travelingbirds, waterbirds
        from ..data.builder import build as build_set

        numbers = {"train": train, "val": val, "test": test}
        tied: dict[str, Any] = {"num_images": {name: number for name, number in numbers.items() if number is not None}}
        if tie is not None:
            tied["tie"] = tie
        check_outside(out, [cutouts, opacity, cub, backgrounds, *chain(*folders_of(place).values())])
        release = build_set(
            out,
            chosen_cutouts(cutouts, opacity, cub, labels, water_or_land),
            chosen_backgrounds(backgrounds, place),
            travelingbirds(**tied) if permuted else waterbirds(**tied, keep_label_shares=keep_label_shares),
            seed,
            style=InPlace() if in_place else Placed()._replace(**given),
            classes=None if classes is None else listed(classes),
            places=None if places is None else listed(places),
            test_share=test_share,
            val_share=val_share,
            cutout_uses=cutout_uses,
            background_uses=background_uses,
            file_format=file_format,
            workers=workers,
            progress=not (quiet or as_json),
        )
    print_summary(as_json, release)
