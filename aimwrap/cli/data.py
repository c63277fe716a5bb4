"""``aimwrap data`` on the command line: ``digits``, ``doctor`` and ``build``."""

from __future__ import annotations

import typer

from .build import EPILOG as BUILD
from .build import build
from .digits import EPILOG as DIGITS
from .digits import digits
from .doctor import EPILOG as DOCTOR
from .doctor import doctor
from .help import Command, Group

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
