"""Checks draw numbers of their own, and multiply exactly; the user's settings come back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Give torch's generators back as they were."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        yield


@contextmanager
def exact_matmul() -> Iterator[None]:
    """Without the reduced precision (TF32) that training may allow for speed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
