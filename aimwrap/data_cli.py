"""The command line's part on data: ``aimwrap data doctor``."""

from __future__ import annotations

import typer

from .doctor_cli import doctor

app = typer.Typer(no_args_is_help=True)
app.command()(doctor)


@app.callback()
def data() -> None:
    """Examine data sets."""
