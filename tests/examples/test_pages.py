"""Every example is one page that says how it is called, uses what is public, and is in the documentation."""

import ast
import re
from pathlib import Path

import pytest
from tiny import EXAMPLES

PAGE = (EXAMPLES.parent / "docs" / "examples.md").read_text()
ALL = sorted(EXAMPLES.glob("*.py"))
PUBLIC = ("aimwrap", "aimwrap.backbones", "aimwrap.data", "aimwrap.demo", "aimwrap.lightning", "aimwrap.metrics")
TRAINING = [path for path in ALL if "AIMLoss" in path.read_text()]


def by_name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", ALL, ids=by_name)
def test_the_docstring_says_how_it_is_called(path: Path) -> None:
    told = ast.get_docstring(ast.parse(path.read_text()))
    assert told and re.search(rf"^(python|torchrun|accelerate launch) .*examples/{path.name} ", told, re.MULTILINE)


@pytest.mark.parametrize("path", ALL, ids=by_name)
def test_it_is_about_a_page(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 130


@pytest.mark.parametrize("path", ALL, ids=by_name)
def test_it_imports_what_is_public(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aimwrap":
            assert node.module in PUBLIC
            public = __import__(node.module, fromlist=["__all__"]).__all__
            assert {name.name for name in node.names} <= set(public)
    assert not re.search(r"\b(model|aim|criterion|schedule|health)\._\w", path.read_text())


@pytest.mark.parametrize("path", ALL, ids=by_name)
def test_the_documentation_has_it_with_its_command(path: Path) -> None:
    assert f'--8<-- "examples/{path.name}"' in PAGE
    assert re.search(rf"^(python|torchrun|accelerate launch) .*examples/{path.name} ", PAGE, re.MULTILINE)


@pytest.mark.parametrize("path", TRAINING, ids=by_name)
def test_training_shows_progress_and_watches_the_masks(path: Path) -> None:
    source = path.read_text()
    watched = "MaskHealth(" in source and ".update(" in source and (".warn()" in source or ".report()" in source)
    assert watched or "AIMCallback(" in source
    assert "tqdm(" in source or re.search(r"(lightning\.|AIM)Trainer\(", source)  # with a progress bar of their own


def test_what_counts_as_an_example() -> None:
    assert len(ALL) >= 12 and len(TRAINING) == len(ALL) - 4  # two serve, and the second look's train no masks
