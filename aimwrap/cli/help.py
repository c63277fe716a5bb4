"""Help of the commands: what it does, its options, and below them examples to copy and what the exit codes mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from .outcomes import GENERAL, ending_well

WRONG_USAGE = "wrong usage, and nothing was done"


def closing(examples: Sequence[str], done: str, failed: str) -> str:
    """What a command's help ends with; Markdown, too, for the page that is made of it.

    >>> text = closing(["aimwrap inspect resnet18"], "it can be tapped", "it cannot")
    >>> text.splitlines()[2], text.splitlines()[-2]
    ('    aimwrap inspect resnet18', '    1  it cannot')

    Args:
        examples: commands to copy.
        done: what exit code 0 says.
        failed: what exit code 1 says.
    """
    codes = (f"{code}  {meaning}" for code, meaning in enumerate((done, failed, WRONG_USAGE)))
    return "\n    ".join(["Examples:\n", *examples]) + "\n\n" + "\n    ".join(["Exit codes:\n", *codes])


@contextmanager
def _paragraphs_and_epilog(command: TyperCommand | TyperGroup) -> Iterator[None]:
    """Have rich wrap the help's paragraphs, not the lines of the source; and print the epilog as it is written."""
    text, epilog = command.help, command.epilog
    command.help, command.epilog = _in_paragraphs(text or ""), None
    try:
        yield
    finally:
        command.help, command.epilog = text, epilog
    if epilog:
        compact = epilog.strip().replace(":\n\n    ", ":\n    ").replace("\n    ", "\n  ")
        typer.echo("\n".join(f" {line}".rstrip() for line in f"\n{compact}".split("\n")))


def _in_paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


class Command(TyperCommand):
    """A command whose epilog is printed as it is written: what rich has wrapped cannot be copied."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, and the epilog below it."""
        with _paragraphs_and_epilog(self):
            super().format_help(ctx, formatter)


class Group(TyperGroup):
    """Commands under one name, which shows its help when it is called alone."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, and the epilog below it."""
        with _paragraphs_and_epilog(self):
            super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; none at all ask for help, which is no mistake, and goes to the output."""
        return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with ending_well(GENERAL):
                return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # typer's own validation leaves it there
            raise
