"""Values of the command line's options, checked where they are read."""

from __future__ import annotations

from difflib import get_close_matches
from typing import get_args

import typer

from .choices import Data, Head

DATA_SETS: tuple[str, ...] = get_args(Data)


def check_data(value: str | None) -> str | None:
    """The name of a data set, if there is one of that name.

    >>> check_data("cub")
    'cub'

    Args:
        value: as it was given; None where an option was left out.

    Raises:
        typer.BadParameter: if there is none.
    """
    if value is None or value in DATA_SETS:
        return value
    close = get_close_matches(value.lower().replace("_", "-"), DATA_SETS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise typer.BadParameter(f"there is no data set {value!r}, but {', '.join(DATA_SETS)}{hint}")


def complete_data(incomplete: str) -> list[str]:
    """Names of data sets that begin so.

    >>> complete_data("c")
    ['cub']
    """
    return [name for name in DATA_SETS if name.startswith(incomplete)]


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


def parse_ties(text: str) -> list[float]:
    """Read ``--ties``.

    >>> parse_ties("0.95,1")
    [0.95, 1.0]
    """
    try:
        shares = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        shares = []
    if not shares or not all(0.5 <= share <= 1 for share in shares):
        raise typer.BadParameter(f"--ties must be shares from 0.5 to 1, such as 0.95,1; got {text!r}")
    return shares


def parse_heads(text: str) -> list[Head]:
    """Read ``--heads``.

    >>> parse_heads("paper, feature-preserving")
    ['paper', 'feature-preserving']
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    heads = [head for name in names for head in get_args(Head) if head == name]
    if not heads or len(heads) != len(names):
        raise typer.BadParameter(f"--heads must be among {', '.join(get_args(Head))}; got {text!r}")
    return heads
