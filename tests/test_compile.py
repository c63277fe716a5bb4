"""Compiled once: neither a moving tau nor the epochs compile anew, and the batch size at most once."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from zoo import NUM_CLASSES, TIMM, TORCHVISION, TinyNet

from aimwrap import AIM, AIMLoss, TauScheduler

Wrapped = Callable[..., AIM]
every_head = pytest.mark.parametrize("head", ["paper", "feature-preserving"])
some_backbones = pytest.mark.parametrize(
    "name", ["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in (*TORCHVISION, *TIMM))]
)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What one test compiled counts for no other."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 3, 64, 64), torch.arange(size) % NUM_CLASSES


@every_head
@some_backbones
def test_training_compiles_once_while_tau_moves(name: str, head: str, wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped(name, head)).train()
    criterion = AIMLoss(model.tau)
    schedule = TauScheduler(criterion, anneal_epochs=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    counters = CompileCounter(), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counters[0])
    loss_of = torch.compile(criterion, fullgraph=True, backend=counters[1])
    taus, losses = [], []
    for _ in range(4):
        for _ in range(2):
            images, labels = batch(2)
            loss = loss_of(compiled(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        taus.append(criterion.tau.tolist())
        losses.append(loss.item())
        schedule.step()
    assert taus[0] == [1.0, 1.0] and taus[3] == [0.25, 0.25]
    assert [counter.frame_count for counter in counters] == [1, 1]


@every_head
@some_backbones
def test_one_more_compilation_serves_all_other_batch_sizes(name: str, head: str, wrapped: Wrapped) -> None:
    """In training and in evaluation, each with the criterion; the last batch of an epoch is mostly a smaller one."""
    model = copy.deepcopy(wrapped(name, head))
    criterion = AIMLoss(model.tau)
    counters = CompileCounter(), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counters[0])
    loss_of = torch.compile(criterion, fullgraph=True, backend=counters[1])
    for training, compilations in ((True, 2), (False, 4)):
        compiled.train(training)
        criterion.train(training)
        with torch.set_grad_enabled(training):
            for size in (4, 4, 3, 5, 2, 4):
                images, labels = batch(size)
                loss_of(compiled(images), labels)
        assert counters[0].frame_count == compilations


def test_the_criterion_compiles_anew_once_for_other_batch_sizes() -> None:
    model, counter = AIM(TinyNet(), [2, 3]).train(), CompileCounter()
    criterion = AIMLoss(model.tau)
    loss_of = torch.compile(criterion, fullgraph=True, backend=counter)
    for size in (4, 4, 3, 5, 2, 4):
        images, labels = batch(size)
        output = model(images)
        torch.testing.assert_close(loss_of(output, labels), criterion(output, labels))
    assert counter.frame_count == 2
