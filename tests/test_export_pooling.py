"""Pooling whose size is rounded up is the same when spelled out, and then compiled ahead of time for any size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimwrap.export import formats
from aimwrap.export.pooling import without_rounding_up

AVERAGES = [
    nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),  # ResNet's avg_down in timm
    nn.AvgPool2d(2, ceil_mode=True),
    nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    nn.AvgPool2d((4, 3), (2, 3), (1, 0), ceil_mode=True, divisor_override=5),
    nn.AvgPool2d(5, 3, 2, ceil_mode=True),
]
LARGEST = [
    nn.MaxPool2d(3, 2, ceil_mode=True),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    nn.MaxPool2d((2, 3), (2, 1), ceil_mode=True),
    nn.MaxPool2d(3, 2, dilation=2, ceil_mode=True),
]
FREE = torch.export.Dim.DYNAMIC


def traced(pool: nn.Module, side: int, free: bool = True) -> Any:
    sizes = ({2: FREE, 3: FREE} if free else {},)
    return torch.export.export(pool, (torch.zeros(2, 3, side, side + 2),), dynamic_shapes=sizes, strict=False)


def rounding(program: Any) -> list[bool]:
    """Of each pooling in a program, whether its size is rounded up."""
    places = {"avg_pool2d": 4, "max_pool2d": 5}
    calls = [node for node in program.graph.nodes if "pool2d" in str(node.target)]
    return [any(call.args[places[call.target._opname] :][:1]) for call in calls]


def assert_pools_alike(got: Any, pool: nn.Module) -> None:
    for height, width in ((16, 16), (17, 16), (18, 19), (19, 23), (20, 17), (21, 18)):
        images = -torch.rand(2, 3, height, width) - 1  # below the zeros of a border
        torch.testing.assert_close(got(images), pool(images), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("pool", [*AVERAGES, *LARGEST], ids=str)
def test_pooling_is_the_same_when_spelled_out(pool: nn.Module, side: int) -> None:
    program = traced(pool, side)
    spelled_out = without_rounding_up(program)
    assert any(rounding(program)) and not any(rounding(spelled_out))
    assert_pools_alike(spelled_out.module(), pool)


@pytest.mark.parametrize(
    ("pool", "free"),
    [(nn.AvgPool2d(3, 2, 1), True), (nn.MaxPool2d(3, 2, 1), True), (AVERAGES[0], False), (nn.ReLU(), True)],
    ids=str,
)
def test_programs_that_round_no_free_size_up_stay_as_they_are(pool: nn.Module, free: bool) -> None:
    program = traced(pool, 16, free)
    assert without_rounding_up(program) is program


def test_windows_that_could_begin_after_the_image_are_left_alone() -> None:
    pool = nn.MaxPool2d(1, 2, ceil_mode=True)
    assert rounding(without_rounding_up(traced(pool, 17))) == [True]


class Pools(nn.Module):
    """Some of them side by side, for one compilation."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList([AVERAGES[0], AVERAGES[3], LARGEST[0], LARGEST[1]])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(pool(x) for pool in self.pools)


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 17])
def test_aotinductor_pools_sizes_that_it_was_not_traced_at(side: int, tmp_path: Path) -> None:
    """torch 2.14 itself gives a row too few or too many."""
    try:
        writer = formats._AotInductor()
    except RuntimeError as error:
        pytest.skip(str(error))  # no C++ compiler here
    pools = Pools()
    writer.write(traced(pools, side), None, tmp_path / "pools.pt2", {})
    assert_pools_alike(writer.load(tmp_path / "pools.pt2"), pools)
