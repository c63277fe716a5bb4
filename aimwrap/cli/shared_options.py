"""Options that several commands have, in the same words."""

from __future__ import annotations

from typing import Annotated

import typer

from .backbone_names import complete_backbone
from .choices import Head

OUTPUT_PANEL = "What is printed"

AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document instead of text; all else goes to the error output.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress and no warnings: the result alone.", rich_help_panel=OUTPUT_PANEL),
]
Seeds = Annotated[str, typer.Option(help="How many seeds (5 means 0 to 4), or which: 0,3,7")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that share the work; 0: none but this one.")]
BackboneName = Annotated[
    str,
    typer.Argument(
        help="A timm or torchvision model's name, or package.module:name.", autocompletion=complete_backbone
    ),
]
OneHead = Annotated[Head, typer.Option(help="The head of AIM.")]
