"""The command line's part on data: ``aimwrap data build``, ``digits`` and ``doctor``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from .data.builder import (
    Background,
    Cutout,
    InPlace,
    Placed,
    Tying,
    backgrounds_in,
    backgrounds_of,
    cutouts_in,
    cutouts_of,
    relabelled,
    travelingbirds,
    waterbirds,
)
from .data.builder import build as build_set
from .data.builder import water_or_land as water_or_land_of
from .data.builder.composed import build_composed
from .data.builder.pasting import Placement
from .data.builder.writing import FileFormat
from .data.cub import read_cub
from .data.digits_on_photographs import DigitsOnPhotographs
from .data.files import read_csv
from .data.release import SPLITS, Release
from .doctor_cli import doctor, say
from .option_values import one_of

PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
FILE_FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)

app = typer.Typer(no_args_is_help=True, help="Examine data sets, and build some whose background is tied to the label.")
app.command()(doctor)


@app.command()
def build(
    out: Annotated[Path, typer.Argument(help="The folder to build into: new, empty, or of a build that was killed.")],
    cutouts: Annotated[
        Path | None,
        typer.Option(
            help="Pictures with an alpha channel, in a folder for each class, perhaps below train, val, test."
        ),
    ] = None,
    opacity: Annotated[
        Path | None, typer.Option(help="Masks (PNG, bright is object) under the pictures' names, instead of alpha.")
    ] = None,
    cub: Annotated[
        Path | None, typer.Option(help="CUB_200_2011 with its segmentations, instead of --cutouts; keeps its test.")
    ] = None,
    water_or_land: Annotated[
        bool, typer.Option("--water-or-land", help="With --cub: water birds and land birds, not 200 species.")
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with the columns class and label, to merge classes into labels.")
    ] = None,
    backgrounds: Annotated[
        Path | None, typer.Option(help="Photographs in a folder for each place, perhaps below train, val and test.")
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: a place and where its photographs are, instead of --backgrounds; repeat it."),
    ] = None,
    tie: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of each label's training images on its own place: 0.95; --permuted: 1."),
    ] = None,
    permuted: Annotated[
        bool,
        typer.Option("--permuted", help="As TravelingBirds: the test has every class on another class's place."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws the splits, what stands where, and every image.")] = 0,
    classes: Annotated[
        str | None, typer.Option(help="Which classes, in the order of their numbers: landbird,waterbird. Default: all.")
    ] = None,
    places: Annotated[
        str | None, typer.Option(help="Which places; the first class is tied to the first one, and so on.")
    ] = None,
    train: Annotated[int | None, typer.Option(min=1, help="How many training images. Default: every cut-out.")] = None,
    val: Annotated[int | None, typer.Option(min=1, help="How many images for the validation.")] = None,
    test: Annotated[int | None, typer.Option(min=1, help="How many images for the test.")] = None,
    test_share: Annotated[float, typer.Option(help="Of sources without splits: share for the test.")] = 0.2,
    val_share: Annotated[float, typer.Option(help="Of the others: share for the validation.")] = 0.2,
    keep_label_shares: Annotated[
        bool,
        typer.Option("--keep-label-shares", help="Validation and test: as many images of a label as it has cut-outs."),
    ] = False,
    cutout_uses: Annotated[int, typer.Option(min=1, help="How many images may show the same cut-out.")] = 1,
    background_uses: Annotated[int, typer.Option(min=1, help="How many images may show the same background.")] = 1,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="As Waterbirds: keep the picture's size and the object's place in it."),
    ] = False,
    image_size: Annotated[int | None, typer.Option(help="Side of the square images: 224.")] = None,
    object_size: Annotated[
        tuple[float, float] | None, typer.Option(help="The object's longer side, of the image's: 0.5 0.8.")
    ] = None,
    placement: Annotated[str | None, typer.Option(help="anywhere, centre or edge.")] = None,
    crop: Annotated[
        tuple[float, float] | None, typer.Option(help="Side of the background's crop, of its shorter one: 0.5 1.")
    ] = None,
    no_mirror: Annotated[bool, typer.Option("--no-mirror", help="Mirror neither objects nor backgrounds.")] = False,
    recolour: Annotated[bool, typer.Option("--recolour", help="Backgrounds of random hue and brightness.")] = False,
    file_format: Annotated[str, typer.Option("--format", help="jpg or png.")] = "jpg",
    workers: Annotated[int, typer.Option(min=0, help="How many processes.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Paste cut-outs on backgrounds that are tied to the label: sets like Waterbirds, and like TravelingBirds.

    Killed, it goes on when the same command is given again. Exit code 1 says that the set is not complete, and the
    message why.
    """
    placed = {
        "image_size": image_size,
        "object_size": object_size,
        "placement": None if placement is None else one_of(placement, PLACEMENTS, "--placement"),
        "mirror": False if no_mirror else None,
        "crop": crop,
        "recolour": True if recolour else None,
    }
    given: dict[str, Any] = {name: value for name, value in placed.items() if value is not None}
    if in_place and given:
        raise typer.BadParameter(f"--in-place changes neither object nor picture: leave out {_options(given)}")
    if permuted and keep_label_shares:
        raise typer.BadParameter("--keep-label-shares says nothing with --permuted, which keeps them anyway")
    _check_outside(out, [cutouts, opacity, cub, backgrounds, *_folders_of(place).values()])
    numbers = {split: number for split, number in zip(SPLITS, (train, val, test), strict=True) if number is not None}
    try:
        tyings = _tyings(permuted, tie, numbers, keep_label_shares)
        release = build_set(
            out,
            _cutouts(cutouts, opacity, cub, labels, water_or_land),
            _backgrounds(backgrounds, place),
            tyings,
            seed,
            style=InPlace() if in_place else Placed()._replace(**given),
            classes=_listed(classes),
            places=_listed(places),
            test_share=test_share,
            val_share=val_share,
            cutout_uses=cutout_uses,
            background_uses=background_uses,
            file_format=one_of(file_format, FILE_FORMATS, "--format"),
            workers=workers,
            progress=not (quiet or as_json),
        )
    except (OSError, ValueError) as error:
        say(json.dumps({"out": str(out), "error": str(error)}) if as_json else str(error), on_output=as_json)
        raise typer.Exit(1) from error
    say(json.dumps(summary(release), indent=2) if as_json else format_summary(release))


