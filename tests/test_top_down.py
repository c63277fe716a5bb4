"""Transform, masking, fusion and pooling, for both heads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from aimwrap.resizing import resize_to, sum_to
from aimwrap.top_down import FeaturePreservingTopDown, PaperTopDown, Transform, pool, union


def nearest(x: Tensor, height: int, width: int) -> Tensor:
    """Nearest neighbour by loops: output cell i reads input cell floor(i h / H)."""
    out = torch.empty(*x.shape[:2], height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            out[:, :, i, j] = x[:, :, i * x.shape[2] // height, j * x.shape[3] // width]
    return out


@given(
    size=st.tuples(*[st.integers(1, 9)] * 2),
    partner=st.tuples(*[st.integers(1, 13)] * 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_resize_is_nearest_neighbour_to_the_partners_size(size: tuple, partner: tuple, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, *size).to(dtype)
    assert torch.equal(resize_to(x, torch.empty(5, 1, *partner)), nearest(x, *partner))


@given(size=st.tuples(*[st.integers(1, 9)] * 2), partner=st.tuples(*[st.integers(1, 13)] * 2))
def test_sum_to_is_the_transpose_of_resize_to(size: tuple, partner: tuple) -> None:
    """Every position of the finer grid adds to the one that it reads."""
    x = torch.randint(-4, 5, (2, 3, *partner)).float()
    expected = torch.zeros(2, 3, *size)
    for i in range(partner[0]):
        for j in range(partner[1]):
            expected[:, :, i * size[0] // partner[0], j * size[1] // partner[1]] += x[:, :, i, j]
    assert torch.equal(sum_to(x, torch.empty(5, 1, *size)), expected)


def test_resize_to_the_same_size_is_the_map_itself() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert torch.equal(resize_to(x, torch.empty(1, 1, 3, 4)), x)


def test_union_truth_table_and_gradient() -> None:
    a = torch.tensor([0.0, 0.0, 1.0, 1.0], requires_grad=True)
    b = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    both = union(a, b)
    assert both.tolist() == [0, 1, 1, 1]
    both.sum().backward()
    assert a.grad.tolist() == [1, 0, 1, 0]  # d(a + b - ab)/da = 1 - b
    assert b.grad.tolist() == [1, 1, 0, 0]


def test_pool_by_hand() -> None:
    """Positions 2, 4, 6 of four are open: mean over active (2 + 4 + 6) / 3 = 4, over all 12 / 4 = 3."""
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]])
    masked = torch.tensor([[[[2.0, 4.0], [0.0, 6.0]], [[-2.0, -4.0], [0.0, -6.0]]]])
    assert pool(masked, mask, "active").tolist() == [[4.0, -4.0]]
    assert pool(masked, mask, "all").tolist() == [[3.0, -3.0]]


@pytest.mark.parametrize("pooling", ["active", "all"])
def test_pool_of_an_empty_mask_is_zero_with_finite_gradient(pooling: str) -> None:
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    mask = torch.zeros(2, 1, 4, 4, requires_grad=True)
    pooled = pool(features * mask, mask, pooling)
    assert (pooled == 0).all()
    pooled.sum().backward()
    assert features.grad.isfinite().all() and mask.grad.isfinite().all()


def test_pool_of_an_empty_mask_has_the_gradient_of_the_mean_over_all_positions() -> None:
    """Divided by 1 instead, an image whose mask closed would pull at it harder by the number of positions."""
    features, gradients = torch.randn(1, 3, 4, 4), []
    for pooling in ("active", "all"):
        mask = torch.zeros(1, 1, 4, 4, requires_grad=True)
        pool(features * mask, mask.detach(), pooling).sum().backward()
        gradients.append(mask.grad)
    torch.testing.assert_close(*gradients)


def test_pool_counts_each_image_apart() -> None:
    mask = torch.zeros(2, 1, 2, 2)
    mask[0, 0, 0, 0] = 1
    mask[1] = 1
    features = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert pool(features * mask, mask, "active").tolist() == [[0.0], [5.5]]


@pytest.mark.parametrize("pooling", ["active", "all"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pool_in_half_precision_of_a_large_map(dtype: torch.dtype, pooling: str) -> None:
    """300 x 300 positions are more than float16 can hold, let alone their sum, and more than bfloat16 can count."""
    mask = torch.ones(1, 1, 300, 300, dtype=dtype)
    pooled = pool(torch.full((1, 2, 300, 300), 8.0, dtype=dtype), mask, pooling)
    assert pooled.dtype == dtype
    assert pooled.tolist() == [[8.0, 8.0]]


@pytest.mark.parametrize("pooling", ["active", "all"])
def test_pool_keeps_double_precision(pooling: str) -> None:
    x = torch.rand(2, 3, 7, 7, dtype=torch.float64)
    pooled = pool(x, torch.ones(2, 1, 7, 7, dtype=torch.float64), pooling)
    torch.testing.assert_close(pooled, x.mean((2, 3)), rtol=1e-14, atol=0)


@pytest.mark.parametrize("pooling", ["active", "all"])
def test_pool_is_linear_in_the_map(pooling: str) -> None:
    """So that each position's contribution to a logit is exact."""
    mask = (torch.rand(2, 1, 5, 5) > 0.5).double()
    a, b = torch.randn(2, 2, 3, 5, 5).double() * mask
    combined = 2 * pool(a, mask, pooling) - 3 * pool(b, mask, pooling)
    torch.testing.assert_close(pool(2 * a - 3 * b, mask, pooling), combined, rtol=1e-5, atol=1e-6)


