"""MaskHealth: each way to die is named once, with its remedy; what is well is left in peace."""

import math
import warnings

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
        health.update(output({2: random_masks(0.6), 3: random_masks(0.1)}), training=False)
        assert symptoms(health) == ([] if epoch == 0 else [(2, "frozen")])  # stage 3 stands still where it should
    health.update(output({2: random_masks(0.6, seed=1), 3: random_masks(0.1)}), training=False)
    assert symptoms(health) == []  # moved


def test_values_that_are_not_finite() -> None:
    health = MaskHealth(0.25)
    health.update(output({3: random_masks(0.25)}, torch.tensor([[0.0, math.nan]] * 8)), training=True)
    [finding] = health.report()
    assert finding.stage is None and finding.symptom == "not finite"
    assert finding.message.startswith("16 logits are not finite: training diverged")


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
    model = AIM(HeadConvNet(), [2, 3], width=8, mask_width=4).train()
    result = model(torch.randn(2, 3, 64, 64))
    health = MaskHealth(AIMLoss(model.tau))
    health.update(result, training=True)
    seen = health._batches.training[2]
    assert not seen.area.requires_grad and not seen.any_on.requires_grad
    assert result.masks[2].requires_grad


def test_a_fresh_model_is_healthy() -> None:
    torch.manual_seed(0)
    model = AIM(HeadConvNet(), [2, 3], width=8, mask_width=16).eval()
    health = MaskHealth(0.5)
    with torch.no_grad():
        for _ in range(3):
            health.update(model(torch.randn(8, 3, 160, 160)), training=False)
    assert not {"all on", "all off", "not finite"} & {finding.symptom for finding in health.report()}


def test_tau_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="tau"):
        MaskHealth(1.5)
    health = MaskHealth((0.1, 0.2, 0.3))
    health.update(output({3: random_masks(0.25)}), training=False)
    with pytest.raises(ValueError, match="tau must be one value or one per stage: the outputs have 1, tau has 3"):
        health.report()
