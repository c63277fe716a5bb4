"""What the files around the package say of it: one version, and the same Pythons everywhere."""

import re
import tomllib
from pathlib import Path

import aimwrap

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_citation_has_the_version() -> None:
    assert re.findall(r"^version: (.+)$", text_of("CITATION.cff"), re.MULTILINE) == [aimwrap.__version__]


def test_every_python_that_is_promised_is_tested() -> None:
    prefix = "Programming Language :: Python :: 3."
    promised = [
        f"3.{name.removeprefix(prefix)}" for name in PROJECT["project"]["classifiers"] if name.startswith(prefix)
    ]
    (matrix,) = re.findall(r"^ +python: \[(.+)\]$", text_of(".github/workflows/tests.yml"), re.MULTILINE)
    assert re.findall(r'"(.+?)"', matrix) == promised


def test_the_oldest_python_is_the_same_everywhere() -> None:
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    for name in ("Makefile", "README.md", "CONTRIBUTING.md", "docs/start.md", ".ci/run"):
        named = re.findall(r"Python\s(3\.\d+) or newer", text_of(name))
        assert set(named) == {oldest}, name
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in text_of("Makefile")
    assert set(re.findall(r'"(3\.\d+)"}', text_of(".github/workflows/tests.yml"))) == {oldest}
