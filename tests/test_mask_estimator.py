"""The mask estimator: the paper's layers, healthy masks at the start, bounded logits, a truly global context."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from aimwrap import MaskEstimator, binary_gumbel_softmax
from aimwrap.mask_estimator import ProjectedConv3x3, _clamp_passing_gradients


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """Over the channels of each position, written out."""
    mean = x.mean(dim=1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight[None, :, None, None] + bias[None, :, None, None]


def transcribed(estimator: MaskEstimator, x: Tensor) -> Tensor:
    """Section 3, "Mask Estimation", sentence by sentence, with our norms, padding, spread and bound."""
    p = dict(estimator.named_parameters())

    def conv3x3(name: str, x: Tensor) -> Tensor:
        rows = [0, *range(x.shape[2]), x.shape[2] - 1]  # the border repeated, not zeros
        columns = [0, *range(x.shape[3]), x.shape[3] - 1]
        return F.conv2d(x[:, :, rows][:, :, :, columns], p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"])

    x = F.relu(norm("stem_norm", conv3x3("stem", x)))  # begins with a 3x3 convolutional layer,
    for i in range(3):  # followed by three residual blocks that each utilise 3x3 convolutional layers.
        inner = F.relu(norm(f"blocks.{i}.norm1", conv3x3(f"blocks.{i}.conv1", x)))
        x = F.relu(x + norm(f"blocks.{i}.norm2", conv3x3(f"blocks.{i}.conv2", inner)))
    where = torch.einsum("nchw,c->nhw", x, p["where.weight"].flatten())[:, None]  # the 1x1 convolution's first half
    if estimator.logit_spread is not None:
        deviation = where - where.mean((2, 3), keepdim=True)
        where = estimator.logit_spread * deviation / (deviation.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
    context = torch.stack([torch.stack([plane.sum() / plane.numel() for plane in image]) for image in x])
    context = context - context.mean(1, keepdim=True)
    context = context / (context.square().mean(1, keepdim=True) + 1e-5).sqrt()
    how_much = (context * p["how_much.weight"]).sum(1) + p["how_much.bias"]  # and its second, expanded
    return (where + how_much[:, None, None, None]).clamp(-estimator.logit_range, estimator.logit_range)


def randomised(estimator: MaskEstimator) -> MaskEstimator:
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return estimator


@given(
    sizes=st.lists(st.tuples(*[st.integers(1, 9)] * 2), min_size=1, max_size=3),
    channels=st.lists(st.integers(1, 5), min_size=3, max_size=3),
)
def test_maps_are_convolved_as_if_resized_and_concatenated(sizes: list, channels: list) -> None:
    maps = [torch.randn(2, c, *size, dtype=torch.float64) for c, size in zip(channels, sizes, strict=False)]
    layer = ProjectedConv3x3(sum(x.shape[1] for x in maps), 4).double()
    together = torch.cat([F.interpolate(x, size=sizes[0], mode="nearest") for x in maps], dim=1)
    expected = F.conv2d(F.pad(together, (1, 1, 1, 1), mode="replicate"), layer.weight, layer.bias)
    torch.testing.assert_close(layer(*maps), expected)


@pytest.mark.parametrize("logit_spread", [None, 0.5, 3.0])
def test_equals_a_transcription_of_the_paper(logit_spread: float | None) -> None:
    estimator = randomised(MaskEstimator(5, width=6, logit_spread=logit_spread))
    x = torch.randn(2, 5, 7, 9)
    torch.testing.assert_close(estimator(x), transcribed(estimator, x), rtol=1e-4, atol=1e-4)


def test_layers_are_the_papers() -> None:
    """The last 1x1 convolution, 32 channels to one, is written in its two halves."""
    estimator = MaskEstimator(48, width=16)
    convolutions = [m for m in estimator.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in convolutions] == [
        (48, 16, (3, 3), (1, 1)),
        *[(16, 16, (3, 3), (1, 1))] * 6,
        (16, 1, (1, 1), (1, 1)),
    ]
    assert (estimator.how_much.in_features, estimator.how_much.out_features) == (16, 1)


def test_a_constant_map_has_no_border() -> None:
    """Zero padding would draw a frame into the mask."""
    logits = randomised(MaskEstimator(3, width=8, logit_spread=None))(torch.ones(1, 3, 7, 7))
    torch.testing.assert_close(logits, logits[:, :, :1, :1].expand_as(logits))


@pytest.mark.parametrize("logit_spread", [0.5, 3.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_logits_of_an_image_spread_over_its_positions(scale: float, logit_spread: float) -> None:
    """Whatever the features' scale; and how open the image is shifts all of its positions alike."""
    estimator = randomised(MaskEstimator(6, width=8, logit_spread=logit_spread, logit_range=math.inf))
    logits = estimator(scale * torch.randn(4, 6, 9, 9))
    spreads, means = logits.std((2, 3), correction=0).flatten(), logits.mean((2, 3)).flatten()
    torch.testing.assert_close(spreads, torch.full((4,), logit_spread), rtol=0.01, atol=0)
    assert means.std() > 1e-3


