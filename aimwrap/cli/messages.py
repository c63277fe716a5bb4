"""Messages of the library in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

# What the library's messages call an argument, and what it is here.
_AS_OPTIONS = (
    (r"from_pretrained\(.*?backbone=backbone\)", "--backbone package.module:name"),
    (r"pass it as backbone=; strict=False .* has$", "name it by --backbone package.module:name"),
    (r"^(path|output) must", "--out must"),
    (r"\bimage_size\b=?", "--image-size"),
    (r"\bdynamic_size=False", "--fixed-size"),
    (r"\bexport_program; --format", "--format"),
    (r"(?=\btolerance=)", "in Python, "),
    (r"\bexample_input=, a batch of images .*\)\.$", "--image-size, and --channels if they are not 3."),
    (r"\bexample_input=", "--image-size"),
)


def as_options(message: str, options: Sequence[tuple[str, str]] = _AS_OPTIONS) -> str:
    """A message of the library for those who called it by a command.

    >>> as_options("image_size must be at least 32 x 32; dynamic_size=False is silent")
    '--image-size must be at least 32 x 32; --fixed-size is silent'

    Args:
        message: of the library.
        options: a regular expression for what the library says, and what the command says, in this order.
    """
    for argument, option in options:
        message = re.sub(argument, option, message)
    return message


def first_name_as_option(message: str, names: Collection[str]) -> str:
    """A message that begins with an argument's name, with the option's in its place.

    >>> first_name_as_option("test_share must be a share from 0 to below 1", ["test_share"])
    '--test-share must be a share from 0 to below 1'

    Args:
        message: of the library.
        names: arguments that are options by the same names.
    """
    name, must, rest = message.partition(" must ")
    return f"--{name.replace('_', '-')}{must}{rest}" if must and name in names else message
