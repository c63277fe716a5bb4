"""MkDocs hook: puts what `aimwrap --help` says, of every command, in the place of a marker.

Typer writes its own documentation (`typer MODULE utils docs`); nothing here knows any option.
"""

import re
import subprocess
import sys
from typing import Any

_MARKER = "<!-- aimwrap --help -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(_MARKER, commands()) if _MARKER in markdown else markdown


def commands() -> str:
    """Every command with its arguments and options, one level of heading below the page's title."""
    command = [sys.executable, "-m", "typer", "aimwrap.cli", "utils", "docs", "--name", "aimwrap"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)  # cut short, and each has its section
    text = text.replace("\n## ", "\n### ").replace("```console\n$ ", "```text\n")
    return re.sub(r"^# `aimwrap`\n", "", text, count=1)
