"""Outputs become maps: channels last, and tokens after class and register tokens."""

import pytest
import torch

from aimwrap.taps.layout import Layout, layout_of, map_shape

IMAGES = (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("shape", "grids", "expected"),
    [
        ((1, 8, 14, 14), (), Layout("channels first")),
        ((1, 14, 14, 8), (), Layout("channels last")),
        ((1, 196, 8), {(14, 14)}, Layout("tokens", 0, (14, 14), (224, 224))),
        ((1, 197, 8), {(14, 14), (7, 7)}, Layout("tokens", 1, (14, 14), (224, 224))),
        ((1, 197, 8), [(13, 14), (14, 14)], Layout("tokens", 1, (14, 14), (224, 224))),  # the fewest before the map
        ((1, 197, 8), [(14, 14), (13, 14)], Layout("tokens", 1, (14, 14), (224, 224))),
        ((1, 201, 8), {(14, 14)}, Layout("tokens", 5, (14, 14), (224, 224))),  # a class token and four registers
        ((1, 50, 8), {(14, 14), (7, 7)}, Layout("tokens", 1, (7, 7), (224, 224))),
        ((1, 728, 8), {(27, 27)}, None),  # one token too few
        ((1, 300, 8), {(14, 14)}, None),  # 104 tokens too many
        ((1, 196, 8), (), None),  # no map was seen that says how tokens are arranged
        ((1, 8), {(14, 14)}, None),
        ((), {(14, 14)}, None),
    ],
)
def test_layout_by_shape(shape: tuple[int, ...], grids: set[tuple[int, int]], expected: Layout | None) -> None:
    assert layout_of(shape, IMAGES, grids) == expected


def test_tokens_become_a_map_in_raster_order_without_the_tokens_before_them() -> None:
    grid = torch.arange(6.0).view(2, 3)
    tokens = torch.cat([torch.full((4, 2), -1.0), grid.flatten()[:, None].expand(6, 2)])[None]
    layout = layout_of((1, 10, 2), (1, 3, 32, 48), {(2, 3)})
    assert layout is not None
    made = layout.to_map(tokens, torch.zeros(1, 3, 32, 48))
    assert map_shape((1, 10, 2), layout) == tuple(made.shape) == (1, 2, 2, 3)
    assert torch.equal(made[0, 0], grid) and torch.equal(made[0, 1], grid)


@pytest.mark.parametrize(("size", "grid"), [((32, 64), (2, 4)), ((50, 40), (4, 3)), ((16, 16), (1, 1))])
def test_tokens_of_other_image_sizes(size: tuple[int, int], grid: tuple[int, int]) -> None:
    """16 pixels a token, rounded down, or up as strided convolutions with padding do (50 / 16 -> 4, 40 / 16 -> 3)."""
    layout = Layout("tokens", 1, (2, 3), (32, 48))
    made = layout.to_map(torch.zeros(2, 1 + grid[0] * grid[1], 5), torch.zeros(2, 3, *size))
    assert tuple(made.shape) == (2, 5, *grid)


def test_tokens_that_fill_no_grid_are_refused() -> None:
    layout = Layout("tokens", 1, (2, 3), (32, 48))
    with pytest.raises(
        ValueError, match=r"7 tokens of images of 64 x 64, .* 2 x 3 of 32 x 48; resize .* example_input="
    ):
        layout.to_map(torch.zeros(1, 8, 5), torch.zeros(1, 3, 64, 64))
