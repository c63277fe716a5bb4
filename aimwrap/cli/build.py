"""``aimwrap data build`` on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._choices import FileFormat, Placement
from .help import closing
from .options import AsJson, Quiet, Workers
from .outcomes import exit_on_error, exit_on_interrupt, print_result

if TYPE_CHECKING:
    from ..data.builder import Background, Cutout, Tying
    from ..data.release import Release


def summary(release: Release) -> dict[str, Any]:
    """A built set's groups by split, for ``--json``."""
    from ..data.release import SPLITS

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
    """A built set's groups by split, as text."""
    found = summary(release)
    lines = [f"{found['num_images']} images in {release.root}"]
    for split, groups in found["groups"].items():
        shown = [f"{name} {count}" for name, count in list(groups.items())[:8]]
        more = [f"and {len(groups) - 8} more groups"] if len(groups) > 8 else []
        lines.append(f"  {split}, {sum(groups.values())}: {', '.join([*shown, *more])}")
    lines.append(f'Read it with aimwrap.data.Built("{release.root}", "train").')
    return "\n".join(lines)


def chosen_tyings(
    permuted: bool, tie: float | None, num_images: Sequence[int | None], keep_label_shares: bool
) -> dict[str, Tying]:
    """The tie of each split; ``num_images`` are ``--train``, ``--val`` and ``--test``."""
    from ..data.builder import travelingbirds, waterbirds
    from ..data.release import SPLITS

    numbers = {split: number for split, number in zip(SPLITS, num_images, strict=True) if number is not None}
    if permuted:
        return travelingbirds(1.0 if tie is None else tie, num_images=numbers)
    return waterbirds(0.95 if tie is None else tie, num_images=numbers, keep_label_shares=keep_label_shares)


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
    if labels is None:
        return found
    return relabelled(found, _labels_by_class(labels))


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
    if folder is not None:
        return backgrounds_in(folder)
    folders: dict[str, list[Path | str]] = {}
    for text, path in folders_of(places).items():
        folders.setdefault(text.partition("=")[0], []).append(path)
    return backgrounds_of(folders)


def folders_of(places: Sequence[str] | None) -> dict[str, Path]:
    """The folders of ``--place``, by the complete text."""
    for text in places or ():
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise typer.BadParameter(f"--place must be NAME=FOLDER, such as water=places365/o/ocean, got {text!r}")
    return {text: Path(text.partition("=")[2]) for text in places or ()}


