"""Pooling whose output size is rounded up (``ceil_mode``), spelled out for AOTInductor.

Inductor takes rounding up for rounding down where the two agree at the size that was traced, and relies on a guard to
compile again for other sizes. What is compiled ahead of time has no guards: at the next size a row or a column is
missing, and what reads it reads memory that was never written. So pool ResNets with ``avg_down`` (timm's ``resnet*d``
and ``resnet*t``). With the overhang padded, there is nothing left to round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _average(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """As ``avg_pool2d``; NotImplemented leaves the operator as it is."""
    kernel, steps, pad = _pair(kernel_size), _pair(stride or kernel_size), _pair(padding)
    if not _can_overhang(ceil_mode, kernel, steps, pad):
        return NotImplemented

    def summed(x: Tensor) -> Tensor:
        return F.avg_pool2d(_with_overhang(x, steps, 0.0), kernel, steps, divisor_override=1)

    around = (pad[1], pad[1], pad[0], pad[0])
    total = summed(F.pad(x, around))
    if divisor_override is not None:
        return total / divisor_override
    counted = F.pad(torch.ones_like(x[..., :1, :, :]), around, value=float(count_include_pad))
    return total / summed(counted)


def _largest(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Any:
    """As ``max_pool2d``; NotImplemented leaves the operator as it is."""
    kernel, steps, pad, apart = (_pair(sides) for sides in (kernel_size, stride or kernel_size, padding, dilation))
    reach = tuple(gap * (side - 1) + 1 for gap, side in zip(apart, kernel, strict=True))
    if not _can_overhang(ceil_mode, reach, steps, pad):
        return NotImplemented
    return F.max_pool2d(_with_overhang(x, steps, -torch.inf), kernel, steps, pad, apart)


def _can_overhang(ceil_mode: bool, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> bool:
    """Whether the size is rounded up, and every window that rounding adds begins inside the image."""
    return ceil_mode and all(k >= s + p for k, s, p in zip(kernel, stride, padding, strict=True))


def _with_overhang(x: Tensor, stride: Sequence[int], value: float) -> Tensor:
    """Rows and columns that the last window can reach beyond the image: too few for a window of their own."""
    return F.pad(x, (0, stride[1] - 1, 0, stride[0] - 1), value=value)


def _pair(sides: Sequence[int]) -> tuple[int, int]:
    return (sides[0], sides[-1])


_RULES: dict[Any, tuple[Any, int]] = {  # what takes an operator's place, and which of its arguments is ceil_mode
    torch.ops.aten.avg_pool2d.default: (_average, 4),
    torch.ops.aten.max_pool2d.default: (_largest, 5),
}


def without_rounding_up(program: Any) -> Any:
    """A traced program whose pooling rounds no size up that is free; the program itself where none does.

    Left as it is: pooling whose last window could begin outside the image, the kernel being smaller than stride and
    padding together.
    """
    found = {call.target for call in program.graph.nodes if call.target in _RULES and _rounds_free_size_up(call)}
    return program.run_decompositions({target: _RULES[target][0] for target in found}) if found else program


def _rounds_free_size_up(call: Any) -> bool:
    ceil_mode = _RULES[call.target][1]
    sides = call.args[0].meta["val"].shape[-2:]
    return any(call.args[ceil_mode : ceil_mode + 1]) and not all(isinstance(side, int) for side in sides)
