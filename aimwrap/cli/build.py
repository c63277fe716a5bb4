"""``aimwrap data build`` on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .choices import FileFormat, Placement
from .ends import answer, ending_well, failing
from .help import closing
from .messages import first_name_as_option
from .shared_options import AsJson, Quiet, Workers

EPILOG = closing(
    [
        "aimwrap data build set95 --cutouts cutouts --backgrounds places --tie 0.95",
        "aimwrap data build birds95 --cub CUB_200_2011 --water-or-land --in-place \\",
        "    --place water=places/ocean --place land=places/forest",
    ],
    "the set is complete",
    "it is not, and the message says why",
)
INTERRUPTED = "Interrupted. Give the same command again: it keeps the images that are there, and draws the others."
SOURCES, LABELS, SPLITS, DRAWING = "Sources", "Labels and places", "Splits", "How images are drawn"


def build(
    out: Annotated[Path, typer.Argument(help="The folder to build into: new, empty, or of a build that was killed.")],
    cutouts: Annotated[
        Path | None,
        typer.Option(
            help="Pictures with an alpha channel, in a folder for each class, perhaps below train, val, test.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    opacity: Annotated[
        Path | None,
        typer.Option(
            help="Masks (PNG, bright is object) under the pictures' names, instead of alpha.", rich_help_panel=SOURCES
        ),
    ] = None,
    cub: Annotated[
        Path | None,
        typer.Option(
            help="CUB_200_2011 with its segmentations, instead of --cutouts; keeps its test.", rich_help_panel=SOURCES
        ),
    ] = None,
    water_or_land: Annotated[
        bool,
        typer.Option(
            "--water-or-land", help="With --cub: water birds and land birds, not 200 species.", rich_help_panel=LABELS
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns class and label, to merge classes into labels.",
            exists=True,
            dir_okay=False,
            rich_help_panel=LABELS,
        ),
    ] = None,
    backgrounds: Annotated[
        Path | None,
        typer.Option(
            help="Photographs in a folder for each place, perhaps below train, val and test.", rich_help_panel=SOURCES
        ),
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FOLDER: a place and where its photographs are, instead of --backgrounds; repeat it.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    tie: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of each label's training images on its own place: 0.95; --permuted: 1.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    permuted: Annotated[
        bool,
        typer.Option(
            "--permuted",
            help="As TravelingBirds: the test has every class on another class's place.",
            rich_help_panel=LABELS,
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Draws the splits, what stands where, and every image.", rich_help_panel=DRAWING)
    ] = 0,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Which classes, in the order of their numbers: landbird,waterbird. Default: all.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    places: Annotated[
        str | None,
        typer.Option(help="Which places; the first class is tied to the first one, and so on.", rich_help_panel=LABELS),
    ] = None,
    train: Annotated[
        int | None,
        typer.Option(min=1, help="How many training images. Default: every cut-out.", rich_help_panel=SPLITS),
    ] = None,
    val: Annotated[
        int | None, typer.Option(min=1, help="How many images for the validation.", rich_help_panel=SPLITS)
    ] = None,
    test: Annotated[
        int | None, typer.Option(min=1, help="How many images for the test.", rich_help_panel=SPLITS)
    ] = None,
    test_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of sources without splits: share for the test.", rich_help_panel=SPLITS)
    ] = 0.2,
    val_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the others: share for the validation.", rich_help_panel=SPLITS)
    ] = 0.2,
    keep_label_shares: Annotated[
        bool,
        typer.Option(
            "--keep-label-shares",
            help="Validation and test: as many images of a label as it has cut-outs.",
            rich_help_panel=SPLITS,
        ),
    ] = False,
    cutout_uses: Annotated[
        int, typer.Option(min=1, help="How many images may show the same cut-out.", rich_help_panel=SOURCES)
    ] = 1,
    background_uses: Annotated[
        int, typer.Option(min=1, help="How many images may show the same background.", rich_help_panel=SOURCES)
    ] = 1,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="As Waterbirds: keep the picture's size and the object's place in it.",
            rich_help_panel=DRAWING,
        ),
    ] = False,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of square images, in pixels. Default: 224.", rich_help_panel=DRAWING)
    ] = None,
    object_size: Annotated[
        tuple[float, float] | None,
        typer.Option(help="The object's longer side, of the image's: 0.5 0.8.", rich_help_panel=DRAWING),
    ] = None,
    placement: Annotated[
        Placement | None, typer.Option(help="Where the object lies. Default: anywhere.", rich_help_panel=DRAWING)
    ] = None,
    crop: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Side of the background's crop, of its shorter one: 0.5 1.", rich_help_panel=DRAWING),
    ] = None,
    no_mirror: Annotated[
        bool, typer.Option("--no-mirror", help="Mirror neither objects nor backgrounds.", rich_help_panel=DRAWING)
    ] = False,
    recolour: Annotated[
        bool, typer.Option("--recolour", help="Backgrounds of random hue and brightness.", rich_help_panel=DRAWING)
    ] = False,
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="Of the images.", rich_help_panel=DRAWING)
    ] = "jpg",
    workers: Workers = 2,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Paste cut-outs on backgrounds that are tied to the label: sets like Waterbirds, and like TravelingBirds.

    Killed, it goes on when the same command is given again.
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
    _check_combinations(given, in_place, permuted, keep_label_shares)

    def facts(error: Exception) -> Mapping[str, Any]:
        return {"out": str(out)}

    def spoken(message: str) -> str:
        return first_name_as_option(message, _NAMES)

    with failing(OSError, ValueError, as_json=as_json, facts=facts, spoken=spoken), ending_well(INTERRUPTED):
        from ..data.builder import InPlace, Placed
        from ..data.builder import build as build_set
        from .build_sources import check_outside, chosen_backgrounds, chosen_cutouts, chosen_tyings, folders_of
        from .build_summary import format_summary, summary

        check_outside(out, [cutouts, opacity, cub, backgrounds, *folders_of(place).values()])
        release = build_set(
            out,
            chosen_cutouts(cutouts, opacity, cub, labels, water_or_land),
            chosen_backgrounds(backgrounds, place),
            chosen_tyings(permuted, tie, (train, val, test), keep_label_shares),
            seed,
            style=InPlace() if in_place else Placed()._replace(**given),
            classes=_listed(classes),
            places=_listed(places),
            test_share=test_share,
            val_share=val_share,
            cutout_uses=cutout_uses,
            background_uses=background_uses,
            file_format=file_format,
            workers=workers,
            progress=not (quiet or as_json),
        )
    answer(as_json, summary(release), format_summary(release))


_NAMES = (
    *("cutouts", "opacity", "backgrounds", "classes", "places", "tie", "test_share", "val_share"),
    *("cutout_uses", "background_uses", "image_size", "object_size", "placement", "crop"),
)


def _check_combinations(given: Mapping[str, Any], in_place: bool, permuted: bool, keep_label_shares: bool) -> None:
    if in_place and given:
        raise typer.BadParameter(f"--in-place changes neither object nor picture: leave out {_options(given)}")
    if permuted and keep_label_shares:
        raise typer.BadParameter("--keep-label-shares says nothing with --permuted, which keeps them anyway")


def _options(given: Mapping[str, Any]) -> str:
    return ", ".join("--no-mirror" if name == "mirror" else f"--{name.replace('_', '-')}" for name in given)


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
