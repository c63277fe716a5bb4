"""Reports of NaN and infinity that were turned into decisions and scores."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from zoo import TinyNet

from aimwrap import AIM, AIMLoss, AIMOutput, MaskHealth, SecondLook, area_curve, budgeted_mask, explain
from aimwrap._numerics import predicted_classes
from aimwrap.analysis.look import look
from aimwrap.backbones.plain import PlainClassifier, save_plain
from aimwrap.metrics import (
    GroupAccuracy,
    average_accuracy,
    boxes_to_masks,
    chance_level,
    energy_pointing_game,
    mask_iou,
    pointing_game,
)
from aimwrap.train.run import Progress

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def model() -> AIM:
    torch.manual_seed(0)
    return AIM(TinyNet(), [2, 3], mask_width=4).eval()


def diverged() -> AIM:
    model = AIM(TinyNet(), [2, 3], mask_width=4).eval()
    nn.init.constant_(model.classifier.weight, NAN)
    return model


def test_logits_that_are_not_finite_are_no_class() -> None:
    """Reported: NaN logits count as class 0. What is masked by -inf on purpose may still lose."""
    logits = torch.tensor([[NAN, 1.0], [0.0, NAN], [INF, 0.0], [-INF, -INF], [-INF, 0.0], [2.0, 1.0]])
    assert predicted_classes(logits)[:4].max() < -(10**9) and predicted_classes(logits)[4:].tolist() == [1, 0]
    assert predicted_classes(torch.tensor([[NAN], [INF], [-INF]])).max() < -(10**9)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("classes", [1, 3])
def test_group_accuracy_takes_them_as_wrong(value: float, classes: int) -> None:
    """Reported: 0.667 where two of three images have NaN logits and the label 0."""
    logits = torch.full((3, classes), value)
    logits[2] = -1.0
    labels = torch.tensor([0, 1, 0])
    metric = GroupAccuracy(num_groups=1)
    metric.update(logits, labels, torch.zeros(3, dtype=torch.long))
    assert metric.compute()["average"].item() == pytest.approx(1 / 3)
    assert average_accuracy(logits[:2], labels[:2]) == 0


def test_training_counts_them_as_misses() -> None:
    progress = Progress()
    progress.add(torch.tensor(1.0), torch.full((2, 2), NAN), torch.zeros(2, dtype=torch.long))
    assert progress.sums_of_all() == [2.0, 0.0, 2.0]


def test_the_area_curve_takes_them_as_wrong(model: AIM) -> None:
    images, labels = torch.randn(4, 3, 64, 64), torch.zeros(4, dtype=torch.long)
    labels[2:] = model.predict(images).logits.argmax(1)[2:]
    images[:2] = NAN
    assert area_curve(model, [(images, labels)]).own.accuracy == 0.5
    assert area_curve(diverged(), [(torch.randn(4, 3, 64, 64), labels)], areas=[1.0]).points[0].accuracy == 0


def test_scores_without_a_rank_open_nothing(model: AIM) -> None:
    """Reported: budgeted_mask(NaN) opens the first cells."""
    scores = torch.tensor([[[[NAN, 0.0], [1.0, -1.0]]]])
    assert str(budgeted_mask(scores, 0.5).flatten().tolist()) == "[nan, 0.0, 1.0, 0.0]"
    prediction = model.predict(torch.full((1, 3, 64, 64), NAN), area=0.25)
    assert prediction.logits.isnan().all()


@pytest.mark.parametrize("value", [NAN, INF, 1e30])
def test_a_second_look_at_nothing_is_not_sure(model: AIM, value: float) -> None:
    """Reported: the first look's logits are NaN, everything becomes the fill, and the softmax is 0.91."""
    second = SecondLook(model).eval()
    images = torch.randn(2, 3, 64, 64)
    images[1] = value
    seen = second(images)
    assert seen.logits[0].isfinite().all() and seen.logits[1].isnan().all()
    assert explain(second, images).contributions[1].isnan().all()
    torch.testing.assert_close(seen.logits[:1], second(images[:1]).logits)
    shown = look(second, images)
    assert shown.heatmap[0].isfinite().all() and not shown.heatmap[1].isfinite().any()


def test_a_notebook_names_no_class() -> None:
    page = explain(diverged(), torch.randn(1, 3, 64, 64))._repr_html_()
    assert "no class" in page and "logit nan" in page


