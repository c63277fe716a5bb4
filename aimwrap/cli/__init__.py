"""The command line: ``aimwrap``, a file for each command."""

try:
    import typer  # noqa: F401  # only to see that it is there
except ImportError as error:
    raise ImportError('the command line needs typer: pip install "aimwrap[cli]"') from error

from .app import app, main

__all__ = ["app", "main"]
