"""``aimwrap data`` on the command line: ``digits``, ``doctor`` and ``build``."""

# ruff: noqa: B008  # typer makes the options of the defaults
from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from .._choices import COLUMNS, DATA_SETS, FileFormat
from ..train.settings import parse_window
from .build import EPILOG as BUILD
from .build import INTERRUPTED, build, print_summary
from .options import AsJson, Quiet, Workers, check_data, complete_data, option, options_in
from .outcomes import Command, Group, closing, exit_on_error, exit_on_interrupt, print_result

COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "fault": typer.colors.RED}
_elsewhere, _judged = options_in("Files in other folders"), options_in("Checks")

DOCTOR = closing(
    [
        "aimwrap data doctor digits95",
        "aimwrap data doctor data/waterbirds --cub data/CUB_200_2011",
        "aimwrap data doctor data/mine.csv --column image=file --column label=species",
    ],
    "the data set has no faults",
    "the data set has faults, or was not recognised",
)


def doctor(
    path: Annotated[
        Path, typer.Argument(help="Folder of the data set, its parent folder or a folder in it; or a CSV file.")
    ],
    kind: str | None = option(
        None,
        f"Kind of data set: {', '.join(DATA_SETS)}.",
        "--as",
        metavar="DATA",
        show_default="recognised from its files",
        callback=check_data,
        autocompletion=complete_data,
    ),
    cub: Path | None = _elsewhere(None, "Folder of CUB_200_2011, for data sets made from it."),
    segmentations: Path | None = _elsewhere(None, "Folder of CUB's segmentations, if it is not in CUB's folder."),
    imagenet: Path | None = _elsewhere(
        None, "ImageNet folder with train/ and val/, which has the images of Hard-ImageNet."
    ),
    class_list: Path | None = _elsewhere(None, "Text file with the classes of ImageNet-100."),
    annotations: Path | None = _elsewhere(None, "Folder of ImageNet's validation boxes, for ImageNet-100."),
    masks: Path | None = _elsewhere(
        None, "Folder of object masks that are named like their images; for the kind folder."
    ),
    column: list[str] | None = _judged(
        None, "Column of a table, such as image=file; also label, place, group, split, mask. Repeatable."
    ),
    any_value_is_object: bool = _judged(
        False, "Treat every mask value except 0 as object; only for your own masks.", "--any-value-is-object"
    ),
    window: str | None = _judged(
        None, "Values LOW,HIGH that become black and white, as for aimwrap train.", show_default="8 bits: 0,255"
    ),
    channels: int = _judged(3, "Number of channels of the images, as for aimwrap train.", min=1),
    subset: bool = _judged(False, "Do not compare image counts: the data set is meant to be a subset.", "--subset"),
    quick: bool = _judged(False, "Read file headers only; damage and duplicates are not checked.", "--quick"),
    workers: int | None = option(None, "Number of threads that open files.", min=1, show_default="one per core"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find what is wrong with a data set on disk, and say how to fix it.

    Opens every file of the data set; writes nothing.
    """
    named = _columns(column or [])
    try:
        pair = None if window is None else parse_window(window)
    except ValueError as error:
        raise typer.BadParameter(f"--{error}") from error

    with exit_on_interrupt("Interrupted. Nothing was found yet; --quick is faster, since it reads file headers only."):
        from ..data.doctor import NotRecognisedError, examine
        from ..data.doctor.report import report
        from ..preprocessing import Preprocessing

        with exit_on_error(NotRecognisedError, OSError, as_json=as_json, facts={"version": 1, "path": str(path)}):
            found = examine(
                path,
                kind,
                cub=cub,
                segmentations=segmentations,
                imagenet=imagenet,
                class_list=class_list,
                annotations=annotations,
                masks=masks,
                columns=named,
                any_value_is_object=any_value_is_object,
                official=not subset,
                quick=quick,
                workers=workers,
                progress=not (quiet or as_json),
                preprocessing=Preprocessing((1, 1), (0.0,) * channels, (1.0,) * channels, window=pair),
            )
    print_result(as_json, found.as_dict(), report(found, lambda text, mark: typer.style(text, fg=COLOURS[mark])))
    raise typer.Exit(found.exit_code)


class _Doctor(Command):
    """It recognises the kind itself, so nothing comes before the path."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; where the kind comes first, as in the other commands, say what to type."""
        if len(args) > 1 and args[0] in DATA_SETS and not args[1].startswith("-"):
            right = f"aimwrap data doctor {shlex.quote(args[1])}"
            raise typer.BadParameter(f"leave {args[0]} out: {right}, or say it by --as {args[0]}")
        return super().parse_args(ctx, args)


def _columns(pairs: list[str]) -> dict[str, str]:
    """The columns, by the arguments of the reader."""
    columns = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        argument = "split_column" if name == "split" else name
        if not (equals and column and argument in COLUMNS):
            raise typer.BadParameter(
                f"--column must be NAME=COLUMN with image, label, place, group, split or mask as NAME, got {pair!r}"
            )
        columns[argument] = column
    return columns


DIGITS = closing(
    ["aimwrap data digits digits95", "aimwrap data digits digits100 --tie 1 --image-size 64"],
    "the data set is complete",
    "the data set is incomplete; the error message says why",
)


def digits(
    out: Annotated[Path, typer.Argument(help="Output folder: new, empty, or of an interrupted build.")],
    tie: float = option(
        0.95,
        "Share of each label's training images that are on that label's photograph (spurious correlation).",
        min=0.5,
        max=1,
    ),
    seed: int = option(0, "Random seed: which digits are used, and how each is drawn.", min=0),
    image_size: int = option(160, "Side of square images, in pixels.", min=32),
    num_images: int = option(320, "Number of images in each split, train and test; a multiple of 4.", min=4),
    file_format: FileFormat = option("png", "Image format.", "--format"),
    workers: Workers = 2,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Build a small data set of digits on two photographs, without any download.

    If it is interrupted, run the same command again to continue. Needs the extra demo.
    """
    if num_images % 4:
        raise typer.BadParameter(
            f"--num-images must be a multiple of 4, the number of pairs of digit and photograph; got {num_images}"
        )
    given: dict[str, Any] = {"tie": tie, "seed": seed, "image_size": image_size}
    errors = exit_on_error(ImportError, OSError, ValueError, as_json=as_json, facts={"out": str(out)})
    with errors, exit_on_interrupt(INTERRUPTED):
        from ..data.builder import build_composed
        from ..data.sets.digits import DigitsOnPhotographs

        splits = {name: DigitsOnPhotographs(name, **given, num_images=num_images) for name in ("train", "test")}
        progress = not (quiet or as_json)
        release = build_composed(
            out, splits, {"digits": given}, file_format=file_format, workers=workers, progress=progress
        )
    print_summary(as_json, release)


EPILOG = """\
Examples:

    aimwrap data digits digits95                 # a small data set, no download
    aimwrap data doctor digits95                 # check it
    aimwrap train built digits95                 # train on it; its kind is built
"""

app = typer.Typer(
    cls=Group,
    help="Check data sets, and build data sets whose background is correlated with the label.",
    epilog=EPILOG,
    rich_markup_mode="rich",
)
app.command(cls=Command, epilog=DIGITS)(digits)
app.command(cls=_Doctor, epilog=DOCTOR)(doctor)
app.command(cls=Command, epilog=BUILD)(build)
