"""Help of the commands: what a command does, its options, examples to copy, and its exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from .outcomes import GENERAL, begin_command, exit_on_interrupt, in_options


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

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        begin_command({parameter.name or "": parameter.opts for parameter in self.params})
        return super().invoke(ctx)


class Group(_VerbatimEpilog, TyperGroup):
    """A group of commands, which prints its help when it is called alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; without any, print the help, which is not an error."""
        return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with exit_on_interrupt(GENERAL):
                return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = in_options(error.message.removeprefix("Value error, "))  # added by typer's own validation
            raise