def test_spread_is_each_images_own() -> None:
    """Other images of the batch change nothing."""
    estimator = randomised(MaskEstimator(6, width=8))
    x = torch.randn(3, 6, 5, 5)
    torch.testing.assert_close(estimator(x)[:1], estimator(x[:1]), rtol=1e-5, atol=1e-5)


def test_a_single_position_and_a_constant_map_stay_finite() -> None:
    for x in (torch.randn(2, 4, 1, 1), torch.zeros(2, 4, 5, 5)):
        estimator = MaskEstimator(4, width=8)
        logits = estimator(x)
        logits.sum().backward()
        assert logits.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in estimator.parameters())


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 7), (13, 8)])
def test_one_logit_per_position(size: tuple[int, int]) -> None:
    assert MaskEstimator(5, width=4)(torch.randn(3, 5, *size)).shape == (3, 1, *size)


def test_context_reaches_every_position_of_its_own_image_only() -> None:
    """Seven 3x3 convolutions see seven cells far; the map is 40 wide, so only the average can carry it across."""
    estimator = randomised(MaskEstimator(3, width=8, logit_spread=None, logit_range=math.inf))
    x = torch.randn(2, 3, 4, 40)
    changed = x.clone()
    changed[0, :, :, 0] += 5
    before, after = estimator(x), estimator(changed)
    assert (before[0, :, :, 20:] != after[0, :, :, 20:]).all()
    assert torch.equal(before[1], after[1])


def test_logits_also_read_the_neighbourhood() -> None:
    """With the context's weights at zero, a change stays within seven cells."""
    estimator = randomised(MaskEstimator(3, width=8, logit_spread=None))
    nn.init.zeros_(estimator.how_much.weight)
    x = torch.randn(1, 3, 1, 40)
    changed = x.clone()
    changed[..., 0] += 5
    differs = (estimator(x) != estimator(changed))[0, 0, 0]
    assert differs[:8].all()
    assert not differs[8:].any()


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("seed", range(5))
def test_first_masks_are_neither_all_on_nor_all_off(seed: int, norm: str, scale: float) -> None:
    torch.manual_seed(seed)
    estimator = MaskEstimator(64, norm=norm).train()
    logits = estimator(scale * torch.randn(8, 64, 7, 7).relu())
    mask = binary_gumbel_softmax(logits, training=True)
    areas = mask.mean(dim=(1, 2, 3))
    assert logits.abs().max() <= 6
    assert areas.min() > 0.1 and areas.max() < 0.9
    assert (mask[0] != mask[1]).any()


@pytest.mark.parametrize("seed", range(3))
def test_first_masks_without_a_norm_at_ordinary_scale(seed: int) -> None:
    torch.manual_seed(seed)
    areas = binary_gumbel_softmax(MaskEstimator(64, norm="none")(torch.randn(8, 64, 7, 7).relu()), training=True).mean(
        dim=(1, 2, 3)
    )
    assert areas.min() > 0 and areas.max() < 1


@pytest.mark.parametrize("logit_range", [0.5, 4.0])
@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_logits_stay_in_range(bias: float, logit_range: float) -> None:
    estimator = MaskEstimator(4, width=4, logit_range=logit_range)
    nn.init.constant_(estimator.how_much.bias, bias)
    logits = estimator(torch.randn(2, 4, 3, 3))
    torch.testing.assert_close(logits, torch.full_like(logits, math.copysign(logit_range, bias)))


def test_bound_clamps_and_passes_the_gradient() -> None:
    """Two estimators of one seed, bounded and free: clamped values, the same gradient everywhere."""
    x, logits, gradients = torch.randn(4, 4, 5, 5), [], []
    for logit_range in (2.0, math.inf):
        torch.manual_seed(1)
        estimator = randomised(MaskEstimator(4, width=4, logit_range=logit_range))
        logits.append(estimator(x))
        (logits[-1] * torch.arange(100.0).reshape(4, 1, 5, 5)).sum().backward()
        gradients.append([p.grad for p in estimator.parameters()])
    assert (logits[1].abs() > 2).any() and (logits[1].abs() < 2).any()
    assert torch.equal(logits[0], logits[1].clamp(-2, 2))
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode uses it
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bound", [2.0, math.inf])
def test_the_bound_is_exact_and_transparent_to_all_gradients(bound: float, dtype: torch.dtype) -> None:
    huge = torch.finfo(dtype).max / 2
    logits = torch.tensor([-huge, -7.3, -2.0, -0.1, 0.0, 1.7, 2.1, 300.0, huge], dtype=dtype)
    pass_on = torch.arange(9, dtype=dtype)
    value, backward = torch.func.vjp(lambda x: _clamp_passing_gradients(x, bound), logits)
    assert torch.equal(value, logits.clamp(-bound, bound)) and torch.equal(backward(pass_on)[0], pass_on)
    assert torch.equal(torch.func.jvp(lambda x: _clamp_passing_gradients(x, bound), (logits,), (pass_on,))[1], pass_on)
    assert torch.equal(torch.func.vmap(lambda x: _clamp_passing_gradients(x, bound))(logits), value)


