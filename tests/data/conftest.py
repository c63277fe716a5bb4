"""A set that several files of tests read."""

from pathlib import Path

import pytest
from builder_sources import Made


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def built(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only read."""
    out = tmp_path_factory.mktemp("built") / "set"
    made.build(out, file_format="png")
    return out
