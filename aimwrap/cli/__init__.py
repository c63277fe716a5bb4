"""The command line: ``aimwrap``, a file for each command."""

from .app import app, main

__all__ = ["app", "main"]
