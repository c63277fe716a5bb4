"""``aimwrap data`` on the command line: ``digits``, ``doctor`` and ``build``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .build import EPILOG as BUILD
from .build import INTERRUPTED, build
from .help import Command, Group, closing
from .options import AsJson, FileFormat, Quiet, Workers, check_data, complete_data
from .outcomes import answer, ending_well, failing, say

COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "fault": typer.colors.RED}
COLUMNS = ("image", "label", "place", "group", "split_column", "mask")
IN_IMAGENET = "An ImageNet tree with train/ and val/, where Hard-ImageNet's images lie."
ELSEWHERE, JUDGED = "What lies elsewhere", "How it is judged"

DOCTOR = closing(
    [
        "aimwrap data doctor digits95",
        "aimwrap data doctor data/waterbirds --cub data/CUB_200_2011",
        "aimwrap data doctor data/mine.csv --column image=file --column label=species",
    ],
    "it is healthy",
    "it has faults, or was not recognised",
)


def doctor(
    path: Annotated[
        Path, typer.Argument(help="The set's folder, the one that it lies in, or one of its own; or a CSV file.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="DATA",
            help="What to take it for, by the names of aimwrap train. Default: what it looks like.",
            callback=check_data,
            autocompletion=complete_data,
        ),
    ] = None,
    cub: Annotated[
        Path | None, typer.Option(help="CUB_200_2011, for sets that are made of its birds.", rich_help_panel=ELSEWHERE)
    ] = None,
    segmentations: Annotated[
        Path | None, typer.Option(help="CUB's segmentations, where they lie elsewhere.", rich_help_panel=ELSEWHERE)
    ] = None,
    imagenet: Annotated[Path | None, typer.Option(help=IN_IMAGENET, rich_help_panel=ELSEWHERE)] = None,
    class_list: Annotated[
        Path | None, typer.Option(help="ImageNet-100's list of classes, a text file.", rich_help_panel=ELSEWHERE)
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="ImageNet's validation boxes, for ImageNet-100.", rich_help_panel=ELSEWHERE)
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Masks of a folder per class, with the same names.", rich_help_panel=ELSEWHERE)
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="A table's column: image=file, label, place, group, split or mask; repeat it.", rich_help_panel=JUDGED
        ),
    ] = None,
    any_value_is_object: Annotated[
        bool,
        typer.Option(
            "--any-value-is-object", help="Masks of your own: whatever is not zero, such as 1.", rich_help_panel=JUDGED
        ),
    ] = False,
    subset: Annotated[
        bool, typer.Option("--subset", help="It is a part on purpose: do not compare counts.", rich_help_panel=JUDGED)
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Read the files' headers alone: no damage, no duplicates.", rich_help_panel=JUDGED
        ),
    ] = (False),
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that open files. Default: one per core.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with a data set on disk, and what to do about it.

    Opens every file that the set names, and writes nothing.
    """
    named = _columns(column or [])

    def facts(error: Exception) -> dict[str, Any]:
        return {"version": 1, "path": str(path)}

    with ending_well("Interrupted. Nothing was found yet: --quick reads the files' headers alone."):
        from ..data.doctor import NotRecognisedError, examine
        from ..data.doctor.report import printable, report

        def spoken(message: str) -> str:  # names of folders may be meant for the terminal
            return message if as_json else "\n".join(map(printable, message.split("\n")))

        with failing(NotRecognisedError, OSError, as_json=as_json, facts=facts, spoken=spoken):
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
            )
    say(json.dumps(found.as_dict(), indent=2) if as_json else report(found, _coloured))
    raise typer.Exit(found.exit_code)


def _columns(pairs: list[str]) -> dict[str, str]:
    """Of ``--column``, by the reader's arguments."""
    columns = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        argument = "split_column" if name == "split" else name
        if not (equals and column and argument in COLUMNS):
            raise typer.BadParameter(
                f"--column must be NAME=COLUMN with image, label, place, group, split or mask for NAME, got {pair!r}"
            )
        columns[argument] = column
    return columns


def _coloured(text: str, mark: str) -> str:
    return typer.style(text, fg=COLOURS[mark])


DIGITS = closing(
    ["aimwrap data digits digits95", "aimwrap data digits digits100 --tie 1 --image-size 64"],
    "the set is complete",
    "it is not, and the message says why",
)


def digits(
    out: Annotated[Path, typer.Argument(help="The folder to build into: new, empty, or of a build that was killed.")],
    tie: Annotated[
        float, typer.Option(min=0.5, max=1, help="Share of each label's images on its own photograph.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Draws which digits are used and how each is drawn.")] = 0,
    image_size: Annotated[int, typer.Option(min=32, help="Side of square images, in pixels.")] = 160,
    num_images: Annotated[
        int, typer.Option(min=4, help="How many for training, and as many for the test; a multiple of 4.")
    ] = 320,
    file_format: Annotated[FileFormat, typer.Option("--format", help="Of the images.")] = "png",
    workers: Workers = 2,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the demo's digits on photographs to disk: a set to try with, without any download.

    Killed, it goes on when the same command is given again. Needs the extra demo.
    """
    if num_images % 4:
        raise typer.BadParameter(f"--num-images must be a multiple of 4, one for each pair; got {num_images}")
    given = {"tie": tie, "seed": seed, "image_size": image_size}
    failures = failing(ImportError, OSError, ValueError, as_json=as_json, facts=lambda error: {"out": str(out)})
    with failures, ending_well(INTERRUPTED):
        from ..data.builder.build import build_composed
        from ..data.sets.digits import DigitsOnPhotographs
        from .build import format_summary, summary

        splits = {
            "train": DigitsOnPhotographs("train", tie, seed, image_size, num_images=num_images),
            "test": DigitsOnPhotographs("test", tie, seed, image_size, num_images=num_images),
        }
        progress = not (quiet or as_json)
        release = build_composed(
            out, splits, {"digits": given}, file_format=file_format, workers=workers, progress=progress
        )
    answer(as_json, summary(release), format_summary(release))


EPILOG = """\
Examples:

    aimwrap data digits digits95                 # a set to try with
    aimwrap data doctor digits95                 # is anything wrong with it?
    aimwrap train built digits95                 # what was built is trained on as built
"""

app = typer.Typer(
    cls=Group,
    help="Examine data sets, and build some whose background is tied to the label.",
    epilog=EPILOG,
    rich_markup_mode="rich",
)
app.command(cls=Command, epilog=DIGITS)(digits)
app.command(cls=Command, epilog=DOCTOR)(doctor)
app.command(cls=Command, epilog=BUILD)(build)
