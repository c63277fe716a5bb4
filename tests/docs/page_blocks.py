"""The code blocks of a page, the marks next to them, and the commands in them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs").is_dir():
    pytest.skip("the pages come with a checkout, not with the package's sources", allow_module_level=True)
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?P<more>.*)$")
MARK = re.compile(r"^ *<!-- not run: (?P<reason>.+) -->$")
INCLUDED = re.compile(r'^--8<-- "(?P<path>[^"]+)"$')


class Block(NamedTuple):
    """A block of code as it is in a page's source.

    Attributes:
        page: the page's path from the root of the project.
        line: where it begins, from 1.
        language: the word after the fence.
        code: without the indentation of its fence.
        reason: why it is not run, where the line above says so: ``<!-- not run: the reason -->``.
    """

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def included(self) -> str | None:
        """The file that the block shows, where it is nothing but a file."""
        match = INCLUDED.match(self.code.strip())
        return match["path"] if match else None

    @property
    def commands(self) -> list[list[str]]:
        """A shell block's commands as words, without comments; lines that end in a backslash go on."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def pages() -> list[str]:
    """All pages of the documentation, and the README."""
    return ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]


def blocks_of(page: str) -> list[Block]:
    """A page's blocks from top to bottom."""
    lines = (ROOT / page).read_text().splitlines()
    blocks, above, number = [], "", 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence is None:
            above = lines[number] if lines[number].strip() else above
            number += 1
            continue
        indent = len(fence["indent"])
        end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
        code = "\n".join(line[indent:] for line in lines[number + 1 : end]) + "\n"
        mark = MARK.match(above)
        blocks.append(Block(page, number + 1, fence["language"], code, mark["reason"] if mark else None))
        above, number = "", end + 1
    return blocks
