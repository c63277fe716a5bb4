"""Precision and random states: computations that stay exact under autocast, and generators that are restored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """Compute in the tensors' own precision, on the device of this one.

    Where autocast is off, nothing is entered: exporters would write it into their graphs.
    """
    return torch.autocast(like.device.type, enabled=False) if autocasts(like) else nullcontext()


def autocasts(like: Tensor) -> bool:
    """Whether autocast is on, on the device of this one."""
    device = like.device.type
    return device != "meta" and torch.is_autocast_enabled(device)  # meta has no autocast, and torch raises


def in_precision(maps: Mapping[str, Tensor], *dtypes: torch.dtype) -> dict[str, Tensor]:
    """Maps in the first precision, where a backbone's own autocast has left another than these."""
    return {name: x if x.dtype in dtypes or autocasts(x) else x.to(dtypes[0]) for name, x in maps.items()}


def wide_dtype(x: Tensor) -> torch.dtype:
    """float32 at least, for sums; torch.promote_types would become part of an exported graph, which torch 2.6 fails."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def both_sides(values: Tensor, dim: int) -> Tensor:
    """Values by class along a dimension; of a single one, for class 1, its opposite is that for class 0."""
    return torch.cat([-values, values], dim) if values.shape[dim] == 1 else values


def predicted_classes(logits: Tensor) -> Tensor:
    """From (N, K) to (N,); a single logit's sign decides. Where the largest is not finite, no class: least int64."""
    return both_sides(logits, 1).argmax(1).where(logits.amax(1).isfinite(), torch.iinfo(torch.int64).min)


def kept_random_state() -> AbstractContextManager[Any]:
    """Restore the states of torch's generators at the end."""
    return torch.random.fork_rng(devices=list(range(torch.cuda.device_count())))


@contextmanager
def exact_matmul() -> Iterator[None]:
    """Without the reduced precision (TF32) that training may allow for speed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
