"""Outputs become maps: channels last, and tokens after class and register tokens."""

import warnings

import pytest
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

from aimwrap.taps import tap_backbone
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


class Attending(nn.Module):
    """A block that returns its tokens and its attention's weights, (N, heads, L, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        change, weights = self.attention(tokens, tokens, tokens, average_attn_weights=False)
        return tokens + change, weights


class OfTuples(nn.Module):
    """A transformer of such blocks, whose first parameter holds whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(4), requires_grad=False)
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.first = nn.Parameter(torch.zeros(1, 1, 8))
        self.blocks = nn.ModuleList(Attending() for _ in range(5))
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(tokens), 1, 8), tokens], 1)
        for block in self.blocks:
            tokens, _ = block(tokens)
        return self.head(tokens[:, 0])


@pytest.mark.parametrize("stages", [["blocks.1"], [1, 4]])
def test_weights_of_an_attention_are_no_map(stages: list[int | str]) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    tapped = tap_backbone(OfTuples().eval(), stages, example_input=images[:1])
    assert {(tap.channels, tap.size) for tap in tapped.taps} == {(8, (8, 8))}


def test_tokens_in_order_that_do_not_divide_into_quarters_are_not_doubted() -> None:
    """7 x 7 tokens, of which each one sees all others after a block."""
    torch.manual_seed(0)
    mixer = MlpMixer(img_size=56, patch_size=8, num_blocks=2, embed_dim=64, num_classes=3).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tap_backbone(mixer, ["blocks.1"], example_input=torch.rand(1, 3, 56, 56))
