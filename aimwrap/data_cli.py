"""``aimwrap data`` on the command line: ``digits``, ``doctor`` and ``build``."""

from __future__ import annotations

import typer

from .build_cli import EPILOG as BUILD
from .build_cli import build
from .command_help import Command, Group
from .digits_cli import EPILOG as DIGITS
from .digits_cli import digits
from .doctor_cli import EPILOG as DOCTOR
from .doctor_cli import doctor

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