def test_objects_and_boxes_must_be_finite() -> None:
    """NaN is above no threshold, and was no object."""
    heatmap, hole = torch.ones(1, 2, 2), torch.full((1, 2, 2), NAN)
    for score in (energy_pointing_game, pointing_game, mask_iou):
        with pytest.raises(ValueError, match="object_mask must be finite"):
            score(heatmap, hole)
    with pytest.raises(ValueError, match="object_mask must be finite"):
        chance_level(hole)
    with pytest.raises(ValueError, match="boxes must be x0, y0, x1, y1"):
        boxes_to_masks([torch.tensor([[0.0, 0.0, NAN, 2.0]])], (4, 4))


def output_of(logits: Tensor) -> AIMOutput:
    return AIMOutput(logits, {3: logits}, {3: torch.ones(len(logits), 1, 2, 2)})


def test_a_batch_without_labels_has_a_finite_loss() -> None:
    """Reported: where every label is ignored the loss is NaN, and so is every weight after the step."""
    logits = torch.randn(2, 3, requires_grad=True)
    loss = AIMLoss(tau=0.5)(output_of(logits), torch.full((2,), -100))
    loss.backward()
    assert loss.item() == 6 * 0.25 and logits.grad is not None and (logits.grad == 0).all()


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        AIMLoss(tau=0.5)(output_of(torch.zeros(0, 3)), torch.zeros(0, dtype=torch.long))


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """Reported: a model of NaN is saved, with a card; its folder is left as it was."""
    with pytest.raises(ValueError, match=r"finite weights, unlike 'classifier.weight'"):
        diverged().save_pretrained(tmp_path / "aim")
    assert not list(tmp_path.rglob("*.safetensors"))
    plain = PlainClassifier(TinyNet(), num_classes=7)
    plain.backbone.stem[1].running_var.fill_(NAN)  # type: ignore[index, union-attr]
    with pytest.raises(ValueError, match=r"finite weights, unlike 'stem.1.running_var'"):
        save_plain(plain, tmp_path / "plain", "tiny")


@pytest.mark.parametrize("name", ["grad_cam", "score_cam", "guided_grad_cam"])
def test_no_class_is_no_explanation(name: str, model: AIM) -> None:
    """Maps of NaN logits were those of class 0."""
    pytest.importorskip("captum")
    from aimwrap import attribution

    options = {"partial": True} if name == "guided_grad_cam" else {}
    images = torch.cat([torch.randn(1, 3, 64, 64), torch.full((1, 3, 64, 64), NAN)])
    with pytest.raises(ValueError, match=r"logits of images \[1\] are not finite"):
        getattr(attribution, name)(model, images, **options)


def test_masks_that_are_not_finite_are_not_healthy() -> None:
    for value in (NAN, INF):
        health = MaskHealth(0.25)
        logits = torch.zeros(2, 3)
        health.update(AIMOutput(logits, {3: logits}, {3: torch.full((2, 1, 4, 4), value)}), training=False)
        assert [finding.symptom for finding in health.report()][:1] == ["not finite"]


def test_a_notebook_and_figures_say_so(model: AIM) -> None:
    """They ended in "cannot convert float NaN to integer", in "Axis limits cannot be NaN" and in an AttributeError."""
    pytest.importorskip("matplotlib")
    from aimwrap.plot import Result, plot_area_curves, plot_results

    images = torch.rand(2, 3, 64, 64)
    images[0] = NAN
    page = explain(model, images)._repr_html_()
    assert page.count("not finite") == 3 and page.count("% open") == 3  # two stages and the merged mask
    with pytest.raises(ValueError, match=r"curves must have areas from 0 to 1, got \[nan.*verify\(model, images\)"):
        plot_area_curves(area_curve(model, [(images, torch.tensor([0, 1]))], areas=[0.5]))
    for scores in ([0.5, NAN], [INF], [NAN]):
        with pytest.raises(ValueError, match=r"seeds must be finite, got .* of 'AIM': leave out a seed"):
            Result.of_seeds("AIM", scores)
    with pytest.raises(ValueError, match="with finite numbers, got"):
        plot_results({"a": [("x", 1, 0, 2)]}, chance={"a": NAN})
