"""MaskHealth: each way to die is named once, with its remedy; what is well is left in peace."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor
from zoo import HeadConvNet

from aimwrap import AIM, AIMLoss, AIMOutput, MaskHealth, MaskHealthWarning, TauScheduler


def output(masks: dict, logits: Tensor | None = None) -> AIMOutput:
    images = len(next(iter(masks.values())))
    logits = torch.zeros(images, 2) if logits is None else logits
    return AIMOutput(logits, dict.fromkeys(masks, logits), masks)


def random_masks(area: float, images: int = 8, size: int = 10, seed: int = 0) -> Tensor:
    return (torch.rand(images, 1, size, size, generator=torch.Generator().manual_seed(seed)) < area).float()


def symptoms(health: MaskHealth) -> list[tuple]:
    return [(finding.stage, finding.symptom) for finding in health.report()]


def test_healthy_masks_are_left_in_peace() -> None:
    health = MaskHealth(0.25)
    for seed in range(3):
        health.update(output({2: random_masks(0.25, seed=seed), 3: random_masks(0.3, seed=seed)}), training=False)
        health.update(output({2: random_masks(0.25, seed=seed), 3: random_masks(0.3, seed=seed)}), training=True)
    assert health.report() == []
    assert health.report() == []  # nothing seen since


@pytest.mark.parametrize(
    ("area", "symptom"), [(1.0, "all on"), (0.0, "all off"), (0.985, "all on"), (0.015, "all off")]
)
@pytest.mark.parametrize("training", [True, False])
def test_all_on_and_all_off(area: float, symptom: str, training: bool) -> None:
    health = MaskHealth((0.25, 0.25))
    health.update(output({2: random_masks(0.25), 3: random_masks(area, images=64)}), training=training)
    assert symptoms(health) == [(3, symptom)]


def test_an_area_near_one_is_fine_where_it_is_asked_for() -> None:
    health = MaskHealth((0.99, 0.02))
    health.update(output({2: random_masks(0.99, 64), 3: random_masks(0.015, 64)}), training=False)
    assert symptoms(health) == []


def test_open_only_in_training() -> None:
    health = MaskHealth(0.25)
    health.update(output({3: random_masks(0.25)}), training=True)
    health.update(output({3: random_masks(0.0)}), training=False)
    assert symptoms(health) == [(3, "open only in training")]


def test_closed_in_both_modes_is_all_off() -> None:
    health = MaskHealth(0.25)
    for training in (True, False):
        health.update(output({3: random_masks(0.0)}), training=training)
    assert symptoms(health) == [(3, "all off")]


def test_the_same_for_every_image_over_batches() -> None:
    health, mask = MaskHealth(0.25), random_masks(0.25, images=1)
    for _ in range(3):
        health.update(output({2: mask.expand(4, -1, -1, -1), 3: random_masks(0.25, 4)}), training=False)
    assert symptoms(health) == [(2, "same for every image")]
    health.update(output({2: mask.expand(4, -1, -1, -1)}), training=False)
    health.update(output({2: random_masks(0.25, 1, seed=5).expand(4, -1, -1, -1)}), training=False)
    assert symptoms(health) == []  # each batch is constant, the batches differ


def test_one_image_says_nothing_about_every_image() -> None:
    health = MaskHealth(0.25)
    health.update(output({3: random_masks(0.25, images=1)}), training=False)
    assert symptoms(health) == []


def test_images_of_several_sizes() -> None:
    health = MaskHealth(0.25)
    for size in (5, 7, 5):
        health.update(output({3: random_masks(0.25, size=size)[:1].expand(3, -1, -1, -1)}), training=False)
    assert symptoms(health) == []


def test_frozen_masks_are_off_tau_and_do_not_move() -> None:
    health = MaskHealth(0.1)
    for epoch in range(3):
        for training in (True, False):
            health.update(output({2: random_masks(0.6), 3: random_masks(0.1)}), training=training)
        assert symptoms(health) == [(2, "frozen" if epoch else "off tau")]  # stage 3 is at tau
    for training in (True, False):
        health.update(output({2: random_masks(0.6, seed=1), 3: random_masks(0.1)}), training=training)
    assert symptoms(health) == [(2, "off tau")]  # moved
    health.update(output({2: random_masks(0.6, seed=1), 3: random_masks(0.1)}), training=False)
    assert symptoms(health) == [(2, "off tau")]  # nothing was trained in between


def test_frozen_compares_the_first_batch() -> None:
    health, said = MaskHealth(0.1), []
    for last in (1, 2):
        health.update(output({3: random_masks(0.6)}), training=True)
        for seed in (0, last):
            health.update(output({3: random_masks(0.6, seed=seed)}), training=False)
        said.append(symptoms(health))
    assert said == [[(3, "off tau")], [(3, "frozen")]]


@pytest.mark.parametrize(
    ("tau", "area", "said"),
    [
        (0.25, 0.34, []),
        (0.25, 0.37, ["off tau"]),  # 0.4 tau = 0.1
        (0.25, 0.13, ["off tau"]),
        (0.05, 0.09, []),  # 0.05 counts more than 0.4 tau = 0.02
        (0.05, 0.12, ["off tau"]),
    ],
)
def test_off_tau_is_what_the_sweep_calls_unhealthy(tau: float, area: float, said: list[str]) -> None:
    mask = torch.zeros(4, 1, 10, 10).flatten(1)
    for n in range(4):
        mask[n, n : n + round(100 * area)] = 1
    health = MaskHealth(tau)
    health.update(output({3: mask.view(4, 1, 10, 10)}), training=False)
    assert [symptom for _, symptom in symptoms(health)] == said
    health.update(output({3: mask.view(4, 1, 10, 10)}), training=True)
    assert symptoms(health) == []  # training masks are noisy, and judged by the extremes only


def test_all_or_nothing() -> None:
    mask = random_masks(0.25, images=40)
    mask[:9], mask[9:36] = 1, 0
    health = MaskHealth(0.25)
    health.update(output({3: mask}), training=False)
    assert symptoms(health) == [(3, "all or nothing")]
    mask[9:14] = random_masks(0.25, images=5)
    health.update(output({3: mask}), training=False)
    assert symptoms(health) == []  # 31 of 40


@pytest.mark.parametrize(
    ("tau", "trained", "said"),
    [
        (0.25, 0.04, "all off"),
        (0.25, 0.06, "open only in training"),
        (0.06, 0.018, "all off"),
        (0.06, 0.05, "open only in training"),
    ],
)
def test_open_in_training_means_a_fifth_of_tau_and_more_than_nothing(tau: float, trained: float, said: str) -> None:
    health = MaskHealth(tau)
    mask = torch.zeros(1, 1, 25, 40).flatten()
    mask[: round(1000 * trained)] = 1
    health.update(output({3: mask.view(1, 1, 25, 40)}), training=True)
    health.update(output({3: torch.zeros(2, 1, 25, 40)}), training=False)
    assert symptoms(health) == [(3, said)]


def test_masks_that_are_to_be_open_everywhere_may_be_the_same() -> None:
    health = MaskHealth(1.0)
    health.update(output({3: random_masks(0.97, 1).expand(4, -1, -1, -1)}), training=False)
    assert symptoms(health) == []


def test_asking_without_having_looked_is_no_error() -> None:
    for tau in (AIMLoss((0.25, 0.25)), (0.25, 0.25), 0.25):
        health = MaskHealth(tau)
        assert health.warn() == []
        health.update(output({2: random_masks(0.25)[:0], 3: random_masks(0.25)[:0]}), training=False)  # an empty batch
        assert health.warn() == []


def test_values_that_are_not_finite() -> None:
    health = MaskHealth(0.25)
    health.update(output({3: random_masks(0.25)}, torch.tensor([[0.0, math.nan]] * 8)), training=True)
    [finding] = health.report()
    assert finding.stage is None and finding.symptom == "not finite"
    assert finding.message.startswith("16 logits or mask values are not finite: training diverged")


def test_masks_may_be_open_while_tau_is_on_its_way() -> None:
    """Judged by the tau of the last training batch, though the scheduler has moved on before the evaluation."""
    criterion = AIMLoss(tau=(0.25, 0.25))
    schedule, health = TauScheduler(criterion, anneal_epochs=4), MaskHealth(criterion)
    said = []
    for epoch in range(6):
        masks = {2: random_masks(1.0), 3: random_masks(0.3, seed=epoch)}
        health.update(output(masks), training=True)
        schedule.step()
        health.update(output(masks), training=False)
        said.append(symptoms(health))
    assert said == [[], [], *[[(2, "all on")]] * 4]  # tau 1, 0.81; then 0.625, 0.44, 0.25, 0.25


def test_masks_that_are_only_beginning_to_close_are_left_in_peace() -> None:
    """At tau 0.81 most are still fully on, or alike."""
    criterion = AIMLoss(tau=0.25)
    schedule, health = TauScheduler(criterion, anneal_epochs=4), MaskHealth(criterion)
    schedule.step()
    mostly_open = torch.ones(20, 1, 10, 10)
    mostly_open[:2, :, :3] = 0  # 18 of 20 fully on, mean area 0.97
    alike = torch.ones(20, 1, 10, 10)
    alike[:, :, 0, :5] = 0
    for training in (True, False):
        health.update(output({2: mostly_open, 3: alike}), training=training)
    assert symptoms(health) == []
    for _ in range(4):
        schedule.step()
    health = MaskHealth(criterion)
    for training in (True, False):
        health.update(output({2: mostly_open, 3: alike}), training=training)
    assert symptoms(health) == [(2, "all or nothing"), (3, "same for every image")]


def test_warnings_name_stage_area_and_remedy() -> None:
    health = MaskHealth(0.25)
    health.update(output({"layer4": random_masks(1.0)}), training=False)
    said = r"the mask of stage 'layer4' is all on \(area 1\.000 in evaluation, tau 0\.25\)"
    with pytest.warns(MaskHealthWarning, match=said):
        findings = health.warn()
    assert "learning rate" in findings[0].message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert health.warn() == []


def test_nothing_keeps_a_graph_and_nothing_changes() -> None:
    model = AIM(HeadConvNet(), [2, 3], mask_width=4).train()
    result = model(torch.randn(2, 3, 64, 64))
    health = MaskHealth(AIMLoss(model.tau))
    health.update(result, training=True)
    seen = health._batches.training[2]
    assert not seen.area.requires_grad and not seen.any_on.requires_grad
    assert result.masks[2].requires_grad


def test_a_fresh_model_is_healthy() -> None:
    torch.manual_seed(0)
    model = AIM(HeadConvNet(), [2, 3], mask_width=16).eval()
    health = MaskHealth(0.5)
    with torch.no_grad():
        for _ in range(3):
            health.update(model(torch.randn(8, 3, 160, 160)), training=False)
    assert health.report() == []


def test_tau_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="tau"):
        MaskHealth(1.5)
    with pytest.raises(TypeError, match="tau must be the AIMLoss, a float, or one per stage, got HeadConvNet"):
        MaskHealth(HeadConvNet())
    health = MaskHealth((0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="tau must be one value or one per stage: the outputs have 1, tau has 3"):
        health.update(output({3: random_masks(0.25)}), training=False)
    with pytest.raises(TypeError, match="output must be what an AIM returns, an AIMOutput, got Tensor"):
        health.update(torch.zeros(2, 3), training=False)


def test_a_monitor_goes_on_where_its_state_was_taken(tmp_path: Path) -> None:
    """Halfway through the batches of a report, and between two reports, through a file."""
    frozen, dead = random_masks(0.6), torch.zeros(8, 1, 10, 10)
    first = output({2: frozen, "layer4/1": dead}, torch.full((8, 2), torch.nan))
    second = output({2: frozen, "layer4/1": random_masks(0.3)})
    for cut in range(1, 6):
        watched, resumed = MaskHealth(0.25), MaskHealth(0.25)
        for step in range(1, 7):
            for health in (watched, resumed):
                health.update(first if step % 2 else second, training=step % 3 == 1)
            if step % 3 == 0:
                assert str(watched.report()) == str(resumed.report())  # NaN is unlike itself
            if step == cut:
                torch.save(resumed.state_dict(), tmp_path / "health.pt")
                resumed = MaskHealth(0.25)
                resumed.load_state_dict(torch.load(tmp_path / "health.pt", weights_only=True))
                assert resumed.state_dict().keys() == watched.state_dict().keys()


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state must be a MaskHealth's state_dict\(\), and has 'weight'"):
        MaskHealth(0.25).load_state_dict({"weight": torch.zeros(1)})
