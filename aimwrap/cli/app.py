"""The command line: ``aimwrap demo``, ``inspect``, ``data``, ``train``, ``report`` and ``export``, a file for each.

Needs the extra ``cli``; the demo needs ``demo``, training ``train``, reports ``report``, and ONNX ``export``. Nothing
here imports torch: what a command needs is imported when it is called, so that help and completion are there at once.
"""

from __future__ import annotations

from typing import Annotated

from .. import __version__
from .data import app as data_app
from .demo import EPILOG as DEMO
from .demo import demo
from .export import EPILOG as EXPORT
from .export import export
from .help import Command, Group
from .inspect import EPILOG as INSPECT
from .inspect import inspect
from .outcomes import leave_quietly
from .report import EPILOG as REPORT
from .report import report
from .train import EPILOG as TRAIN
from .train import train

try:
    import typer
except ImportError as error:
    raise ImportError('the command line needs typer: pip install "aimwrap[cli]"') from error


BEFORE, TRAINING, AFTER = "Before training", "Training", "With a trained model"

EPILOG = """\
From nothing to a model that is served:

    aimwrap data digits digits95                 # a data set to try with
    aimwrap data doctor digits95                 # is anything wrong with it?
    aimwrap inspect resnet10t --image-size 160   # what masks on it would cost
    aimwrap train built digits95 --backbone resnet10t --no-pretrained \\
        --epochs 2 --out runs/try
    aimwrap report runs/try/seed-0/model built digits95   # one page to look at
    aimwrap export runs/try/seed-0/model         # ONNX, held against the model

More examples are in each command's own help, such as aimwrap train --help.

Exit codes, of every command:

    0    done
    1    it was tried and failed, or found something wrong
    2    wrong usage, and nothing was done
    130  interrupted

With --json the output is one JSON document; where the code is 1 and there is
no result, it is {"error": "..."} with what is known beside it.

Documentation: docs/ in the sources, which make docs builds as pages.
"""

app = typer.Typer(cls=Group, epilog=EPILOG, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command(cls=Command, epilog=DEMO, rich_help_panel=BEFORE)(demo)
app.command(cls=Command, epilog=INSPECT, rich_help_panel=BEFORE)(inspect)
app.add_typer(data_app, name="data", rich_help_panel=BEFORE)
app.command(cls=Command, epilog=TRAIN, rich_help_panel=TRAINING)(train)
app.command(cls=Command, epilog=REPORT, rich_help_panel=AFTER)(report)
app.command(cls=Command, epilog=EXPORT, rich_help_panel=AFTER)(export)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"aimwrap {__version__}")
        raise typer.Exit


@app.callback()
def aimwrap(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version, and stop.")
    ] = False,
) -> None:
    """Make any CNN choose where it looks, and see what it chose.

    A network with AIM masks decides by a few positions of its own feature maps, and the masks show which. These
    commands take a data set and a backbone to a trained, explained and exported model.
    """


def main() -> None:
    """Entry point of the ``aimwrap`` command."""
    try:
        app(prog_name="aimwrap")
    finally:
        leave_quietly()
