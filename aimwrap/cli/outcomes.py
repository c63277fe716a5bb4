"""What every command prints: its help, and at its end a result, an error message, or nothing to a closed output."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from .._choices import DATA_SETS
from .._text import printable
from .options import help_on_data

FAILED, INTERRUPTED = 1, 130
GIVEN = "aimwrap.given"  # in a context's meta: what follows the command's name
GENERAL = "Interrupted. Nothing was kept: run the command again to start over."


def echo(text: str, err: bool = False) -> None:
    """Print text; characters that the output's encoding does not have are printed as escapes."""
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err)


def print_result(as_json: bool, values: Any, text: str) -> None:
    """Print a command's result: ``values`` with ``--json``, else ``text``."""
    echo(json.dumps(values, indent=2) if as_json else text)


_OPTIONS: dict[str, str] = {}  # of the command that runs, by the library's names


def begin_command(options: Mapping[str, Sequence[str]]) -> None:
    """Note the options of a command by its parameters, for its messages."""
    _OPTIONS.clear()
    dashed = {name: f"--{name.replace('_', '-')}" for name in options}
    _OPTIONS.update({name: dashed[name] for name in options if dashed[name] in options[name]})


_NESTED = functools.reduce(lambda inner, _: rf"\((?:[^()]|{inner})*\)", range(4), r"\([^()]*\)")
_CALL = re.compile(rf"(\w{_NESTED})")  # Python code, which stays as it is


def in_options(text: str) -> str:
    """The library's message with its arguments as options, which the user can type.

    >>> begin_command({"hold_out": ["--hold-out"]})
    >>> in_options("hold_out must be 0 or more; hold_out=0.2 holds out a fifth")
    '--hold-out must be 0 or more; --hold-out=0.2 holds out a fifth'
    >>> in_options("runs/hold_out=0.2/a is a file; f(x, hold_out=1); pass hold_out=None; raise it (hold_out)")
    'runs/hold_out=0.2/a is a file; f(x, hold_out=1); leave --hold-out out; raise it (--hold-out)'
    """
    parts = _CALL.split(text)
    for name, option in _OPTIONS.items():
        alone = r"(?![\w=/\\-]|\.\w)" if "_" in name else r"(?= must| needs| is for)"
        argument = rf"(?<![\w./\\=,-]){name}(?:{alone}|(?=(?: and [\w-]+)? must|=(?!\S*[/\\])[^\[ .]))"
        for i in range(0, len(parts), 2):
            parts[i] = re.sub(argument, option, re.sub(rf"\bpass {name}=None", f"leave {option} out", parts[i]))
    return "".join(parts)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        way_out = "make room" if error.errno == errno.ENOSPC else "use another path, or fix its permissions"
        return f"{error.filename}: {error.strerror}; {way_out}"
    return _in_options_of(error, str(error))


def _in_options_of(error: BaseException, text: str) -> str:
    """An error's message in options, unless readers of data raised it: it names their columns, classes and files."""
    module = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))  # generated code has none
    readers = ("aimwrap.data.io", "aimwrap.data.sets.")
    return text if module.startswith(readers) and not module.endswith(".digits") else in_options(text)


@contextmanager
def exit_on_error(
    *kinds: type[Exception], as_json: bool, facts: Mapping[str, Any] | None = None, silent: bool = False
) -> Iterator[None]:
    """End the command with exit code 1 and the error's message, for errors that the user can fix.

    Args:
        kinds: of errors.
        as_json: whether to print the message as a JSON document on the output, instead of as text.
        facts: more entries of that document.
        silent: whether to print nothing.
    """
    try:
        yield
    except (BrokenPipeError, typer.Exit):
        raise  # the reader of the output has left, or Ctrl-C was met already: not a failure of the command
    except kinds as error:
        if as_json and not silent:
            echo(json.dumps({**(facts or {}), "error": _message(error)}, indent=2))
        elif not silent:
            echo("\n".join(map(printable, _message(error).split("\n"))), err=True)
        raise typer.Exit(FAILED) from error


@contextmanager
def warnings_printed(quiet: bool) -> Iterator[None]:
    """Print warnings, unless quiet, as one line each, without their place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UserWarning)
        try:
            yield
        finally:
            for warning in [] if quiet else caught:
                echo(f"warning: {warning.message}", err=True)


@contextmanager
def exit_on_interrupt(message: str) -> Iterator[None]:
    """End without a traceback on Ctrl-C, with a message on whether the work can continue, and how; empty for none."""
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


def closing(examples: Sequence[str], done: str, failed: str) -> str:
    """The end of a command's help: examples, and what the exit codes 0 and 1 mean. It is Markdown for the docs, too."""
    codes = (f"0    {done}", f"1    {failed}", "2    usage error; nothing was changed", "130  interrupted")
    return "\n    ".join(["Examples:\n", *examples]) + "\n\n" + "\n    ".join(["Exit codes:\n", *codes])


class _VerbatimEpilog:
    """Prints the epilog as it is written, since lines that rich has wrapped cannot be copied."""

    epilog: str | None
    help: str | None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, and the epilog after it."""
        epilog, self.epilog = self.epilog, None
        paragraphs = (self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # rich keeps the lines
        super().format_help(ctx, formatter)  # type: ignore[misc]  # of the class that it is mixed into
        self.epilog = epilog
        if epilog:
            compact = epilog.strip().replace(":\n\n    ", ":\n    ").replace("\n    ", "\n  ")
            typer.echo("\n".join(f" {line}".rstrip() for line in f"\n{compact}".split("\n")))


class Command(_VerbatimEpilog, TyperCommand):
    """A command, whose messages name its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; where a data set is named before ``--help``, help on it."""
        named = [each for each in args[: args.index("--help")] if each in DATA_SETS] if "--help" in args else []
        names = {parameter.name for parameter in self.params}
        if named and names & {"data", "kind"}:
            typer.echo(help_on_data(named[0], ctx.command_path))
            ctx.exit()
        ctx.meta[GIVEN] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        begin_command({parameter.name or "": parameter.opts for parameter in self.params})
        return super().invoke(ctx)


class Group(_VerbatimEpilog, TyperGroup):
    """A group of commands, which prints its help when it is called alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; without any, print the help, which is not an error."""
        with exit_on_interrupt(GENERAL):  # this imports, too
            return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with exit_on_interrupt(GENERAL):
                return super().invoke(ctx)
        except typer.BadParameter as error:
            text = error.message.removeprefix("Value error, ")  # added by typer's own validation
            error.message = _in_options_of(error.__cause__ or error, text)
            raise