def test_infinite_logits_are_bounded_and_no_number_stays_none() -> None:
    bounded = _clamp_passing_gradients(torch.tensor([-math.inf, math.inf, math.nan]), 6.0)
    assert bounded[:2].tolist() == [-6.0, 6.0] and bounded[2].isnan()


def test_infinite_range_leaves_logits_free() -> None:
    estimator = MaskEstimator(4, width=4, logit_range=math.inf)
    nn.init.constant_(estimator.how_much.bias, 1e4)
    assert (estimator(torch.randn(2, 4, 3, 3)) > 9e3).all()


@pytest.mark.parametrize("bias", [-18.0, 18.0])
def test_a_mask_pushed_fully_open_can_still_close(bias: float) -> None:
    """At the bound the sigmoid's slope is sigmoid(6) (1 - sigmoid(6)) = 2.5e-3, and all of it arrives."""
    estimator = MaskEstimator(4, width=8)
    nn.init.constant_(estimator.how_much.bias, bias)
    logits = estimator(torch.randn(16, 4, 8, 8))
    torch.sigmoid(logits).mean().backward()
    assert (logits.abs() == 6).float().mean() > 0.9
    assert estimator.how_much.bias.grad.item() == pytest.approx(2.5e-3, rel=0.1)
    assert all(p.grad.abs().sum() > 0 for p in estimator.parameters())


def test_openness_does_not_train_what_is_below_it() -> None:
    """The gradient of an image's mean logit, which the area loss pulls at, stops at the average."""
    estimator = MaskEstimator(4, width=8)
    estimator(torch.randn(4, 4, 8, 8)).mean().backward()
    assert estimator.how_much.weight.grad.abs().sum() > 0
    others = [p.grad for n, p in estimator.named_parameters() if not n.startswith("how_much")]
    assert all(grad is not None and grad.abs().max() < 1e-5 for grad in others)


@pytest.mark.parametrize(("norm", "count"), [("layer", 7), ("batch", 7), ("none", 0)])
def test_norms(norm: str, count: int) -> None:
    from timm.layers import LayerNorm2d

    kinds = {"layer": LayerNorm2d, "batch": nn.BatchNorm2d, "none": ()}
    estimator = MaskEstimator(4, width=8, norm=norm)
    assert sum(isinstance(module, (LayerNorm2d, nn.BatchNorm2d)) for module in estimator.modules()) == count
    assert sum(isinstance(module, kinds[norm]) for module in estimator.modules()) == count


def test_initialisation() -> None:
    """He's for the convolutions (fan in), and the openness near zero."""
    estimator = MaskEstimator(128, width=64)
    assert estimator.stem.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.05)
    assert estimator.blocks[1].conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
    assert estimator.where.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.3)
    assert 0.01 < estimator.how_much.weight.std() < 0.03


def test_biases_start_at_zero_or_near_it() -> None:
    estimator = MaskEstimator(128, width=8)
    biases = {n: p for n, p in estimator.named_parameters() if n.endswith("bias")}
    assert biases.pop("how_much.bias").abs() <= 8**-0.5  # torch's own start of a linear layer
    assert all((p == 0).all() for p in biases.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_finite_logits(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        logits = MaskEstimator(8)(10 * torch.randn(2, 8, 5, 5))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_repr_shows_the_bound() -> None:
    assert "logit_spread=4.0, logit_range=6" in repr(MaskEstimator(4))
    assert "logit_spread=None, logit_range=inf" in repr(MaskEstimator(4, logit_spread=None, logit_range=math.inf))


def test_wrong_norm() -> None:
    with pytest.raises(ValueError, match=r"mask_norm must be one of 'layer', 'batch', 'none', got 'group'"):
        MaskEstimator(4, norm="group")


@pytest.mark.parametrize("logit_range", [0.0, -1.0, math.nan])
def test_wrong_logit_range(logit_range: float) -> None:
    with pytest.raises(ValueError, match=r"logit_range must be a positive number \(math.inf leaves the logits free"):
        MaskEstimator(4, logit_range=logit_range)


@pytest.mark.parametrize("logit_spread", [0.0, -1.0, math.nan])
def test_wrong_logit_spread(logit_spread: float) -> None:
    with pytest.raises(ValueError, match=r"logit_spread must be a positive number \(None leaves the logits free"):
        MaskEstimator(4, logit_spread=logit_spread)
