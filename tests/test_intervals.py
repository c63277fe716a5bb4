"""Intervals of means against what is known of them."""

import math

import pytest
import torch

from aimwrap.analysis.intervals import bootstrap_means, percentile_interval


def test_the_bootstrap_knows_the_standard_error_of_a_mean() -> None:
    values = torch.randn(400, 1).double() * 3 + 5
    low, high = percentile_interval(bootstrap_means(values)[:, 0])
    error = values.std().item() / math.sqrt(400)
    assert low == pytest.approx(values.mean().item() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean().item() + 1.96 * error, abs=0.2 * error)


def test_columns_are_drawn_together() -> None:
    first = torch.randn(50).double()
    draws = bootstrap_means(torch.stack([first, first + 2], 1))
    assert torch.allclose(draws[:, 1] - draws[:, 0], torch.tensor(2.0).double())
    assert draws[:, 0].std() > 0.05


def test_one_seed_one_interval_however_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(30, 2)
    draws = bootstrap_means(values, seed=3)
    assert draws.shape == (2000, 2) and torch.equal(draws, bootstrap_means(values, seed=3))
    assert not torch.equal(draws, bootstrap_means(values, seed=4))
    monkeypatch.setattr("aimwrap.analysis.intervals._AT_ONCE", 700)
    assert bootstrap_means(values, seed=3).shape == (2000, 2)


def test_torchs_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    bootstrap_means(torch.ones(5, 1))
    assert torch.equal(before, torch.get_rng_state())
