"""Reports of the loss, tau and temperature: precision, states that do not fit, and values taken in silence."""

import copy
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import TinyNet

from aimwrap import AIM, AIMLoss, AIMOutput, MaskHealth, TauScheduler, annealed_tau
from aimwrap.train.run import Progress

WEIGHT = torch.tensor([0.3, 0.7])


def output_of(logits: Tensor) -> AIMOutput:
    return AIMOutput(logits, {3: logits}, {3: torch.ones(len(logits), 1, 2, 2).to(logits)})


@pytest.mark.parametrize("cast", [nn.Module.bfloat16, nn.Module.half, nn.Module.double])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("classification", "target"),
    [
        (nn.CrossEntropyLoss(weight=WEIGHT), torch.tensor([0, 1])),
        (nn.CrossEntropyLoss(), torch.tensor([[0.25, 0.75], [1.0, 0.0]])),
        (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), torch.tensor([[0.0, 1.0], [1.0, 0.0]])),
    ],
)
def test_a_loss_may_be_cast_as_the_model_is(cast: Any, dtype: torch.dtype, classification: Any, target: Tensor) -> None:
    """Reported, of Lightning's bf16-true: expected scalar type Float but found BFloat16."""
    logits = torch.tensor([[0.5, -1.0], [0.25, 2.0]])
    expected = AIMLoss(tau=0.35, classification_loss=copy.deepcopy(classification))(output_of(logits), target)
    criterion = cast(AIMLoss(tau=0.35, classification_loss=copy.deepcopy(classification)))
    given = target.to(dtype) if target.is_floating_point() else target
    loss = criterion(output_of(logits.to(dtype)), given)
    assert loss.dtype in (torch.float32, torch.float64)
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)  # the weights are rounded
    assert criterion.tau.item() == pytest.approx(0.35, rel=4e-3)


def test_weights_of_numpys_precision_fit() -> None:
    criterion = AIMLoss(tau=1.0, classification_loss=nn.CrossEntropyLoss(weight=WEIGHT.double()))
    assert criterion(output_of(torch.zeros(2, 2)), torch.tensor([0, 1])).item() == pytest.approx(2 * math.log(2))


class Centred(nn.Module):
    """Keeps a moving average of the logits, written in place or anew."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.in_place = in_place

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        mean = (self.mean + logits.detach().mean(0)) / 2
        self.mean = self.mean.copy_(mean) if self.in_place else mean
        return nn.functional.cross_entropy(logits - self.mean, target)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("of_logits", [torch.bfloat16, torch.float32, torch.float64])
def test_what_a_loss_keeps_is_not_lost(in_place: bool, dtype: torch.dtype, of_logits: torch.dtype) -> None:
    """In another precision than the logits, its buffers were changed in copies, and stayed as they were."""
    logits, own = torch.tensor([[0.5, -1.0], [0.25, 2.0]]), Centred(in_place)
    criterion = AIMLoss(tau=1.0, classification_loss=own).to(dtype)
    labels = torch.tensor([0, 1])
    loss = criterion(output_of(logits.to(of_logits)), labels)
    assert own.mean.dtype == dtype and own.mean.tolist() == [0.28125, 0.375]  # after two calls
    expected = [nn.functional.cross_entropy(logits - own.mean / share, labels).item() for share in (1.5, 1)]
    assert loss.item() == pytest.approx(sum(expected), rel=2e-3)  # the buffer may be rounded


def test_a_loaded_loss_anneals_to_the_tau_of_its_state() -> None:
    """Reported: a loss with tau 0.25 loads a state with 0.5, and goes on to 0.25."""
    saved = AIMLoss(tau=0.5)
    TauScheduler(saved, anneal_epochs=4).step()
    resumed = AIMLoss(tau=0.25)
    early = TauScheduler(resumed, anneal_epochs=4)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.target_tau == 0.5 and resumed.tau.item() == 0.875 and "tau=0.5" in repr(resumed)
    for _ in range(5):
        early.step()
    assert resumed.tau.item() == 0.5 == TauScheduler(resumed, anneal_epochs=0).tau


def test_older_states_of_a_loss_still_load() -> None:
    criterion = AIMLoss(tau=[0.25, 0.5])
    criterion.load_state_dict({"tau": torch.tensor([0.5, 0.75])})
    assert criterion.tau.tolist() == [0.5, 0.75] and criterion.target_tau == (0.25, 0.5)
    held = nn.ModuleDict({"criterion": AIMLoss(tau=0.25)})
    held.load_state_dict({"criterion.tau": torch.tensor(0.5)})


def watched() -> dict[str, Tensor]:
    health = MaskHealth(0.25)
    health.update(output_of(torch.zeros(4, 2)), training=True)
    health.report()
    health.update(output_of(torch.zeros(4, 2)), training=False)
    return health.state_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation/3/images": torch.tensor(0)},
        {"evaluation/3/images": torch.tensor([1, 2])},
        {"evaluation/3/images": None},
        {"evaluation/3/area": None},
        {"evaluation/3/area": "much"},
        {"evaluation/layer4/images": torch.tensor(1)},
        {"evaluation//images": torch.tensor(1)},
        {"last/{/first": torch.ones(1)},
        {"tau": None},
        {"tau": torch.ones(3)},
        {"bad_values": None},
        {"training/[]/images": torch.tensor(1)},
    ],
)
def test_a_monitor_refuses_a_state_that_it_cannot_report(change: dict[str, Any]) -> None:
    """Reported: ZeroDivisionError or JSONDecodeError, at the end of an epoch; a refused state changes nothing."""
    state = {name: value for name, value in (watched() | change).items() if value is not None}
    health = MaskHealth(0.25)
    health.load_state_dict(watched())
    with pytest.raises(ValueError, match=r"state must be a MaskHealth's state_dict\(\), and (has|lacks)"):
        health.load_state_dict(state)
    assert health.state_dict().keys() == watched().keys() and [f.symptom for f in health.report()] == ["all on"]


@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0, -1.0, True, None])
def test_a_temperature_is_finite(value: Any) -> None:
    """Reported: with infinity the masks' gradient is exactly 0."""
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        AIM(TinyNet(), [2, 3], temperature=value)


