"""``aimwrap inspect`` on the command line."""

# ruff: noqa: B008  # typer makes the options of the defaults
from __future__ import annotations

import typer

from .._choices import Head
from .options import AsJson, BackboneName, import_from_here, option
from .outcomes import closing, exit_on_error, print_result

EPILOG = closing(
    ["aimwrap inspect convnext_tiny", "aimwrap inspect my_project.models:build --image-size 96"],
    "the backbone can be wrapped",
    "the backbone cannot be wrapped; the error message says why",
)


def inspect(
    backbone: BackboneName,
    image_size: int | None = option(
        None, "Side of square images, in pixels.", min=1, show_default="that of the backbone"
    ),
    channels: int | None = option(None, "Number of image channels; needs --image-size.", min=1, show_default="3"),
    head: Head = option("feature-preserving", "AIM head."),
    as_json: AsJson = False,
) -> None:
    """Show a backbone's stages, how they were found, the cost of AIM on them, and two lines of code to use it.

    Needs no weights and no data; downloads nothing.
    """
    if channels is not None and image_size is None:
        raise typer.BadParameter("--channels needs --image-size: give both")
    import_from_here()
    with exit_on_error(TypeError, ValueError, as_json=as_json, facts={"name": backbone}):
        import torch

        from ..backbones.inspection import inspect_backbone

        example_input = None if image_size is None else torch.zeros(1, channels or 3, image_size, image_size)
        found = inspect_backbone(backbone, head=head, example_input=example_input)
    print_result(as_json, found.as_dict(), str(found))
