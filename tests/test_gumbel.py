"""The binary Gumbel-softmax: exact zeros and ones, the right open rates, and the soft sigmoid's gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aimwrap import binary_gumbel_softmax
from aimwrap.gumbel import logistic_noise_like, perturb, rank_only, straight_through

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def soft_of(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The soft relaxation under the noise of the current seed."""
    return torch.sigmoid((logits + logistic_noise_like(logits).to(logits.dtype)) / temperature)


def test_noise_is_logistic() -> None:
    """Kolmogorov-Smirnov against F(x) = 1 / (1 + exp(-x)); 1.63 / sqrt(n) is the 1 % point."""
    noise = logistic_noise_like(torch.empty(20_000)).sort().values
    empirical = (torch.arange(len(noise)) + 0.5) / len(noise)
    assert (empirical - torch.sigmoid(noise)).abs().max() < 1.63 / math.sqrt(len(noise))


def test_noise_has_the_moments_of_a_difference_of_two_gumbel_draws() -> None:
    """Mean 0, variance pi^2 / 3."""
    noise = logistic_noise_like(torch.empty(100_000))
    gumbel = -torch.log(-torch.log(torch.rand(2, 100_000).clamp(1e-7, 1 - 1e-7)))
    assert noise.mean().abs() < 0.03
    assert noise.var() == pytest.approx(math.pi**2 / 3, rel=0.03)
    assert noise.var() == pytest.approx((gumbel[0] - gumbel[1]).var().item(), rel=0.04)