def check_outside(out: Path, folders: Sequence[Path | None]) -> None:
    """Refuse an output folder that contains a source folder, or is in one."""
    for folder in folders:
        if folder is not None and (
            out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve())
        ):
            raise typer.BadParameter(
                f"{out} and {folder} are in each other, so built images would be taken for sources"
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
SOURCES, LABELS, SPLITTING, DRAWING = "Sources", "Labels and places", "Splits", "How images are drawn"


def build(
    out: Annotated[Path, typer.Argument(help="Output folder: new, empty, or of an interrupted build.")],
    cutouts: Annotated[
        Path | None,
        typer.Option(
            help="Folder of object images with an alpha channel: a folder per class, or per split and class.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    opacity: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks (PNG, bright is object) with the names of the cut-outs, instead of alpha.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    cub: Annotated[
        Path | None,
        typer.Option(
            help="Folder of CUB_200_2011 with its segmentations, instead of --cutouts; keeps its test split.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    water_or_land: Annotated[
        bool,
        typer.Option(
            "--water-or-land",
            help="Use two labels, water birds and land birds, instead of CUB's 200 species.",
            rich_help_panel=LABELS,
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns class and label, to merge classes into labels.",
            exists=True,
            dir_okay=False,
            rich_help_panel=LABELS,
        ),
    ] = None,
    backgrounds: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photographs: a folder per place, or per split and place.", rich_help_panel=SOURCES
        ),
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(
            help="Place and folder of its photographs, as NAME=FOLDER, instead of --backgrounds. Repeatable.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    tie: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of each label's training images on that label's place (spurious correlation).",
            show_default="0.95, or 1 with --permuted",
            rich_help_panel=LABELS,
        ),
    ] = None,
    permuted: Annotated[
        bool,
        typer.Option(
            "--permuted",
            help="In the test split, put every class on the place of another class, as TravelingBirds does.",
            rich_help_panel=LABELS,
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Random seed of the splits, the backgrounds and every image.", rich_help_panel=DRAWING
        ),
    ] = 0,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes to use, in the order of their numbers, such as landbird,waterbird.",
            show_default="all",
            rich_help_panel=LABELS,
        ),
    ] = None,
    places: Annotated[
        str | None,
        typer.Option(
            help="Places to use; the first class is tied to the first place, and so on.",
            show_default="all",
            rich_help_panel=LABELS,
        ),
    ] = None,
    train: Annotated[
        int | None,
        typer.Option(min=1, help="Number of training images.", show_default="all cut-outs", rich_help_panel=SPLITTING),
    ] = None,
    val: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of validation images.", show_default="all cut-outs", rich_help_panel=SPLITTING
        ),
    ] = None,
    test: Annotated[
        int | None,
        typer.Option(min=1, help="Number of test images.", show_default="all cut-outs", rich_help_panel=SPLITTING),
    ] = None,
    test_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the cut-outs for the test split, if they have no splits.",
            rich_help_panel=SPLITTING,
        ),
    ] = 0.2,
    val_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the other cut-outs for validation, if they have no splits.",
            rich_help_panel=SPLITTING,
        ),
    ] = 0.2,
    keep_label_shares: Annotated[
        bool,
        typer.Option(
            "--keep-label-shares",
            help="Keep the label shares of the cut-outs in validation and test.",
            rich_help_panel=SPLITTING,
        ),
    ] = False,
    cutout_uses: Annotated[
        int, typer.Option(min=1, help="Most images that show the same cut-out.", rich_help_panel=SOURCES)
    ] = 1,
    background_uses: Annotated[
        int, typer.Option(min=1, help="Most images that show the same background.", rich_help_panel=SOURCES)
    ] = 1,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Keep the size of the cut-out's image and the object's position, as Waterbirds does.",
            rich_help_panel=DRAWING,
        ),
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of square images, in pixels.", show_default="224", rich_help_panel=DRAWING),
    ] = None,
    object_size: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Smallest and largest share of the image's side for the object's longer side.",
            show_default="0.5 0.8",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    placement: Annotated[
        Placement | None, typer.Option(help="Position of the object.", show_default="anywhere", rich_help_panel=DRAWING)
    ] = None,
    crop: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Smallest and largest share of the background's shorter side for its crop.",
            show_default="0.5 1",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    no_mirror: Annotated[
        bool, typer.Option("--no-mirror", help="Never mirror objects or backgrounds.", rich_help_panel=DRAWING)
    ] = False,
    recolour: Annotated[
        bool,
        typer.Option(
            "--recolour", help="Change hue and brightness of the backgrounds at random.", rich_help_panel=DRAWING
        ),
    ] = False,
    file_format: Annotated[FileFormat, typer.Option("--format", help="Image format.", rich_help_panel=DRAWING)] = "jpg",
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
    _check_combinations(given, in_place, permuted, keep_label_shares)

    with exit_on_error(OSError, ValueError, as_json=as_json, facts={"out": str(out)}), exit_on_interrupt(INTERRUPTED):
        from ..data.builder import InPlace, Placed
        from ..data.builder import build as build_set

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
    print_result(as_json, summary(release), format_summary(release))


def _check_combinations(given: Mapping[str, Any], in_place: bool, permuted: bool, keep_label_shares: bool) -> None:
    if in_place and given:
        raise typer.BadParameter(
            f"--in-place keeps the object and the image size as they are: leave out {_options(given)}"
        )
    if permuted and keep_label_shares:
        raise typer.BadParameter("--keep-label-shares has no effect with --permuted, which keeps them anyway")


def _options(given: Mapping[str, Any]) -> str:
    return ", ".join("--no-mirror" if name == "mirror" else f"--{name.replace('_', '-')}" for name in given)


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
