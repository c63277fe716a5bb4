"""How commands end: with a result, an error message, an interruption, or a closed output.

Exit codes of every command: 0 success; 1 failure, or problems found; 2 usage error, nothing was changed; 130
interrupted by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from .._text import printable

FAILED, INTERRUPTED = 1, 130
GENERAL = "Interrupted. Nothing was kept: run the command again to start over."


def echo(text: str, err: bool = False) -> None:
    """Print text; characters that the output's encoding does not have are printed as escapes."""
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err)


def print_result(as_json: bool, values: Any, text: str) -> None:
    """Print a command's result: ``values`` with ``--json``, else ``text``."""
    echo(json.dumps(values, indent=2) if as_json else text)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}; use another path, or fix its permissions"
    return str(error)


@contextmanager
def exit_on_error(*kinds: type[Exception], as_json: bool, facts: Mapping[str, Any] | None = None) -> Iterator[None]:
    """End the command with exit code 1 and the error's message, for errors that the user can fix.

    Args:
        kinds: of errors.
        as_json: whether to print the message as a JSON document on the output, instead of as text.
        facts: more entries of that document.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of the output has left: not a failure of the command
    except kinds as error:
        if as_json:
            echo(json.dumps({**(facts or {}), "error": _message(error)}, indent=2))
        else:
            echo("\n".join(map(printable, _message(error).split("\n"))), err=True)
        raise typer.Exit(FAILED) from error


@contextmanager
def exit_on_interrupt(message: str) -> Iterator[None]:
    """End without a traceback on Ctrl-C.

    Args:
        message: says whether the work can continue, and how; empty to print nothing.
    """
    try:
        yield
    except KeyboardInterrupt:
        if message:
            echo(f"\n{message}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def leave_quietly() -> None:
    """Ignore that the output is closed, as after ``| head``; Python would print an error at its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
