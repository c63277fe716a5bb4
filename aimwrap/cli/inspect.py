"""``aimwrap inspect`` on the command line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .help import closing
from .options import AsJson, BackboneName, OneHead, as_options
from .outcomes import answer, failing

EPILOG = closing(
    ["aimwrap inspect convnext_tiny", "aimwrap inspect my_project.models:build --image-size 96"],
    "it can be wrapped",
    "it cannot, and the message says why",
)


def inspect(
    backbone: BackboneName,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of square images, in pixels. Default: the backbone's own.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="Channels of the images, beside --image-size. Default: 3.")
    ] = None,
    head: OneHead = "feature-preserving",
    as_json: AsJson = False,
) -> None:
    """Show a backbone's stages, how they were found, what AIM on them costs, and the two lines to paste.

    Needs no weights and no data, and downloads nothing.
    """
    if channels is not None and image_size is None:
        raise typer.BadParameter("--channels says nothing without --image-size: give both")
    sys.path.insert(0, "")  # a backbone of one's own is usually here
    with failing(TypeError, ValueError, as_json=as_json, facts=lambda error: {"name": backbone}, spoken=as_options):
        import torch

        from ..backbones.inspection import inspect_backbone

        example_input = None if image_size is None else torch.zeros(1, channels or 3, image_size, image_size)
        found = inspect_backbone(backbone, head=head, example_input=example_input)
    answer(as_json, found.as_dict(), str(found))
