"""The annealed area: the pure function's values, and the scheduler that moves a loss's tau along it."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aimwrap import AIMLoss, TauScheduler, annealed_tau


def test_linear_by_hand() -> None:
    """tau(e) = 1 - (1 - 0.2) min(1, e / 4)."""
    values = [annealed_tau(epoch, 0.2, 4) for epoch in range(7)]
    assert values == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_cosine_by_hand() -> None:
    """0.2 + 0.8 (1 + cos(pi e / 4)) / 2: slow at both ends, half way at half time."""
    values = [annealed_tau(epoch, 0.2, 4, curve="cosine") for epoch in range(6)]
    quarter = math.sqrt(0.5)  # cos(pi / 4)
    assert values == pytest.approx([1.0, 0.2 + 0.4 * (1 + quarter), 0.6, 0.2 + 0.4 * (1 - quarter), 0.2, 0.2])


def test_start_by_hand() -> None:
    assert [annealed_tau(e, 0.1, 2, start=0.5) for e in range(3)] == pytest.approx([0.5, 0.3, 0.1])


@pytest.mark.parametrize("curve", ["linear", "cosine"])
def test_no_annealing_stays_at_the_target(curve: str) -> None:
    assert annealed_tau(0, 0.25, 0, curve=curve) == 0.25


@given(
    target=st.floats(0.01, 1),
    steps=st.floats(1, 1000),
    start=st.floats(0.01, 1),
    curve=st.sampled_from(["linear", "cosine"]),
    here=st.floats(0, 2000),
    further=st.floats(0, 100),
)
def test_schedule_falls_from_start_to_target_and_holds(
    target: float, steps: float, start: float, curve: str, here: float, further: float
) -> None:
    start = max(start, target)
    now, later = (annealed_tau(s, target, steps, start=start, curve=curve) for s in (here, here + further))
    assert target - 1e-9 <= later <= now + 1e-9 <= start + 2e-9
    assert annealed_tau(0, target, steps, start=start, curve=curve) == pytest.approx(start)
    assert annealed_tau(steps, target, steps, start=start, curve=curve) == target
    assert annealed_tau(steps + further, target, steps, start=start, curve=curve) == target


@pytest.mark.parametrize("unit", ["anneal_epochs", "anneal_steps"])
def test_is_one_before_any_step_and_at_the_target_after_four(unit: str) -> None:
    criterion = AIMLoss(tau=0.25)
    schedule = TauScheduler(criterion, **{unit: 4})
    seen = []
    for _ in range(7):
        seen.append(criterion.tau.item())
        assert schedule.tau == seen[-1]
        schedule.step()
    assert seen == [1.0, 0.8125, 0.625, 0.4375, 0.25, 0.25, 0.25]


def test_anneals_each_stage_to_its_own_target() -> None:
    criterion = AIMLoss(tau=(0.2, 0.6))
    schedule = TauScheduler(criterion, anneal_epochs=2)
    assert criterion.tau.tolist() == [1.0, 1.0]
    schedule.step()
    assert criterion.tau.tolist() == pytest.approx([0.6, 0.8])
    assert schedule.tau == pytest.approx((0.6, 0.8))
    schedule.step()
    assert criterion.tau.tolist() == pytest.approx([0.2, 0.6])


def test_target_is_what_the_loss_was_built_with_though_its_buffer_has_moved() -> None:
    """A checkpoint of the loss from the midst of annealing must not become the new target."""
    criterion = AIMLoss(tau=0.25)
    criterion.tau.fill_(0.7)
    schedule = TauScheduler(criterion, anneal_epochs=1)
    schedule.step()
    assert criterion.tau.item() == 0.25


def test_curve_and_start_reach_the_schedule() -> None:
    criterion = AIMLoss(tau=0.1)
    schedule = TauScheduler(criterion, anneal_epochs=4, start=0.5, curve="cosine")
    assert criterion.tau.item() == pytest.approx(0.5)
    schedule.step()
    assert criterion.tau.item() == pytest.approx(0.1 + 0.4 * (1 + math.sqrt(0.5)) / 2)


def test_annealing_of_zero_length_starts_at_the_target() -> None:
    criterion = AIMLoss(tau=0.25)
    TauScheduler(criterion, anneal_epochs=0)
    assert criterion.tau.item() == 0.25


def test_the_buffer_keeps_its_identity_dtype_and_shape() -> None:
    criterion = AIMLoss(tau=(0.2, 0.6))
    buffer, address = criterion.tau, criterion.tau.data_ptr()
    schedule = TauScheduler(criterion, anneal_epochs=2)
    schedule.step()
    assert criterion.tau is buffer and criterion.tau.data_ptr() == address
    assert buffer.dtype == torch.float32 and buffer.shape == (2,)
    assert criterion.target_tau == (0.2, 0.6)


def test_moves_the_area_loss() -> None:
    """Masks fully open: (1 - tau)^2 is 0 at the start and 0.5625 at the target."""
    from aimwrap import AIMOutput

    output = AIMOutput(torch.zeros(1, 2), {3: torch.zeros(1, 2)}, {3: torch.ones(1, 1, 2, 2)})
    criterion = AIMLoss(tau=0.25)
    schedule = TauScheduler(criterion, anneal_epochs=1)
    assert criterion.components(output, torch.tensor([0])).active_area_loss[3] == 0
    schedule.step()
    assert criterion.components(output, torch.tensor([0])).active_area_loss[3] == 0.5625


@pytest.mark.parametrize("tau", [0.2, (0.2, 0.4)])
@pytest.mark.parametrize("built_with_another_tau", [False, True])
@pytest.mark.parametrize("criterion_too", [None, "before", "after"])
def test_a_resumed_run_goes_on_as_if_uninterrupted(
    tau: object, built_with_another_tau: bool, criterion_too: str | None
) -> None:
    criterion = AIMLoss(tau=tau)
    schedule = TauScheduler(criterion, anneal_epochs=5, start=0.9, curve="cosine")
    schedule.step()
    schedule.step()
    state, criterion_state = json.loads(json.dumps(schedule.state_dict())), criterion.state_dict()
    criterion_state = {name: value.clone() for name, value in criterion_state.items()}

    other = (0.7 if isinstance(tau, float) else (0.7, 0.8)) if built_with_another_tau else tau
    resumed = AIMLoss(tau=other)
    if criterion_too == "before":
        resumed.load_state_dict(criterion_state)
    again = TauScheduler(resumed, anneal_epochs=9)
    again.load_state_dict(state)
    if criterion_too == "after":
        resumed.load_state_dict(criterion_state)
    assert again.state_dict() == schedule.state_dict()
    for _ in range(5):
        assert torch.equal(resumed.tau, criterion.tau)
        schedule.step()
        again.step()
    torch.testing.assert_close(resumed.tau, torch.tensor(tau))


def test_one_stage_as_a_list_or_as_a_float_resume_each_other() -> None:
    """AIMLoss(tau=model.tau) of a one-stage model saved, AIMLoss(tau=0.25) resumed, and the other way round."""
    for saved, new in (((0.25,), 0.25), (0.25, (0.25,))):
        schedule = TauScheduler(AIMLoss(tau=saved), anneal_epochs=4)
        schedule.step()
        resumed = AIMLoss(tau=new)
        TauScheduler(resumed, anneal_epochs=4).load_state_dict(schedule.state_dict())
        assert resumed.tau.item() == 0.8125


def test_state_dict_is_plain_and_complete() -> None:
    schedule = TauScheduler(AIMLoss(tau=0.25), anneal_steps=10)
    schedule.step()
    assert schedule.state_dict() == {
        "steps_done": 1,
        "target": 0.25,
        "length": 10,
        "unit": "steps",
        "start": 1.0,
        "curve": "linear",
    }


def test_repr() -> None:
    schedule = TauScheduler(AIMLoss(tau=0.25), anneal_epochs=4)
    schedule.step()
    assert repr(schedule) == "TauScheduler(1 -> 0.25 in 4 epochs, linear; 1 done, tau = 0.8125)"


@pytest.mark.parametrize("lengths", [{}, {"anneal_epochs": 4, "anneal_steps": 100}])
def test_needs_exactly_one_length(lengths: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"exactly one of anneal_epochs .* and anneal_steps"):
        TauScheduler(AIMLoss(tau=0.25), **lengths)


@pytest.mark.parametrize("unit", ["anneal_epochs", "anneal_steps"])
def test_negative_length(unit: str) -> None:
    with pytest.raises(ValueError, match=f"{unit} must not be negative, got -1; 0 starts at the target"):
        TauScheduler(AIMLoss(tau=0.25), **{unit: -1})


def test_unknown_curve() -> None:
    with pytest.raises(ValueError, match="curve must be one of 'linear', 'cosine', got 'step'"):
        TauScheduler(AIMLoss(tau=0.25), anneal_epochs=4, curve="step")


@pytest.mark.parametrize("start", [0.3, 1.5])
def test_start_below_a_target_or_above_one(start: float) -> None:
    with pytest.raises(ValueError, match=r"start must be between the target \(0.2, 0.4\) and 1, got"):
        TauScheduler(AIMLoss(tau=(0.2, 0.4)), anneal_epochs=4, start=start)


def test_refused_arguments_leave_the_criterion_alone() -> None:
    criterion = AIMLoss(tau=0.25)
    with pytest.raises(ValueError, match="start"):
        TauScheduler(criterion, anneal_epochs=4, start=2)
    assert criterion.tau.item() == 0.25


def test_a_foreign_state() -> None:
    schedule = TauScheduler(AIMLoss(tau=0.25), anneal_epochs=4)
    pattern = r"not a state of a TauScheduler, it lacks \['curve', .*'target'.*\]; pass its state_dict"
    with pytest.raises(ValueError, match=pattern):
        schedule.load_state_dict({"last_epoch": 3})
    assert schedule.state_dict()["steps_done"] == 0


def test_a_state_for_another_number_of_stages() -> None:
    schedule, other = (TauScheduler(AIMLoss(tau=tau), anneal_epochs=4) for tau in ((0.2, 0.4), (0.2, 0.4, 0.6)))
    with pytest.raises(ValueError, match=r"the state is for 3 stage\(s\) and this loss has 2; build the AIMLoss with"):
        schedule.load_state_dict(other.state_dict())
    assert schedule.criterion.tau.tolist() == [1.0, 1.0]


def test_state_in_another_unit_and_something_that_is_no_criterion() -> None:
    state = TauScheduler(AIMLoss(tau=0.25), anneal_steps=5000).state_dict()
    schedule = TauScheduler(AIMLoss(tau=0.25), anneal_epochs=4)
    with pytest.raises(ValueError, match=r"the state counts steps and this scheduler epochs; .*anneal_steps=5000"):
        schedule.load_state_dict(state)
    assert schedule.unit == "epochs"
    with pytest.raises(TypeError, match="moves an AIMLoss's tau, got Linear; pass the criterion"):
        TauScheduler(torch.nn.Linear(1, 1), anneal_epochs=4)
