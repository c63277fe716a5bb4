"""What every test uses: one thread, a fresh seed per test, wrapped models shared where they are only read."""

import functools
import gc
from collections.abc import Callable

import hypothesis
import pytest
import torch
from torch import nn
from zoo import BACKBONES

from aimwrap import AIM

torch.set_num_threads(1)  # the machine is shared; and so that sums come in one order
hypothesis.settings.register_profile("aimwrap", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("aimwrap")


def pytest_collection_finish() -> None:
    """Wrapping looks for random generators among all objects: leave out what stays until the end anyway."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from one seed, so none depends on which ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def backbone_of() -> Callable[[str], nn.Module]:
    """A zoo backbone in eval mode by name, built once: read only, deepcopy before changing anything."""

    @functools.cache
    def build(name: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # what a test draws must not depend on who built it
            torch.manual_seed(0)
            return BACKBONES[name]().eval()

    return build


@pytest.fixture(scope="session")
def wrapped(backbone_of: Callable[[str], nn.Module]) -> Callable[..., AIM]:
    """A zoo backbone wrapped, in eval mode, built once: read only, deepcopy before changing anything."""

    @functools.cache
    def wrap(name: str, head: str = "paper") -> AIM:
        backbone = backbone_of(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AIM(backbone, [2, 3], 0.25, head=head, width=16, mask_width=8, copy=True).eval()

    return wrap
