"""Values of the command line's options, checked where they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import typer

Choice = TypeVar("Choice", bound=str)


def one_of(text: str, choices: Iterable[Choice], option: str) -> Choice:
    """The choice that a text names.

    >>> one_of("png", ("jpg", "png"), "--format")
    'png'

    Args:
        text: as it was given.
        choices: what it may be.
        option: for the message.

    Raises:
        typer.BadParameter: if it is none of them.
    """
    for choice in choices:
        if choice == text:
            return choice
    raise typer.BadParameter(f"{option} must be one of {', '.join(choices)}; got {text!r}")


def parse_seeds(text: str) -> list[int]:
    """Read ``--seeds``: a single number is how many, several are which.

    >>> parse_seeds("3"), parse_seeds("0,7")
    ([0, 1, 2], [0, 7])
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and "," not in text:
        numbers = list(range(numbers[0]))
    if not numbers or min(numbers) < 0:
        raise typer.BadParameter(f"--seeds must be a count from 1, such as 5, or a list such as 0,3,7; got {text!r}")
    if len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"--seeds must name each seed once; got {text!r}")
    return numbers