def test_transform_is_1x1_then_3x3_then_layer_norm_over_channels_then_gelu() -> None:
    transform = Transform(5, 6)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 5, 4, 7)
    y = F.conv2d(x, transform.align.weight, transform.align.bias)
    assert transform.align.weight.shape == (6, 5, 1, 1)
    y = F.conv2d(y, transform.refine.weight, transform.refine.bias, padding=1)
    assert transform.refine.weight.shape == (6, 6, 3, 3)
    mean = y.mean(1, keepdim=True)
    y = (y - mean) / (((y - mean) ** 2).mean(1, keepdim=True) + 1e-6).sqrt()
    y = y * transform.norm.weight[:, None, None] + transform.norm.bias[:, None, None]
    expected = y * 0.5 * (1 + torch.erf(y / 2**0.5))
    torch.testing.assert_close(transform(x), expected, rtol=1e-4, atol=1e-5)


def test_paper_head_hands_the_stages_own_maps_to_the_estimators() -> None:
    top_down = PaperTopDown([3, 5], width=4)
    maps = [torch.randn(2, 3, 6, 6), torch.randn(2, 5, 3, 3)]
    features, evidence = top_down(maps, None), top_down.evidence(maps)
    assert top_down.out_channels == 4 and top_down.evidence_channels == (3, 5)
    assert [tuple(f.shape) for f in features] == [(2, 4, 6, 6), (2, 4, 3, 3)]
    assert all(e is m for (e,), m in zip(evidence, maps, strict=True))
    for feature, transform, x in zip(features, top_down.transforms, maps, strict=True):
        assert torch.equal(feature, transform(x))


def test_paper_fusion_by_hand() -> None:
    """Coarse [1, 2] resized to four cells is [1, 1, 2, 2]; plus fine [10, 20, 30, 40] is [11, 21, 32, 42]."""
    fine, coarse = torch.tensor([[[[10.0, 20.0, 30.0, 40.0]]]]), torch.tensor([[[[1.0, 2.0]]]])
    masks = [torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]]]])]
    fused, merged = PaperTopDown([1, 1], 1).fuse([fine, coarse], masks)
    assert fused.tolist() == [[[[11.0, 21.0, 32.0, 42.0]]]]
    assert merged.tolist() == [[[[1.0, 1.0, 0.0, 0.0]]]]


