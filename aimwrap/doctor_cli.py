"""``aimwrap data doctor`` on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .data.doctor import NotRecognisedError, examine
from .data.doctor.examination import Mark
from .data.doctor.examine import COLUMNS
from .data.doctor.report import printable, report

COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "fault": typer.colors.RED}
IN_IMAGENET = "An ImageNet tree with train/ and val/, where Hard-ImageNet's images lie."


def doctor(
    path: Annotated[
        Path, typer.Argument(help="The set's folder, the one that it lies in, or one of its own; or a CSV file.")
    ],
    kind: Annotated[
        str | None, typer.Option("--as", help="What to take it for, such as waterbirds; otherwise it is recognised.")
    ] = None,
    cub: Annotated[Path | None, typer.Option(help="CUB_200_2011, for sets that are made of its birds.")] = None,
    segmentations: Annotated[Path | None, typer.Option(help="CUB's segmentations, where they lie elsewhere.")] = None,
    imagenet: Annotated[Path | None, typer.Option(help=IN_IMAGENET)] = None,
    class_list: Annotated[Path | None, typer.Option(help="ImageNet-100's list of classes, a text file.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="ImageNet's validation boxes, for ImageNet-100.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Masks of a folder per class, with the same names.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="A table's column: image=file, label, place, group, split or mask; repeat it."),
    ] = None,
    any_value_is_object: Annotated[
        bool, typer.Option("--any-value-is-object", help="Masks of your own: whatever is not zero, such as 1.")
    ] = False,
    subset: Annotated[bool, typer.Option("--subset", help="It is a part on purpose: do not compare counts.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Read the files' headers alone: no damage, no duplicates.")] = (
        False
    ),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that open files; by default one per core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all findings as JSON.")] = False,
) -> None:
    """Say what is wrong with a data set on disk, and what to do about it.

    Opens every file that the set names, and writes nothing. Exit code 0 says that it is healthy, 1 that there are
    faults, 2 that it was not recognised.
    """
    try:
        found = examine(
            path,
            kind,
            cub=cub,
            segmentations=segmentations,
            imagenet=imagenet,
            class_list=class_list,
            annotations=annotations,
            masks=masks,
            columns=_columns(column or []),
            any_value_is_object=any_value_is_object,
            official=not subset,
            quick=quick,
            workers=workers,
            progress=sys.stderr.isatty(),
        )
    except NotRecognisedError as error:
        text = "\n".join(map(printable, str(error).split("\n")))  # names of folders may be meant for the terminal
        say(json.dumps({"version": 1, "path": str(path), "error": str(error)}) if as_json else text, as_json)
        raise typer.Exit(2) from error
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


def _coloured(text: str, mark: Mark) -> str:
    return typer.style(text, fg=COLOURS[mark])


def say(text: str, on_output: bool = True) -> None:
    """Print what the terminal cannot show as escapes, such as names of classes where it knows ASCII alone.

    Args:
        text: to print.
        on_output: or else where errors go.
    """
    encoding = (sys.stdout if on_output else sys.stderr).encoding or "utf-8"
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=not on_output)
