"""``aimwrap inspect`` on the command line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .._choices import Head
from .help import closing
from .options import AsJson, BackboneName
from .outcomes import exit_on_error, print_result

EPILOG = closing(
    ["aimwrap inspect convnext_tiny", "aimwrap inspect my_project.models:build --image-size 96"],
    "the backbone can be wrapped",
    "the backbone cannot be wrapped; the error message says why",
)


def inspect(
    backbone: BackboneName,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of square images, in pixels.", show_default="that of the backbone")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="Number of image channels; needs --image-size.", show_default="3")
    ] = None,
    head: Annotated[Head, typer.Option(help="AIM head.")] = "feature-preserving",
    as_json: AsJson = False,
) -> None:
    """Show a backbone's stages, how they were found, the cost of AIM on them, and two lines of code to use it.

    Needs no weights and no data; downloads nothing.
    """
    if channels is not None and image_size is None:
        raise typer.BadParameter("--channels needs --image-size: give both")
    sys.path.insert(0, "")  # custom backbones are usually in the current folder
    with exit_on_error(TypeError, ValueError, as_json=as_json, facts={"name": backbone}):
        import torch

        from ..backbones.inspection import inspect_backbone

        example_input = None if image_size is None else torch.zeros(1, channels or 3, image_size, image_size)
        found = inspect_backbone(backbone, head=head, example_input=example_input)
    print_result(as_json, found.as_dict(), str(found))
