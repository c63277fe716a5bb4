"""``aimwrap masks`` on the command line."""

# ruff: noqa: B008  # typer makes the options of the defaults
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    AsJson,
    BackbonePath,
    ModelFolder,
    Quiet,
    ReaderArguments,
    Workers,
    check_data,
    complete_data,
    listed,
    loaded_model,
    option,
)
from .outcomes import closing, echo, exit_on_error, exit_on_interrupt, print_result, warnings_printed

EPILOG = closing(
    [
        "aimwrap masks runs/a/seed-0/model photos --out masks",
        "aimwrap masks runs/a/seed-0/second-look photos --what kept,overlay \\",
        "    --format png,coco --out masks",
        "aimwrap masks runs/a/seed-0/model data/birds --data cub --split train \\",
        "    --what contributions --threshold otsu --format yolo --out masks",
    ],
    "the masks of all images are written; run again, only new images are done",
    "not all are written; the message says why, and the command continues",
)


def masks(
    folder: ModelFolder,
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="Folder of images, or the root of a data set.")],
    arguments: ReaderArguments = None,
    out: Path = option(Path("masks"), "Folder to write into."),
    what: str | None = option(
        None,
        "Masks to write, separated by commas: merged, stages, kept, contributions, overlay.",
        show_default="kept of a second look, else merged",
    ),
    formats: str = option("png", "Formats, separated by commas: png, npy, coco, yolo.", "--format"),
    threshold: str | None = option(
        None, "Make a mask of the contributions: a share of the largest, such as 0.3, or otsu.", show_default=False
    ),
    data: str | None = option(
        None,
        "Kind of data set at IMAGES, as for aimwrap train; its labels become the classes of COCO and YOLO.",
        callback=check_data,
        autocompletion=complete_data,
        show_default="a folder of images",
    ),
    split: str | None = option(None, "Split of the data set: train, val or test.", show_default="all"),
    as_stored: bool = option(
        False, "Count pixels as in the file, for programs that do not turn photographs upright.", "--as-stored"
    ),
    backbone: BackbonePath = None,
    batch_size: int = option(32, "Number of images per forward pass.", min=1),
    workers: Workers = 2,
    device: str | None = option(None, "Device, such as cpu, cuda or cuda:1.", show_default="cuda if available"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write what a trained model kept of each image, at the image's own size, for people and other tools."""
    kinds = (ImportError, OSError, RuntimeError, TypeError, ValueError)
    with (
        exit_on_interrupt("Interrupted. Run the same command again to continue."),
        exit_on_error(*kinds, as_json=as_json, facts={"path": str(out)}),
        warnings_printed(quiet),
    ):
        import torch

        from ..data.registry import parse_reader_arguments, read_by_name
        from ..masks import export_masks

        if data is None and (split or arguments):
            raise ValueError("--split and NAME=VALUE are for data sets: name their kind with --data")
        found: Any = images
        if data is not None:
            found = read_by_name(data, images, split, parse_reader_arguments(arguments or []))
            for note in [] if quiet else found.release.notes:
                echo(f"note: {note}", err=True)
        options: dict[str, Any] = {"formats": listed(formats), "batch_size": batch_size, "workers": workers}
        written = export_masks(
            loaded_model(folder, backbone).to(device or ("cuda" if torch.cuda.is_available() else "cpu")),
            found,
            out,
            what=None if what is None else listed(what),
            threshold=_parsed(threshold),
            as_stored=as_stored,
            progress=not (quiet or as_json),
            **options,
        )
    print_result(as_json, {**written._asdict(), "folder": str(written.folder)}, str(written))


def _parsed(threshold: str | None) -> Any:
    try:
        return None if threshold is None else float(threshold)
    except ValueError:
        return threshold
