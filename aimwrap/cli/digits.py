"""``aimwrap data digits`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .build import INTERRUPTED
from .choices import FileFormat
from .ends import answer, ending_well, failing
from .help import closing
from .shared_options import AsJson, Quiet, Workers

EPILOG = closing(
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
        from ..data.builder.composed import build_composed
        from ..data.digits_on_photographs import DigitsOnPhotographs
        from .build_summary import format_summary, summary

        splits = {
            "train": DigitsOnPhotographs("train", tie, seed, image_size, num_images=num_images),
            "test": DigitsOnPhotographs("test", tie, seed, image_size, num_images=num_images),
        }
        progress = not (quiet or as_json)
        release = build_composed(
            out, splits, {"digits": given}, file_format=file_format, workers=workers, progress=progress
        )
    answer(as_json, summary(release), format_summary(release))