def test_chain_of_resizes_is_not_one_jump() -> None:
    """At 97 px the maps have 4, 7, 13 and 25 cells; 4 -> 7 -> 13 reads another cell than 4 -> 13 in 69 of 169."""
    sizes = [13, 7, 4]
    masked = [torch.zeros(1, 1, 13, 13), torch.zeros(1, 1, 7, 7), torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)]
    masks = [torch.zeros(1, 1, s, s) for s in sizes[:2]] + [torch.ones(1, 1, 4, 4)]
    fused, merged = PaperTopDown([1, 1, 1], 1).fuse(masked, masks)
    assert torch.equal(fused, nearest(nearest(masked[2], 7, 7), 13, 13))
    assert (fused != nearest(masked[2], 13, 13)).sum() == 69
    assert (merged == 1).all()
    for cell in range(16):  # every single cell of the coarse mask opens exactly the cells that its feature reaches
        masks[2] = torch.zeros(16).scatter(0, torch.tensor(cell), 1.0).reshape(1, 1, 4, 4)
        fused, merged = PaperTopDown([1, 1, 1], 1).fuse([*masked[:2], masked[2] * masks[2]], masks)
        assert torch.equal(merged == 1, fused != 0)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 13), st.integers(1, 13)), min_size=1, max_size=4),
    density=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 1000),
)
def test_merged_mask_is_the_support_of_the_fused_map(
    sizes: list[tuple[int, int]], density: float, dtype: torch.dtype, seed: int
) -> None:
    """For any sizes, not only halvings. Positive features, so that no sum cancels."""
    torch.manual_seed(seed)
    masks = [(torch.rand(2, 1, *size) < density).to(dtype) for size in sizes]
    masked = [(torch.rand(2, 3, *size) + 0.5).to(dtype) * mask for size, mask in zip(sizes, masks, strict=True)]
    fused, merged = PaperTopDown([3] * len(sizes), 3).fuse(masked, masks)
    assert fused.shape[-2:] == merged.shape[-2:] == sizes[0]
    assert ((merged == 0) | (merged == 1)).all()
    assert torch.equal((fused != 0).all(dim=1, keepdim=True), merged == 1)
    assert torch.equal((fused != 0).any(dim=1, keepdim=True), merged == 1)


def test_feature_preserving_head_masks_the_final_map_at_each_stages_size() -> None:
    top_down = FeaturePreservingTopDown([3, 5, 7], final_channels=9)
    maps = [torch.randn(2, 3, 13, 8), torch.randn(2, 5, 7, 4), torch.randn(2, 7, 4, 2)]
    final = torch.randn(2, 9, 4, 2)
    features, evidence = top_down(maps, final), top_down.evidence(maps)
    assert list(top_down.parameters()) == []
    assert top_down.out_channels == 9
    assert all(x is final for x in features)
    masks = [(torch.rand(2, 1, *x.shape[2:]) < 0.5).float() for x in maps]
    masked = top_down.masked(features, masks)
    assert torch.equal(masked[2], final * masks[2])
    assert torch.equal(masked[1], nearest(final, 7, 4) * masks[1])
    assert torch.equal(masked[0], nearest(nearest(final, 7, 4), 13, 8) * masks[0])  # along the same chain
    assert top_down.evidence_channels == (8, 12, 7)
    assert [[id(x) for x in read] for read in evidence] == [
        [id(maps[0]), id(maps[1])],
        [id(maps[1]), id(maps[2])],
        [id(maps[2])],
    ]


def test_feature_preserving_head_takes_a_final_map_of_another_size() -> None:
    top_down, final = FeaturePreservingTopDown([3], 2), torch.randn(1, 2, 3, 3)
    mask = (torch.rand(1, 1, 6, 6) < 0.5).float()
    (masked,) = top_down.masked([final], [mask])
    assert torch.equal(masked, nearest(final, 6, 6) * mask)
    (mean,), fused_mean = top_down.means([final], [mask], "active")
    torch.testing.assert_close(mean, masked.sum((2, 3)) / mask.sum((2, 3)))
    assert torch.equal(fused_mean, mean)


def test_feature_preserving_head_lets_the_finest_mask_decide() -> None:
    masked = [torch.randn(1, 2, 4, 4), torch.randn(1, 2, 2, 2)]
    masks = [torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]
    fused, merged = FeaturePreservingTopDown([1, 1], 2).fuse(masked, masks)
    assert fused is masked[0] and merged is masks[0]
