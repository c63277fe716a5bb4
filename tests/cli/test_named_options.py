"""Options that messages, help and pages name exist, in the command that they are said to be of."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("typer")
import click
from typer.main import get_command

from aimwrap.cli import app

ROOT = Path(__file__).parents[2]
OPTION = re.compile(r"(?<![\w/-])--[a-z][\w-]*\w")
OTHERS = {"--upgrade", "--ntasks", "--ntasks-per-node"}  # of pip and of SLURM
# Whose messages only one command prints.
ALONE = {"train": "train", "report": "report", "export": "export"}
ALONE |= {"data/builder": "data build", "data/doctor": "data doctor"}
ALONE |= {f"cli/{name}.py": name for name in ("train", "report", "export", "demo", "inspect")}
ALONE |= {"cli/build.py": "data build"}


def options_of(command: click.Command) -> set[str]:
    return {"--help"} | {name for each in command.params for name in (*each.opts, *each.secondary_opts)}


def commands(command: click.Command, name: str = "") -> Iterator[tuple[str, set[str]]]:
    yield name, options_of(command)
    for inner, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{name} {inner}".strip())


OPTIONS = dict(commands(get_command(app)))


def texts_of(path: Path) -> Iterator[str]:
    """The strings of a module, without docstrings; those of one f-string apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    for each in ast.walk(tree):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in alone:
            yield each.value


def named_in(text: str) -> set[str]:
    return {name.replace("_", "-") for name in OPTION.findall(text)}


def test_every_option_that_a_message_names_exists() -> None:
    named = 0
    for path in sorted((ROOT / "aimwrap").rglob("*.py")):
        where = path.relative_to(ROOT / "aimwrap").as_posix()
        one = next((command for part, command in ALONE.items() if where.startswith(part)), None)
        known = OPTIONS[one] if one else set().union(*OPTIONS.values())
        for text in texts_of(path):
            found = named_in(text) - OTHERS
            assert found <= known, (where, found - known, text)
            named += len(found)
    assert named > 100


def test_every_command_line_that_is_shown_has_options_of_its_command() -> None:
    shown = 0
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "benchmarks").rglob("*.md")]
    sources = [path.read_text(encoding="utf-8") for path in pages]
    sources += [text for path in (ROOT / "aimwrap").rglob("*.py") for text in texts_of(path)]
    names = "|".join(sorted(filter(None, OPTIONS), key=len, reverse=True))
    line = re.compile(rf"\baimwrap ({names})\b((?:\\\n|[^`\n#])*)")
    for source in sources:
        for name, rest in line.findall(source):
            found = named_in(rest)
            assert found <= OPTIONS[name], (name, found - OPTIONS[name], rest)
            shown += len(found)
    assert shown > 50
