"""Copies, checkpoints and compiled models."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from zoo import HEADS, HeadConvNet, TinyNet, aim, copied, every_head

from aimwrap import AIMLoss, AIMOutput, TauScheduler


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
@every_head
def test_a_loaded_model_still_switches_to_evaluation(head: str, how: str) -> None:
    """Dropout and BatchNorm of the backbone, and the masks' noise."""
    model = aim(head, backbone=TinyNet(dropout=0.5)).train()
    twin = copied(model, how)
    images = torch.randn(2, 3, 64, 64)
    assert twin.variant == model.variant and twin.taps == model.taps and repr(twin) == repr(model)
    assert not torch.equal(twin(images).logits, twin(images).logits)
    twin.load_state_dict(model.state_dict())
    model.eval()
    twin.eval()
    assert torch.equal(twin(images).logits, twin(images).logits)
    assert torch.equal(twin(images).logits, model(images).logits)


def test_checkpoint_of_the_backbone_itself() -> None:
    pattern = r"the backbone's own checkpoint; load it with model.backbone.load_state_dict\(state_dict, strict=False\)"
    with pytest.raises(RuntimeError, match=pattern):
        aim().load_state_dict(HeadConvNet().state_dict())


def test_checkpoint_of_other_stages() -> None:
    state = aim(stages=(1, 2, 3)).state_dict()
    pattern = r"it has stage_1, stage_2, stage_3, this model \(HeadConvNet\+AIM \[3, 25%\], .*\) has stage_2, stage_3"
    with pytest.raises(RuntimeError, match=pattern):
        aim().load_state_dict(state)


def test_checkpoint_of_the_other_head() -> None:
    for head, other in (HEADS, HEADS[::-1]):
        expected = f"another variant.* the {other} head; build the model with head=.{other}"
        with pytest.raises(RuntimeError, match=expected):
            aim(head).load_state_dict(aim(other).state_dict())


def test_checkpoint_of_another_number_of_classes() -> None:
    pattern = r"does not fit HeadConvNet.* with 7 classes; build the model the same way\n(.*\n)*.*size mismatch"
    with pytest.raises(RuntimeError, match=pattern):
        aim().load_state_dict(aim(num_classes=9).state_dict())


def test_load_state_dict_returns_what_torch_returns() -> None:
    model = aim()
    state = model.state_dict()
    state.pop("classifier.bias")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["classifier.bias"] and unexpected == []


def steps(model: nn.Module, criterion: nn.Module, images: Tensor) -> list[float]:
    losses = []
    for training in (True, False):
        model.train(training)
        torch.manual_seed(3)
        loss = criterion(model(images), torch.tensor([0, 1]))
        loss.backward()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("head", ["paper", "feature-preserving"])
def test_compiles_with_aot_autograd_in_train_and_eval(head: str) -> None:
    torch._dynamo.reset()
    model = aim(head, backbone=TinyNet())
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 64, 64)
    eager = steps(model, AIMLoss(model.tau), images)
    assert steps(compiled, AIMLoss(model.tau), images) == pytest.approx(eager, rel=1e-4)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4)


def test_moving_tau_compiles_nothing_again() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    criterion = AIMLoss(tau=(0.2, 0.3))
    schedule = TauScheduler(criterion, anneal_epochs=5)
    compiled = torch.compile(criterion, fullgraph=True, backend=backend)
    masks = {2: torch.ones(2, 1, 4, 4), 3: torch.ones(2, 1, 2, 2)}
    output = AIMOutput(torch.zeros(2, 3), {2: torch.zeros(2, 3), 3: torch.zeros(2, 3)}, masks)
    losses = []
    for _ in range(6):
        losses.append(compiled(output, torch.tensor([0, 1])).item())
        schedule.step()
    assert len(graphs) == 1
    assert losses == sorted(losses) and losses[0] < losses[-1]


@pytest.mark.slow
def test_compiled_loop_of_model_and_criterion_compiles_once_per_mode() -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    model = aim(backbone=TinyNet()).train()
    criterion = AIMLoss(model.tau)
    schedule = TauScheduler(criterion, anneal_steps=3)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        return criterion(model(images), labels)

    compiled = torch.compile(loss_of, fullgraph=True, backend=backend)
    for _ in range(4):
        compiled(torch.randn(2, 3, 64, 64), torch.tensor([0, 1])).backward()
        schedule.step()
    assert len(graphs) == 1
