"""Compiled once: neither a moving tau nor new epochs compile again, and the batch size at most once."""

import copy
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from zoo import NUM_CLASSES, TinyNet, with_heads_in_turn

from aimwrap import AIM, AIMLoss, TauScheduler

# torch looks at the gradient of every tensor that a compiled function is given, and the criterion's are no leaves.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

Wrapped = Callable[..., AIM]


def with_heads(names: Iterable[str]) -> pytest.MarkDecorator:
    """A tiny one by default, and these slowly."""
    slow = [("tiny", "paper"), *with_heads_in_turn(list(names))]
    values = [("tiny", "feature-preserving"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in slow)]
    return pytest.mark.parametrize(("name", "head"), values)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What one test compiled counts for no other."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 3, 64, 64), torch.arange(size) % NUM_CLASSES


@with_heads(["resnet10t", "convnext_atto", "mobilenetv3_small_050", "twins"])
def test_training_compiles_once_while_tau_moves(name: str, head: str, wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped(name, head)).train()
    criterion = AIMLoss(model.tau)
    schedule = TauScheduler(criterion, anneal_epochs=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    counters = CompileCounter(), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counters[0])
    loss_of = torch.compile(criterion, fullgraph=True, backend=counters[1])
    taus = []
    for _ in range(4):
        for _ in range(2):
            images, labels = batch(2)
            loss = loss_of(compiled(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        taus.append(criterion.tau.tolist())
        schedule.step()
    assert taus[0] == [1.0, 1.0] and taus[3] == [0.25, 0.25]
    assert [counter.frame_count for counter in counters] == [1, 1]


def compilations_of_batches(model: AIM, modes: tuple[bool, ...]) -> list[tuple[int, int]]:
    """How often model and criterion have been compiled after batches of many sizes, in training or not."""
    criterion = AIMLoss(model.tau)
    counters = CompileCounter(), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counters[0])
    loss_of = torch.compile(criterion, fullgraph=True, backend=counters[1])
    counts = []
    for training in modes:
        compiled.train(training)
        criterion.train(training)
        with torch.set_grad_enabled(training):
            for size in (4, 4, 3, 5, 2, 4):
                images, labels = batch(size)
                loss_of(compiled(images), labels)
        counts.append((counters[0].frame_count, counters[1].frame_count))
    return counts


@pytest.mark.slow
@with_heads(["tv_convnext", "tv_swin", "tv_regnet_y_400mf"])
def test_one_more_compilation_serves_all_other_batch_sizes(name: str, head: str, wrapped: Wrapped) -> None:
    """The last batch of an epoch is mostly a smaller one."""
    assert compilations_of_batches(copy.deepcopy(wrapped(name, head)), (True,)) == [(2, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head"), with_heads_in_turn(["tiny", "tv_resnet18", "tv_swin", "tv_efficientnet_b0"]))
def test_evaluation_after_training_compiles_once(name: str, head: str, wrapped: Wrapped) -> None:
    """It knows already that batches have any size; the criterion does nothing else there, or no gradient."""
    (_, training), (model, criterion) = compilations_of_batches(copy.deepcopy(wrapped(name, head)), (True, False))
    assert model == 3 and training == 2 and criterion <= 3


@pytest.mark.rare
@pytest.mark.slow
def test_training_compiled_for_the_cpu_has_the_same_gradients() -> None:
    """By Inductor; the noise is made of a number per image, so both draw the same masks."""
    torch._dynamo.reset()
    model = AIM(TinyNet(), stages=[2, 3], head="paper").train()
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    criterion, seeds, gradients = AIMLoss(tau=model.tau), torch.arange(4), []
    for step in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        criterion(step(images, noise_seeds=seeds), labels).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert gradients[0]
    for mine, compiled in zip(*gradients, strict=True):  # rounding alone differs
        torch.testing.assert_close(compiled, mine, rtol=1e-2, atol=1e-4)
