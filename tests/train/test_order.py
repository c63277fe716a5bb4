"""Every image once per epoch, shared without overlap, in an order that the seed decides; and randomness by image."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from aimwrap import AIM
from aimwrap.data import Sample
from aimwrap.gumbel import binary_gumbel_softmax, logistic_noise_like, logistic_noise_of, perturb
from aimwrap.train.checkpoints import generator_states, restore_generators
from aimwrap.train.data import (
    BatchOrder,
    Draw,
    SeededImages,
    batches_of,
    mixed,
    seed_generators,
    seed_of_image,
    steps_per_epoch,
)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_is_every_image_once_in_even_batches(images: int, size: int, seed: int, epoch: int) -> None:
    batches = batches_of(images, size, seed, epoch)
    assert sorted(image for batch in batches for image in batch) == list(range(images))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == steps_per_epoch(images, size) and max(sizes) <= size and max(sizes) - min(sizes) <= 1


@given(st.integers(8, 60), st.integers(8, 20), st.integers(1, 4), st.integers(0, 2))
def test_processes_share_each_batch_and_begin_where_they_should(
    images: int, size: int, processes: int, first: int
) -> None:
    joint = batches_of(images, size, 0, 3)
    orders = [BatchOrder(images, size, 0, rank, processes) for rank in range(processes)]
    for order in orders:
        first = min(first, order.steps_per_epoch)
        order.epoch, order.first_step = 3, first
        assert len(order) == len(list(order))
    for step, parts in enumerate(zip(*orders, strict=True), start=first):
        together = [draw for part in parts for draw in part]
        assert sorted(draw.image for draw in together) == sorted(joint[step])
        assert all(draw.seed == seed_of_image(0, 3, draw.image) for draw in together)
        assert orders[0].size_of(step) == len(joint[step])
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(map(tuple, batches_of(30, 7, seed, epoch))) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_too_many_processes_for_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"batch_size must leave every process an image.*4 at least.*5 processes"):
        BatchOrder(9, 5, 0, 0, 5)


def test_mixed_numbers_have_nothing_in_common() -> None:
    numbers = {mixed(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(numbers) == 512 and all(0 <= number < 2**63 for number in numbers)
    assert abs(sum(number >> 62 for number in numbers) / 512 - 0.5) < 0.1


def test_mixing_is_splitmix64_s() -> None:
    """A part alone gives the generator's first draw from that seed, as its authors' program prints it."""
    assert mixed(0) == 0xE220A8397B1DCDAF >> 1
    assert mixed(1234567) == 6457827717110365317 >> 1


class Drawing(Dataset[Sample]):
    """Images that are draws from all three generators."""

    def __getitem__(self, image: int) -> Sample:
        drawn = [torch.rand(()).item(), random.random(), np.random.rand()]
        return Sample(torch.tensor([image, *drawn]), 0, None, None, None, None, "", "")


def test_an_image_draws_from_its_own_number_and_disturbs_nothing() -> None:
    images = SeededImages(Drawing())
    seed_generators(5)
    expected = torch.rand(2), random.random(), np.random.rand()
    seed_generators(5)
    first = images[Draw(3, 11)][0].image
    torch.rand(4), random.random(), np.random.rand()
    assert torch.equal(images[Draw(3, 11)][0].image, first)
    assert not torch.equal(images[Draw(3, 12)][0].image[1:], first[1:])
    seed_generators(5)
    images[Draw(3, 11)]
    assert torch.equal(torch.rand(2), expected[0]) and (random.random(), np.random.rand()) == expected[1:]


def test_generators_come_back() -> None:
    seed_generators(3)
    random.gauss(0, 1), np.random.normal()  # each keeps a second draw for later
    states = generator_states(torch.device("cpu"))
    expected = torch.rand(3), random.gauss(0, 1), np.random.normal(), random.random(), np.random.rand()
    seed_generators(4)
    restore_generators(states, torch.device("cpu"))
    found = torch.rand(3), random.gauss(0, 1), np.random.normal(), random.random(), np.random.rand()
    assert torch.equal(found[0], expected[0]) and found[1:] == expected[1:]


def test_noise_of_numbers_is_logistic_and_its_streams_and_positions_are_independent() -> None:
    seeds, logits = torch.arange(400), torch.zeros(400, 1, 10, 10)
    noise = logistic_noise_of(seeds, logits)
    drawn = logistic_noise_like(torch.zeros(40_000))
    shares = torch.linspace(0.01, 0.99, 25)
    torch.testing.assert_close(noise.flatten().quantile(shares), drawn.quantile(shares), rtol=0.1, atol=0.1)
    assert noise.isfinite().all()
    other = logistic_noise_of(seeds, logits, stream=1)
    moved = (noise[1:, ..., :-1], noise[:-1, ..., 1:]), (noise[1:], other[:-1])
    for first, second in ((noise, other), (noise[1:], noise[:-1]), (noise[..., 1:], noise[..., :-1]), *moved):
        pair = torch.stack([first.flatten(), second.flatten()])
        assert torch.corrcoef(pair)[0, 1].abs() < 0.02


def test_noise_of_numbers_leaves_the_generator_alone() -> None:
    logits = torch.zeros(4, 1, 5, 5)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = perturb(logits, training=True, seeds=torch.arange(4))
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2)
    assert torch.equal(perturb(logits, training=True, seeds=torch.arange(4)), first)
    assert torch.equal(perturb(logits, training=False, seeds=torch.arange(4)), logits)
    assert binary_gumbel_softmax(logits, training=False).all()


@pytest.fixture
def model() -> AIM:
    from tiny_nets import tiny

    return AIM(tiny(), [2, 3], 0.25, width=16, mask_width=8).train()


def test_masks_depend_on_their_image_and_its_number_alone(model: AIM) -> None:
    images, seeds = torch.randn(6, 3, 64, 64), torch.tensor([5, 0, 2**62, 7, 9, 11])
    masks = model(images, noise_seeds=seeds).masks
    order = torch.tensor([3, 1, 5])
    parts = model(images[order], noise_seeds=seeds[order]).masks
    for stage, mask in masks.items():
        assert torch.equal(parts[stage], mask[order]) and 0 < mask.mean() < 1
    others: dict[int, Tensor] = model(images, noise_seeds=seeds + 1).masks
    assert any(not torch.equal(others[stage], mask) for stage, mask in masks.items())
    assert torch.equal(model.eval()(images, noise_seeds=seeds).masks[2], model(images).masks[2])


def test_wrong_numbers_are_named(model: AIM) -> None:
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"noise_seeds must be one number per image, \(2,\), got \(3,\)"):
        model(images, noise_seeds=torch.arange(3))
    with pytest.raises(TypeError, match=r"noise_seeds must be an int64 tensor.*float32"):
        model(images, noise_seeds=torch.rand(2))
