"""A second look in what takes an AIM: area curves and the masks' health in a loop."""

import pytest
import torch
from torch import nn
from zoo import TinyNet, aim, lively

from aimwrap import MaskHealth, SecondLook, area_curve, explain
from aimwrap.analysis.readout import evaluating


@pytest.fixture
def second() -> SecondLook:
    torch.manual_seed(0)
    model = SecondLook(lively(aim("feature-preserving", backbone=TinyNet())), margin=0)
    nn.init.normal_(model.classifier.weight)
    return model.train()


def test_an_area_curve_is_what_predict_gives_at_each_area(second: SecondLook) -> None:
    images = torch.randn(12, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with evaluating(second):
        second.classifier.bias.data -= second.predict(images, 0.25).logits.mean(0)  # so that classes differ
        labels = second.predict(images, 0.25).logits.argmax(1)
    curve = area_curve(second, [(images[:8], labels[:8]), (images[8:], labels[8:])], areas=[0.25, 1.0])
    assert all(module.training for module in second.modules())
    with evaluating(second):
        for point in (*curve.points, curve.own):
            prediction = second.predict(images, point.asked)
            assert point.accuracy == pytest.approx((prediction.logits.argmax(1) == labels).double().mean().item())
            assert point.stage_areas == pytest.approx({k: m.mean().item() for k, m in prediction.masks.items()})
    assert [point.accuracy for point in curve.points] == [1.0, pytest.approx(0.5, abs=0.45)], "areas make a difference"
    assert curve.points != area_curve(second.first, [(images, labels)], areas=[0.25, 1.0]).points


def test_health_in_a_loop_knows_that_the_first_look_is_never_in_training_mode(second: SecondLook) -> None:
    images = torch.randn(4, 3, 64, 64)
    for estimator in second.first.mask_estimators.values():
        nn.init.constant_(estimator.how_much.weight, 0.0)
        nn.init.constant_(estimator.how_much.bias, 20.0)
    health = MaskHealth(0.25)
    health.update(second(images), training=second.training)
    found = health.report()
    assert [finding.symptom for finding in found] == ["all on"] * len(second.first.stages)
    assert "in evaluation" in found[0].message
    nn.init.constant_(second.classifier.bias, float("nan"))
    health.update(second(images), training=True)
    assert health.report()[0].symptom == "not finite"
    with pytest.raises(TypeError, match="output must be what an AIM returns"):
        health.update(second(images, masks=torch.ones(4, 1, 2, 2)), training=True)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_contributions_follow_a_weight_norm(second: SecondLook) -> None:
    """It sets the weights in each forward: those before it are of the step before."""
    nn.utils.weight_norm(second.classifier)
    second.eval()
    with torch.no_grad():
        second.classifier.weight_g.mul_(3.0)
    found = explain(second, torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(found.contributions.sum((2, 3)) + found.bias, found.logits)


def test_a_cascade_looks_again_only_where_the_first_look_is_unsure(
    second: SecondLook, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    second.eval()
    first, twice = second.first.predict(images), second.predict(images)
    sure = first.logits.softmax(1).amax(1)
    seen: list[int] = []
    closer = second.closer
    monkeypatch.setattr(second, "closer", lambda images, *given: seen.append(len(images)) or closer(images, *given))
    found = second.predict(images, unsure=sure.median().item())
    again = sure < sure.median()
    assert seen == [int(again.sum())] == [3]
    torch.testing.assert_close(found.logits, torch.where(again[:, None], twice.logits, first.logits))
    assert all(torch.equal(mask, first.masks[stage]) for stage, mask in found.masks.items())
    assert torch.equal(second.predict(images, unsure=0).logits, first.logits) and len(seen) == 1
    torch.testing.assert_close(second.predict(images, unsure=1).logits, twice.logits)
    nn.init.constant_(second.first.classifier.bias, float("nan"))
    assert second.predict(images, unsure=0.5).logits.isfinite().all()
    for wrong in (1.5, -0.1, float("nan"), True):
        with pytest.raises(ValueError, match=f"unsure must be a probability, 0 to 1, or None .* got {wrong}"):
            second.predict(images, unsure=wrong)


def test_a_cascade_of_a_single_logit_goes_by_its_sigmoid() -> None:
    torch.manual_seed(0)
    second = SecondLook(lively(aim("feature-preserving", backbone=TinyNet(), num_classes=1))).eval()
    images = torch.randn(9, 3, 64, 64)
    logits = second.first.predict(images).logits[:, 0]
    sure = torch.maximum(logits.sigmoid(), 1 - logits.sigmoid())
    found = second.predict(images, unsure=sure.median().item()).logits[:, 0]
    assert torch.equal(found == logits, sure >= sure.median())