@app.command()
def digits(
    out: Annotated[Path, typer.Argument(help="The folder to build into: new, empty, or of a build that was killed.")],
    tie: Annotated[float, typer.Option(min=0.5, max=1, help="Share of each label's images on its own photograph.")] = (
        0.95
    ),
    seed: Annotated[int, typer.Option(min=0, help="Draws which digits are used and how each is drawn.")] = 0,
    image_size: Annotated[int, typer.Option(min=32, help="Side of the square images.")] = 160,
    num_images: Annotated[int, typer.Option(help="How many for training, and for the test; a multiple of 4.")] = 320,
    file_format: Annotated[str, typer.Option("--format", help="jpg or png.")] = "png",
    workers: Annotated[int, typer.Option(min=0, help="How many processes.")] = 2,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Write the demo's digits on photographs to disk: a set to try with, without any download.

    Needs the extra demo.
    """
    image_format = one_of(file_format, FILE_FORMATS, "--format")
    try:
        splits = {
            "train": DigitsOnPhotographs("train", tie, seed, image_size, num_images=num_images),
            "test": DigitsOnPhotographs("test", tie, seed, image_size, num_images=num_images),
        }
        made_of = {"digits": {"tie": tie, "seed": seed, "image_size": image_size}}
        release = build_composed(out, splits, made_of, file_format=image_format, workers=workers, progress=not quiet)
    except (ImportError, OSError, ValueError) as error:
        say(str(error), on_output=False)
        raise typer.Exit(1) from error
    say(format_summary(release))


def _tyings(permuted: bool, tie: float | None, numbers: Mapping[str, int], keep_label_shares: bool) -> dict[str, Tying]:
    if permuted:
        return travelingbirds(1.0 if tie is None else tie, num_images=numbers)
    return waterbirds(0.95 if tie is None else tie, num_images=numbers, keep_label_shares=keep_label_shares)


def _cutouts(
    folder: Path | None, opacity: Path | None, cub: Path | None, labels: Path | None, by_water: bool
) -> list[Cutout]:
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


def _backgrounds(folder: Path | None, places: Sequence[str] | None) -> list[Background]:
    if (folder is None) == (not places):
        raise typer.BadParameter("give either --backgrounds or --place, the latter once for each folder")
    if folder is not None:
        return backgrounds_in(folder)
    folders: dict[str, list[Path | str]] = {}
    for text, path in _folders_of(places).items():
        folders.setdefault(text.partition("=")[0], []).append(path)
    return backgrounds_of(folders)


def _folders_of(places: Sequence[str] | None) -> dict[str, Path]:
    """Of ``--place``, by the whole text."""
    for text in places or ():
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise typer.BadParameter(f"--place must be NAME=FOLDER, such as water=places365/o/ocean, got {text!r}")
    return {text: Path(text.partition("=")[2]) for text in places or ()}


def _check_outside(out: Path, folders: Sequence[Path | None]) -> None:
    for folder in folders:
        if folder is not None and (
            out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve())
        ):
            raise typer.BadParameter(
                f"{out} and {folder} lie in each other, so built images would be taken for sources"
            )


def _options(given: Mapping[str, Any]) -> str:
    return ", ".join("--no-mirror" if name == "mirror" else f"--{name.replace('_', '-')}" for name in given)


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def summary(release: Release) -> dict[str, Any]:
    """A built set's groups by split, for ``--json``."""
    groups: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        records = [record for record in release.records if record.split == split]
        if records:
            pairs = [(label, place) for label in range(len(release.classes)) for place in range(len(release.places))]
            counts = {pair: 0 for pair in pairs}
            for record in records:
                assert record.place is not None
                counts[record.label, record.place] += 1
            groups[split] = {
                f"{release.classes[label]} on {release.places[place]}": count
                for (label, place), count in counts.items()
                if count or len(pairs) <= 16
            }
    return {
        "out": str(release.root),
        "num_images": len(release.records),
        "classes": list(release.classes),
        "places": list(release.places),
        "groups": groups,
    }


def format_summary(release: Release) -> str:
    """A built set's groups by split, for people."""
    found = summary(release)
    lines = [f"{found['num_images']} images in {release.root}"]
    for split, groups in found["groups"].items():
        shown = [f"{name} {count}" for name, count in list(groups.items())[:8]]
        more = [f"and {len(groups) - 8} more groups"] if len(groups) > 8 else []
        lines.append(f"  {split}, {sum(groups.values())}: {', '.join([*shown, *more])}")
    lines.append(f'Read it with aimwrap.data.Built("{release.root}", "train").')
    return "\n".join(lines)
