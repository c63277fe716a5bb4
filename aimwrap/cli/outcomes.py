"""How commands end: with a result, a failure that is said, an interruption, or nobody left who reads.

Exit codes, of every command: 0 done; 1 it was tried and failed, or found something wrong; 2 wrong usage, and nothing
was done; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

FAILED, INTERRUPTED = 1, 130
GENERAL = "Interrupted. Nothing goes on from here: give the command again to begin anew."


def say(text: str, on_output: bool = True) -> None:
    """Print what the terminal cannot show as escapes, such as names of classes where it knows ASCII alone.

    Args:
        text: to print.
        on_output: or else where errors go.
    """
    encoding = (sys.stdout if on_output else sys.stderr).encoding or "utf-8"
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=not on_output)


def answer(as_json: bool, values: Any, text: str) -> None:
    """Print a command's result.

    Args:
        as_json: whether ``--json`` was given.
        values: the result for programs.
        text: the same for people.
    """
    say(json.dumps(values, indent=2) if as_json else text)


def _nothing(error: Exception) -> Mapping[str, Any]:
    return {}


def _said(error: Exception) -> str:
    """An error's message; what the system says of a file alone has no way out."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}; give another path, or mend this one's place and rights"
    return str(error)


@contextmanager
def failing(
    *kinds: type[Exception],
    as_json: bool,
    facts: Callable[[Any], Mapping[str, Any]] = _nothing,
    spoken: Callable[[str], str] = str,
) -> Iterator[None]:
    """End the command with exit code 1 and the error's message, where an error is one that people can mend.

    Under ``--json`` the message is a document on the output, where the result would be.

    Args:
        kinds: of errors.
        as_json: whether ``--json`` was given.
        facts: what stands beside ``error`` in that document.
        spoken: turns a message of the library into one that names options.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # nobody reads any more: no failure of what was tried
    except kinds as error:
        message = spoken(_said(error))
        say(json.dumps({**facts(error), "error": message}, indent=2) if as_json else message, on_output=as_json)
        raise typer.Exit(FAILED) from error


@contextmanager
def ending_well(interrupted: str) -> Iterator[None]:
    """End without a traceback when somebody presses Ctrl-C.

    Args:
        interrupted: what is then said: whether the work goes on, and how; nothing if it is empty.
    """
    try:
        yield
    except KeyboardInterrupt:
        if interrupted:
            say(f"\n{interrupted}", on_output=False)
        raise typer.Exit(INTERRUPTED) from None


def leave_quietly() -> None:
    """Have nothing written any more to an output that is closed, as behind ``| head``; Python would complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