@pytest.mark.parametrize("value", [math.inf, math.nan, True, 2.5, "3", -1])
@pytest.mark.parametrize("unit", ["anneal_epochs", "anneal_steps"])
def test_an_annealing_has_a_whole_number_of_steps(unit: str, value: Any) -> None:
    """Reported: infinity and True are taken, and the first never moves tau."""
    with pytest.raises(ValueError, match=f"{unit} must (be a whole number|not be negative), got"):
        TauScheduler(AIMLoss(tau=0.25), **{unit: value})
    json.dumps(TauScheduler(AIMLoss(tau=0.25), **{unit: torch.tensor([3]).numpy()[0]}).state_dict())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((-1, 0.25, 3), {}),
        ((math.nan, 0.25, 3), {}),
        ((1, 0.25, -3), {}),
        ((1, 0.25, math.inf), {}),
        ((1, 0.25, math.nan), {}),
        ((1, 25, 3), {}),
        ((1, math.nan, 3), {}),
        ((1, 0.25, 3), {"start": 2.0}),
    ],
)
def test_an_annealed_tau_stays_an_area(arguments: tuple[float, float, float], named: dict[str, float]) -> None:
    """Reported: annealed_tau(-1, 0.25, 3) is 1.25."""
    with pytest.raises(ValueError, match="steps must be 0 or more"):
        annealed_tau(*arguments, **named)


@pytest.mark.parametrize("row", [[3.5, 0.0], [-0.5, 1.5], [math.nan, 1.0]])
def test_soft_labels_are_shares(row: list[float]) -> None:
    """Reported: labels that sum to 3.5 are taken in silence."""
    with pytest.raises(ValueError, match="soft labels must be shares"):
        AIMLoss(tau=0.25)(output_of(torch.zeros(2, 2)), torch.tensor([[0.5, 0.5], row]))
    mixed = torch.tensor([[0.9, 0.1], [1 / 3, 2 / 3]]).half()
    assert AIMLoss(tau=1.0)(output_of(torch.zeros(2, 2)), mixed).item() == pytest.approx(2 * math.log(2), rel=1e-3)


@pytest.mark.parametrize("weight", ["mask_weight", "stage_weight", "final_weight"])
def test_weights_are_finite(weight: str) -> None:
    with pytest.raises(ValueError, match=f"{weight} must not be negative, got inf"):
        AIMLoss(tau=0.25, **{weight: math.inf})


def test_training_sums_need_no_float64_on_a_device() -> None:
    """Reported of Apple's GPUs, which have none: what is kept on the device is as wide as the loss."""
    progress = Progress()
    for _ in range(3):
        progress.add(torch.tensor(0.1), torch.tensor([[0.0, 1.0]] * 7), torch.tensor([1] * 5 + [0] * 2))
    assert {seen.dtype for seen in progress.batches} == {torch.float32}
    state = progress.state_dict()
    assert state["sums"] == progress.sums == pytest.approx([2.1, 15.0, 21.0], rel=1e-7) and state["batches"] == []
    again = Progress()
    again.load_state_dict(json.loads(json.dumps(state)), rank=0)
    again.add(torch.tensor(0.5), torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert again.sums_of_all()[1:] == [16.0, 22.0]
