"""The mask estimator: the paper's layers, healthy masks at the start, bounded logits, a truly global context."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aimwrap import MaskEstimator, binary_gumbel_softmax


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """Over the channels of each position, written out."""
    mean = x.mean(dim=1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight[None, :, None, None] + bias[None, :, None, None]


def transcribed(estimator: MaskEstimator, x: Tensor) -> Tensor:
    """Section 3, "Mask Estimation", sentence by sentence, with our norms and bound."""
    p = dict(estimator.named_parameters())

    def conv(name: str, x: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=padding)

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"])

    x = F.relu(norm("stem_norm", conv("stem", x)))  # begins with a 3x3 convolutional layer,
    for i in range(3):  # followed by three residual blocks that each utilise 3x3 convolutional layers.
        inner = F.relu(norm(f"blocks.{i}.norm1", conv(f"blocks.{i}.conv1", x)))
        x = F.relu(x + norm(f"blocks.{i}.norm2", conv(f"blocks.{i}.conv2", inner)))
    context = torch.stack([torch.stack([plane.sum() / plane.numel() for plane in image]) for image in x])
    expanded = context[:, :, None, None] * torch.ones(1, 1, *x.shape[2:])
    logits = conv("to_logit", torch.cat([x, expanded], dim=1), padding=0)  # finally a 1x1 convolutional layer
    return estimator.logit_range * torch.tanh(logits / estimator.logit_range)


def randomised(estimator: MaskEstimator) -> MaskEstimator:
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return estimator


def test_equals_a_transcription_of_the_paper() -> None:
    estimator = randomised(MaskEstimator(5, width=6))
    x = torch.randn(2, 5, 7, 9)
    torch.testing.assert_close(estimator(x), transcribed(estimator, x), rtol=1e-4, atol=1e-4)


def test_layers_are_the_papers() -> None:
    convolutions = [m for m in MaskEstimator(48, width=16).modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in convolutions] == [
        (48, 16, (3, 3), (1, 1)),
        *[(16, 16, (3, 3), (1, 1))] * 6,
        (32, 1, (1, 1), (1, 1)),
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 7), (13, 8)])
def test_one_logit_per_position(size: tuple[int, int]) -> None:
    assert MaskEstimator(5, width=4)(torch.randn(3, 5, *size)).shape == (3, 1, *size)


def test_context_reaches_every_position_of_its_own_image_only() -> None:
    """Seven 3x3 convolutions see seven cells far; the map is 40 wide, so only the average can carry it across."""
    estimator = randomised(MaskEstimator(3, width=8))
    x = torch.randn(2, 3, 4, 40)
    changed = x.clone()
    changed[0, :, :, 0] += 5
    before, after = estimator(x), estimator(changed)
    assert (before[0, :, :, 20:] != after[0, :, :, 20:]).all()
    assert torch.equal(before[1], after[1])


def test_logits_also_read_the_neighbourhood() -> None:
    """With the context's weights at zero, a change stays within seven cells."""
    estimator = randomised(MaskEstimator(3, width=8))
    with torch.no_grad():
        estimator.to_logit.weight[:, 8:] = 0
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
    assert logits.abs().max() < 2
    assert areas.min() > 0.1 and areas.max() < 0.9
    assert (mask[0] != mask[1]).any()


@pytest.mark.parametrize("seed", range(3))
def test_first_masks_without_a_norm_at_ordinary_scale(seed: int) -> None:
    torch.manual_seed(seed)
    areas = binary_gumbel_softmax(
        MaskEstimator(64, norm="none")(torch.randn(8, 64, 7, 7).relu()), training=True
    ).mean(dim=(1, 2, 3))
    assert areas.min() > 0 and areas.max() < 1


@pytest.mark.parametrize("logit_range", [0.5, 4.0])
@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_logits_stay_in_range(bias: float, logit_range: float) -> None:
    estimator = MaskEstimator(4, width=4, logit_range=logit_range)
    nn.init.constant_(estimator.to_logit.bias, bias)
    logits = estimator(torch.randn(2, 4, 3, 3))
    torch.testing.assert_close(logits, torch.full_like(logits, math.copysign(logit_range, bias)))


def test_bound_leaves_small_logits_alone_and_keeps_their_sign() -> None:
    """4 tanh(a / 4) = a - a^3 / 48 + ..."""
    torch.manual_seed(1)
    bounded = randomised(MaskEstimator(4, width=4))
    torch.manual_seed(1)
    free = randomised(MaskEstimator(4, width=4, logit_range=math.inf))
    x = torch.randn(4, 4, 5, 5)
    torch.testing.assert_close(bounded(x), 4 * torch.tanh(free(x) / 4))
    assert torch.equal(bounded(x).sign(), free(x).sign())


def test_infinite_range_leaves_logits_free() -> None:
    estimator = MaskEstimator(4, width=4, logit_range=math.inf)
    nn.init.constant_(estimator.to_logit.bias, 1e4)
    assert (estimator(torch.randn(2, 4, 3, 3)) > 9e3).all()


@pytest.mark.parametrize("bias", [-8.0, 8.0])
def test_a_mask_pushed_fully_open_can_still_close(bias: float) -> None:
    """The gradient at the bound: sigmoid' there is 0.018, and tanh' at 8 / 4 is 0.07; without the bound it is 3e-4."""
    estimator = MaskEstimator(4, width=8)
    nn.init.constant_(estimator.to_logit.bias, bias)
    binary_gumbel_softmax(estimator(torch.randn(16, 4, 8, 8)), training=True).mean().backward()
    gradient = estimator.to_logit.bias.grad.item()
    assert 5e-4 < gradient < 5e-3
    assert all(p.grad.abs().sum() > 0 for p in estimator.parameters())


@pytest.mark.parametrize(("norm", "count"), [("layer", 7), ("batch", 7), ("none", 0)])
def test_norms(norm: str, count: int) -> None:
    from timm.layers import LayerNorm2d

    kinds = {"layer": LayerNorm2d, "batch": nn.BatchNorm2d, "none": ()}
    estimator = MaskEstimator(4, width=8, norm=norm)
    assert sum(isinstance(module, (LayerNorm2d, nn.BatchNorm2d)) for module in estimator.modules()) == count
    assert sum(isinstance(module, kinds[norm]) for module in estimator.modules()) == count


def test_initialisation() -> None:
    """He's for the 3x3 convolutions (fan out: 9 x 64), small for the last, zero biases."""
    estimator = MaskEstimator(128, width=64)
    assert estimator.stem.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
    assert estimator.blocks[1].conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
    assert estimator.to_logit.weight.abs().max() < 0.1
    assert estimator.to_logit.weight.std() > 0.01  # findings: a zero last layer is all off in evaluation
    assert all((m.bias == 0).all() for m in estimator.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_finite_logits(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        logits = MaskEstimator(8)(10 * torch.randn(2, 8, 5, 5))
    assert logits.dtype == dtype
    assert logits.isfinite().all()


def test_repr_shows_the_bound() -> None:
    assert "logit_range=4" in repr(MaskEstimator(4))
    assert "logit_range=inf" in repr(MaskEstimator(4, logit_range=math.inf))


def test_wrong_norm() -> None:
    with pytest.raises(ValueError, match=r"mask_norm must be one of 'layer', 'batch', 'none', got 'group'"):
        MaskEstimator(4, norm="group")


@pytest.mark.parametrize("logit_range", [0.0, -1.0, math.nan])
def test_wrong_logit_range(logit_range: float) -> None:
    with pytest.raises(ValueError, match=r"logit_range must be positive \(math.inf for no bound\), got"):
        MaskEstimator(4, logit_range=logit_range)
