"""The command line: ``aimwrap demo``, ``inspect``, ``data``, ``train``, ``report`` and the others, a file for each.

Needs the extra ``cli``; the demo needs ``demo``, training ``train``, reports ``report``, COCO files ``masks``, and ONNX
``export``. Nothing here imports torch: a command imports what it needs when it is called, so that help and completion
are fast.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import data, demo, export, inspect, masks, report, train
from .outcomes import Command, Group, leave_quietly

BEFORE, TRAINING, AFTER = "Before training", "Training", "With a trained model"

EPILOG = """\
From an empty folder to an exported model:

    aimwrap data digits digits95                 # a small data set, no download
    aimwrap data doctor digits95                 # check it
    aimwrap inspect resnet10t --image-size 160   # the cost of AIM on this backbone
    aimwrap train built digits95 --backbone resnet10t --no-pretrained \\
        --epochs 2 --out runs/try
    aimwrap report runs/try/seed-0/model built digits95   # an HTML page
    aimwrap masks runs/try/seed-0/model photos   # what it kept, as PNG files
    aimwrap export runs/try/seed-0/model         # ONNX, compared with the model

Each command's help has more examples, such as aimwrap train --help.

Exit codes of every command:

    0    success
    1    failure, or problems found; the message says what is wrong
    2    usage error; nothing was changed
    130  interrupted

With --json the output is one JSON document. If the command fails, the document
has the message as "error".

Options are accepted with dashes and with underscores: --hold-out, --hold_out.

Documentation: the folder docs/ of the source code; make docs builds the pages.
"""

app = typer.Typer(
    cls=Group,
    epilog=EPILOG,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)
app.command(cls=Command, epilog=demo.EPILOG, rich_help_panel=BEFORE)(demo.demo)
app.command(cls=Command, epilog=inspect.EPILOG, rich_help_panel=BEFORE)(inspect.inspect)
app.add_typer(data.app, name="data", rich_help_panel=BEFORE)
app.command(cls=Command, epilog=train.EPILOG, rich_help_panel=TRAINING)(train.train)
app.command(cls=Command, epilog=report.EPILOG, rich_help_panel=AFTER)(report.report)
app.command(cls=Command, epilog=masks.EPILOG, rich_help_panel=AFTER)(masks.masks)
app.command(cls=Command, epilog=export.EPILOG, rich_help_panel=AFTER)(export.export)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"aimwrap {__version__}")
        raise typer.Exit


@app.callback()
def aimwrap(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Train CNN classifiers that use only a few positions of their feature maps, and show which positions.

    The commands check a data set, train a model, report on it, write its masks and export it.
    """


def main() -> None:
    """Entry point of the ``aimwrap`` command."""
    try:
        app(prog_name="aimwrap")
    finally:
        leave_quietly()
