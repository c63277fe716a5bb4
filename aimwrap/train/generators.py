"""The state of every generator of random numbers, as tensors: what dropout draws from, and a backbone of one's own."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from .data import mixed


def seed_generators(seed: int) -> None:
    """Start torch's, CUDA's, Python's and NumPy's generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(mixed(seed) % 2**32)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states as they stand, each a tensor of a fixed shape.

    Args:
        device: this process's.
    """
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    assert version == 3 and kind == "MT19937"
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python gauss": _optional(gauss),
        "numpy": torch.tensor([*map(int, keys), int(position)], dtype=torch.int64),
        "numpy gauss": _optional(float(cached) if has_gauss else None),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Set the generators to what :func:`generator_states` found.

    Args:
        states: on the CPU. Without CUDA's, as of a run that was begun on the CPU, that one is left as it is.
        device: this process's.
    """
    torch.set_rng_state(states["torch"])
    random.setstate((3, tuple(states["python"].tolist()), _number(states["python gauss"])))
    *keys, position = states["numpy"].tolist()
    cached = _number(states["numpy gauss"])
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, int(cached is not None), cached or 0.0))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _optional(value: float | None) -> Tensor:
    return torch.tensor([value is not None, value or 0.0], dtype=torch.float64)


def _number(pair: Tensor) -> float | None:
    there, value = pair.tolist()
    return value if there else None