@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_noise_is_finite_at_the_ends_of_the_uniform_draw(draw: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **kwargs: torch.full(shape, draw, dtype=kwargs["dtype"]))
    noise = logistic_noise_like(torch.empty(3))
    assert noise.isfinite().all()
    assert noise.sign().tolist() == [2 * draw - 1] * 3
    assert 15 < noise.abs().max() < 17  # log(2^-23) = -15.94


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_float32_whatever_the_logits_are(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        noise = logistic_noise_like(torch.empty(4, dtype=dtype))
    assert noise.dtype == torch.float32
    torch.manual_seed(0)
    assert torch.equal(noise, logistic_noise_like(torch.empty(4)))


def test_evaluation_opens_exactly_where_the_logit_is_not_negative() -> None:
    logits = torch.tensor([-1e4, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1e4])
    assert binary_gumbel_softmax(logits, training=False).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_evaluation_draws_nothing() -> None:
    before = torch.get_rng_state()
    binary_gumbel_softmax(torch.randn(8, generator=torch.Generator().manual_seed(1)), training=False)
    assert torch.equal(before, torch.get_rng_state())


def test_training_adds_the_noise_before_the_threshold() -> None:
    logits = torch.randn(1000)
    torch.manual_seed(3)
    mask = binary_gumbel_softmax(logits, training=True)
    torch.manual_seed(3)
    uniform = torch.rand(1000)
    assert torch.equal(mask, (logits + torch.log(uniform / (1 - uniform)) >= 0).float())


@pytest.mark.parametrize("logit", [-4.0, -1.0, 0.0, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_open_rate_is_the_sigmoid_of_the_logit(logit: float, temperature: float) -> None:
    """At any temperature: it only shapes the gradient. Four standard deviations of a mean of n coin flips."""
    n, rate = 40_000, 1 / (1 + math.exp(-logit))
    opened = binary_gumbel_softmax(torch.full((n,), logit), training=True, temperature=temperature).mean().item()
    assert abs(opened - rate) < 4 * math.sqrt(rate * (1 - rate) / n)


def test_draws_differ_between_calls_and_follow_a_generator() -> None:
    logits = torch.zeros(200)
    assert not torch.equal(binary_gumbel_softmax(logits, training=True), binary_gumbel_softmax(logits, training=True))
    draws = [binary_gumbel_softmax(logits, training=True, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)


@given(
    seed=st.integers(0, 2**31),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    temperature=st.sampled_from([0.05, 0.66, 1.0, 5.0]),
    training=st.booleans(),
)
def test_masks_are_exactly_zero_or_one(
    seed: int, shape: list[int], dtype: torch.dtype, scale: float, temperature: float, training: bool
) -> None:
    torch.manual_seed(seed)
    logits = (scale * torch.randn(shape)).to(dtype).requires_grad_()
    mask = binary_gumbel_softmax(logits, training=training, temperature=temperature)
    assert mask.shape == logits.shape
    assert mask.dtype == dtype
    assert ((mask == 0) | (mask == 1)).all()
    mask.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_million_training_masks_are_exact(dtype: torch.dtype) -> None:
    """hard + soft - soft.detach() misses by a rounding error in one value of eight."""
    mask = binary_gumbel_softmax(2 * torch.randn(1_000_000).to(dtype), training=True, temperature=0.7)
    assert mask.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("training", [True, False])
def test_gradient_is_that_of_the_soft_sigmoid(training: bool, temperature: float) -> None:
    """By autograd of the soft relaxation, by its formula soft (1 - soft) / temperature, and by finite differences."""
    logits = torch.linspace(-3, 3, 50)
    upstream = torch.randn(50)

    def noise() -> torch.Tensor:
        torch.manual_seed(7)
        return logistic_noise_like(logits) if training else torch.zeros(50)

    straight_through = logits.clone().requires_grad_()
    torch.manual_seed(7)
    binary_gumbel_softmax(straight_through, training=training, temperature=temperature).backward(upstream)

    relaxed = logits.clone().requires_grad_()
    soft = torch.sigmoid((relaxed + noise()) / temperature)
    soft.backward(upstream)
    torch.testing.assert_close(straight_through.grad, relaxed.grad)
    torch.testing.assert_close(straight_through.grad, upstream * (soft * (1 - soft) / temperature).detach())

    shifted = [torch.sigmoid((logits.double() + h + noise().double()) / temperature) for h in (-1e-4, 1e-4)]
    differences = upstream * ((shifted[1] - shifted[0]) / 2e-4).float()
    torch.testing.assert_close(straight_through.grad, differences, rtol=1e-3, atol=1e-5)


def test_lower_temperature_makes_the_gradient_more_local() -> None:
    gradients = []
    for temperature in (0.2, 1.0):
        logits = torch.tensor([0.0, 3.0], requires_grad=True)
        binary_gumbel_softmax(logits, training=False, temperature=temperature).sum().backward()
        gradients.append(logits.grad)
    assert gradients[0][0] > gradients[1][0] and gradients[0][1] < gradients[1][1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_noise_and_sigmoid_are_float32_under_autocast(dtype: torch.dtype, training: bool) -> None:
    """The gradient of half-precision logits is the float32 one, rounded once."""
    logits = torch.linspace(-3, 3, 64).to(dtype)
    half, full = logits.clone().requires_grad_(), logits.float().requires_grad_()
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=dtype):
        binary_gumbel_softmax(half, training=training).sum().backward()
    torch.manual_seed(1)
    binary_gumbel_softmax(full, training=training).sum().backward()
    assert torch.equal(half.grad, full.grad.to(dtype))


def test_rank_only_keeps_values_and_takes_the_mean_out_of_the_gradient() -> None:
    logits = (5 * torch.randn(3, 1, 4, 7)).requires_grad_()
    upstream = torch.randn(3, 1, 4, 7)
    ranked = rank_only(logits)
    assert torch.equal(ranked, logits)
    ranked.backward(upstream)
    torch.testing.assert_close(logits.grad, upstream - upstream.mean((2, 3), keepdim=True))


def test_parts_make_the_whole() -> None:
    logits = torch.randn(2, 1, 5, 5)
    for training in (True, False):
        whole, parts = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
        mask = binary_gumbel_softmax(logits, training=training, temperature=0.5, generator=whole)
        assert torch.equal(mask, straight_through(perturb(logits, training=training, generator=parts), 0.5))
