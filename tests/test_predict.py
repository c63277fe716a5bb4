"""predict(): the logits and masks of forward, and masks of an exact area."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from zoo import every_head

from aimwrap import AIM, Prediction, budgeted_mask
from aimwrap.top_down import pool

Wrapped = Callable[..., AIM]
TEN = [
    "tiny",
    "head_conv",
    "branching",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "tv_resnet18",
            "tv_swin",
            "tv_convnext",
            "tv_efficientnet_b0",
            "tv_mobilenet_v3_small",
            "tv_densenet",
            "tv_regnet_y_400mf",
            "convnext_atto",
            "twins",
        )
    ),
]


def assert_same_logits(got: Tensor, expected: Tensor) -> None:
    """Within 1e-6 of the largest logit."""
    assert ((got - expected).abs().max() / expected.abs().max()).item() < 1e-6


def given_masks(model: AIM, maps: dict[str, Tensor], kind: str) -> dict[object, Tensor]:
    masks = {stage: torch.zeros_like(maps[str(stage)][:, :1]) for stage in model.stages}
    for stage, mask in masks.items():
        if kind == "all on":
            mask.fill_(1)
        elif kind == "corner":
            mask[..., 0, 0] = 1
        elif kind == "opposite corner":
            mask[..., -1, -1] = 1
        elif kind == "one image off":
            mask[1:] = (torch.rand_like(mask[1:]) < 0.5).float()
        elif kind == "sparse":
            masks[stage] = (torch.rand_like(mask) < 0.1).float()
        elif kind == "dense":
            masks[stage] = (torch.rand_like(mask) < 0.8).float()
    return masks


KINDS = ["all on", "all off", "corner", "opposite corner", "one image off", "sparse", "dense"]


# ---- Against forward -------------------------------------------------------------------------------------------------


@every_head
@pytest.mark.parametrize("name", TEN)
def test_predict_is_forward(name: str, head: str, wrapped: Wrapped) -> None:
    model = wrapped(name, head)
    for size in ((64, 96), (160, 160)):
        images = torch.randn(3, 3, *size)
        with torch.no_grad():
            output = model(images)
        prediction = model.predict(images)
        assert type(prediction) is Prediction
        assert list(prediction.masks) == [2, 3]
        assert all(torch.equal(prediction.masks[stage], output.masks[stage]) for stage in model.stages)
        assert_same_logits(prediction.logits, output.logits)


@pytest.mark.parametrize("pooling", ["active", "all"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tiny", pytest.param("tv_resnet18", marks=pytest.mark.slow)])
@every_head
def test_every_mask_gives_the_logits_of_the_long_way(
    head: str, name: str, kind: str, pooling: str, wrapped: Wrapped
) -> None:
    model = copy.deepcopy(wrapped(name, head))
    model.pooling = pooling
    for module in (model.top_down, model.classifier):  # biases and norms that are not zero and one
        for parameter in module.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    with torch.no_grad():
        maps = model.forward_backbone(torch.randn(3, 3, 250, 190))
        masks = given_masks(model, maps, kind)
        expected = model.forward_head(model.forward_masks(maps, masks)).logits
        features = model.forward_masks(maps, masks)
        assert_same_logits(model.classifier(pool(features.fused, features.merged_mask, pooling)), expected)


@every_head
def test_predict_pools_as_the_model_does(head: str, wrapped: Wrapped) -> None:
    model, images = copy.deepcopy(wrapped("tiny", head)), torch.randn(2, 3, 64, 64)
    model.pooling = "all"
    with torch.no_grad():
        assert_same_logits(model.predict(images).logits, model(images).logits)


@every_head
def test_predict_runs_no_stage_classifier_and_keeps_no_graph(head: str, wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped("tiny", head))
    for classifier in model.stage_classifiers.values():
        classifier.register_forward_hook(lambda *_: pytest.fail("a stage classifier ran"))
    prediction = model.predict(torch.randn(2, 3, 64, 64))
    assert not prediction.logits.requires_grad


def test_predict_is_for_evaluation(wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped("tiny", "paper")).train()
    with pytest.raises(RuntimeError, match=r"in training mode; call model\.eval\(\)"):
        model.predict(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match="add a batch dimension"):
        model.eval().predict(torch.randn(3, 64, 64))


# ---- Budgets ---------------------------------------------------------------------------------------------------------


@every_head
@pytest.mark.parametrize("area", [0.001, np.float32(0.25), 1.0, [0.1, 0.5], np.array([0.1, 0.5])])
def test_a_budget_opens_exactly_that_many_positions_the_highest(
    head: str, area: float | list[float], wrapped: Wrapped
) -> None:
    model, images = wrapped("tiny", head), torch.randn(3, 3, 130, 97)
    with torch.no_grad():
        features = model.forward_masks(model.forward_backbone(images))
    prediction = model.predict(images, area=area)
    for index, stage in enumerate(model.stages):
        mask, logits = prediction.masks[stage], features.mask_logits[stage]
        wanted = area[index] if isinstance(area, list | np.ndarray) else float(area)
        assert (mask.sum((1, 2, 3)) == max(1, round(wanted * mask[0].numel()))).all()
        for image, ranks in zip(mask, logits, strict=True):
            closed = ranks[image == 0]
            assert len(closed) == 0 or ranks[image == 1].min() >= closed.max()
    with torch.no_grad():
        held = model.forward_head(model.forward_masks(model.forward_backbone(images), prediction.masks))
    assert_same_logits(prediction.logits, held.logits)


def test_a_budget_ranks_beyond_the_bound_of_the_logits(wrapped: Wrapped) -> None:
    """Bounded logits are equal there, and reading order would decide."""
    model = copy.deepcopy(wrapped("tiny", "paper"))
    for estimator in model.mask_estimators.values():
        estimator.logit_range = 0.5
    images = torch.randn(2, 3, 128, 128)
    assert torch.equal(model.predict(images, area=0.2).masks[2], wrapped("tiny", "paper").predict(images, 0.2).masks[2])
    assert not torch.equal(model.predict(images, area=0.2).masks[2], budgeted_mask(torch.zeros(2, 1, 8, 8), 0.2))


def test_budgets_that_make_no_sense(wrapped: Wrapped) -> None:
    model, images = wrapped("tiny", "paper"), torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"area must be in \(0, 1\], got 0"):
        model.predict(images, area=0)
    with pytest.raises(ValueError, match=r"area must be one float or one per stage: 2 stage\(s\), 3 value\(s\)"):
        model.predict(images, area=[0.1, 0.2, 0.3])
    with pytest.raises(TypeError, match="area must be a float"):
        model.predict(images, area="half")


def test_equal_scores_are_taken_in_reading_order() -> None:
    assert budgeted_mask(torch.ones(2, 1, 3, 3), 0.45).flatten(1).tolist() == [[1.0] * 4 + [0.0] * 5] * 2


def test_predict_runs_the_estimators_with_their_hooks(wrapped: Callable[..., AIM]) -> None:
    model = copy.deepcopy(wrapped("tiny", "feature-preserving"))
    for estimator in model.mask_estimators.values():
        estimator.register_forward_hook(lambda module, inputs, logits: logits - 100)
    with torch.no_grad():
        masks = model.predict(torch.randn(2, 3, 64, 64)).masks
    assert all(not mask.any() for mask in masks.values())
