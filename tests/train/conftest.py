"""A tiny set, the settings of a short run on it, and Fabric on one CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric import Fabric
from tiny_set import make_tiny_set

from aimwrap.train import Settings


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_set(tmp_path_factory.mktemp("tiny_set"))


@pytest.fixture
def settings_of(table: Path) -> Callable[..., Settings]:
    """Settings of a run of 2 epochs of 6 steps, except for the given ones."""

    def build(**given: Any) -> Settings:
        usual = {
            "data": "table",
            "root": str(table),
            "reader": {"mask": "mask"},
            "backbone": "tiny_nets:tiny_with_dropout",
            "image_size": 32,
            "epochs": 2,
            "batch_size": 4,
            "lr": 1e-3,
        }
        return Settings(**{**usual, **given})

    return build


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric
