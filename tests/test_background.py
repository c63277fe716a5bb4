"""How well the background alone predicts the label is right where the tie is known."""

from collections.abc import Mapping

import pytest
import timm
import torch
from torch import Tensor, nn

from aimwrap import AIM, AIMLoss, SecondLook, background_bias
from aimwrap.analysis.background import classified_in_folds
from aimwrap.exchange import painted_over
from aimwrap.second_look import bounds


class Centred(AIM):
    """Masks that keep the middle quarter, whatever the image."""

    def forward_masks(self, maps: Mapping[str, Tensor], masks: object = None, noise_seeds: object = None) -> object:
        held = {}
        for stage in self.stages:
            rows, columns = maps[str(stage)].shape[2:]
            held[stage] = torch.zeros(1, 1, rows, columns)
            held[stage][..., rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4] = 1
        return super().forward_masks(maps, held)


@pytest.fixture(scope="module")
def model() -> AIM:
    torch.manual_seed(0)
    return Centred(timm.create_model("test_resnet", num_classes=2), stages=[1, 2, 3]).eval()


def tied_images(tie: float, number: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """The middle is bright in one channel by the label; the rest in another by the place, which is tied to it."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(number) % 2
    usual = torch.arange(number) // 2 < round(tie * number / 2)
    places = torch.where(usual, labels, 1 - labels)
    images = 0.3 * torch.randn(number, 3, 96, 96, generator=generator)
    images[:, 0] += 2.0 * places[:, None, None] - 1
    images[:, :, 24:72, 24:72] = 0.3 * torch.randn(number, 3, 48, 48, generator=generator)
    images[:, 1, 24:72, 24:72] += 2.0 * labels[:, None, None] - 1
    return images, labels, places


@pytest.mark.parametrize("tie", [0.5, 0.8, 0.95, 1.0])
def test_a_known_tie_is_measured(tie: float, model: AIM) -> None:
    images, labels, places = tied_images(tie)
    found = background_bias(model, [(images[:70], labels[:70]), (images[70:], labels[70:])], margin=0)
    assert found.low <= tie
    assert tie == 0.5 or tie <= found.high
    assert found.object_accuracy == 1.0 and found.chance == 0.5
    assert found.hidden == 0.25
    if tie > 0.9:
        assert found.wrong == (places != labels).nonzero().flatten().tolist(), "they contradict the tie"
    said = "of " + f"{found.accuracy:.0%}" if tie > 0.5 else "says no more than chance"
    assert said in str(found)


def test_what_is_hidden_does_not_count(model: AIM) -> None:
    """Another middle changes nothing, to the bit."""
    images, labels, _ = tied_images(0.8)
    found = background_bias(model, [(images, labels)], margin=0)
    images[:, :, 24:72, 24:72] = 7.0
    again = background_bias(model, [(images, labels)], margin=0)
    assert torch.equal(found.right, again.right)


def test_a_second_look_and_training_mode_make_no_difference(model: AIM) -> None:
    images, labels, _ = tied_images(0.8, 60)
    found = background_bias(model, [(images, labels)], margin=0)
    model.train()
    again = background_bias(SecondLook(model), [(images, labels)], margin=0)
    assert model.training
    model.eval()
    assert torch.equal(found.right, again.right)


def test_autocast_and_inference_mode_make_no_difference(model: AIM) -> None:
    """Autocast keeps the cast of the first weights, zeros, so that nothing was fitted, and the answer was "chance"."""
    images, labels, _ = tied_images(1.0, 60)
    with torch.autocast("cpu", torch.bfloat16):
        found = background_bias(model, [(images, labels.int())], margin=0)
    assert found.accuracy == found.object_accuracy == 1.0
    with torch.inference_mode():
        assert background_bias(model, [(images, labels)], margin=0).accuracy == 1.0


def test_what_the_size_of_the_object_says_is_not_the_background(model: AIM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large objects in one class: the box is seen in the colours that it is painted with, whatever is behind it."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(60) % 2
    images = torch.randn(60, 3, 96, 96, generator=generator)
    given = AIM.forward_masks

    def by_label(self: AIM, maps: Mapping[str, Tensor], masks: object = None, noise_seeds: object = None) -> object:
        held = {}
        for stage in self.stages:
            rows = maps[str(stage)].shape[2]
            held[stage] = torch.zeros(len(labels), 1, rows, rows)
            held[stage][:, :, rows // 3 : rows // 2, rows // 3 : rows // 2] = 1
            held[stage][labels == 1, :, 1 : rows - 1, 1 : rows - 1] = 1
        return given(self, maps, held)

    monkeypatch.setattr(Centred, "forward_masks", by_label)
    found = background_bias(model, [(images, labels)], margin=0)
    assert found.low > 0.5 and found.box_accuracy >= found.low
    assert "no more than the size and the place of the box" in str(found)


def test_images_with_empty_masks_are_left_out(model: AIM, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, _ = tied_images(1.0, 60)
    given = Centred.forward_masks

    def some(self: AIM, maps: Mapping[str, Tensor], masks: object = None, noise_seeds: object = None) -> object:
        held = {stage: mask.expand(60, -1, -1, -1).clone() for stage, mask in given(self, maps).masks.items()}
        for mask in held.values():
            mask[:5] = 0
        return AIM.forward_masks(self, maps, held)

    monkeypatch.setattr(Centred, "forward_masks", some)
    found = background_bias(model, [(images, labels)], margin=0)
    assert found.measured.tolist() == [False] * 5 + [True] * 55
    assert found.accuracy == 1.0 and found.hidden == 0.25 and found.wrong == []
    assert "of 100% of 55 images. 5 images with empty masks are left out." in str(found)
    images[7] = torch.nan
    with pytest.raises(ValueError, match="features must be finite, got NaN"):
        background_bias(model, [(images, labels)], margin=0)


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([], "batches must hold at least 10 images, got 0"),
        ([(torch.zeros(4, 3, 96, 96), torch.zeros(4).long())], "got 4"),
        ([(torch.zeros(20, 3, 96, 96), torch.zeros(20).long())], "of at least two classes, got one"),
        ([(torch.zeros(20, 3, 96, 96), torch.full((20,), 2))], "labels must be in 0..1, got 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(batches: list[tuple[Tensor, Tensor]], says: str, model: AIM) -> None:
    with pytest.raises(ValueError, match=says):
        background_bias(model, batches)


def test_masks_that_are_dead_are_named(model: AIM) -> None:
    images, labels, _ = tied_images(0.8, 20)
    with pytest.raises(ValueError, match="with margin=20, leave no background"):
        background_bias(model, [(images, labels)], margin=20)
    closed = AIM(timm.create_model("test_resnet", num_classes=2), stages=[1, 2, 3])
    for estimator in closed.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, -50.0)
    with pytest.raises(ValueError, match="masks keep something of 0 of 20 images only"):
        background_bias(closed, [(images, labels)], margin=0)
    with pytest.raises(TypeError, match="model must be an AIM, got AIMLoss"):
        background_bias(AIMLoss(tau=0.1), [(images, labels)])


def test_hidden_pixels_take_the_colours_around_them() -> None:
    """Hidden pixels between two halves lie between the two colours."""
    images = torch.zeros(1, 1, 12, 20)
    images[..., 10:] = 4.0
    shown = torch.ones(1, 1, 12, 20)
    shown[..., 4:9, 5:15] = 0
    images[..., 4:9, 5:15] = 1e6
    filled = painted_over(images, shown)
    assert torch.equal(filled[shown > 0], images[shown > 0])
    hidden = filled[shown == 0]
    assert hidden.min() >= 0 and hidden.max() <= 4
    assert filled[0, 0, 6, 5] < 1 < 3 < filled[0, 0, 6, 14]
    flat = torch.full((2, 3, 7, 9), 0.7)
    torch.testing.assert_close(painted_over(flat, bounds(torch.eye(7, 9)[None, None].expand(2, 1, 7, 9))), flat)


def test_folds_are_fitted_on_the_others() -> None:
    """Random labels cannot be predicted for images that were held out, however many features there are."""
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(200, 30, generator=generator), torch.randint(0, 2, (200,), generator=generator)
    assert 0.35 < classified_in_folds(features, labels, seed=0).float().mean() < 0.65
    features[:, 7] += 20 * labels
    features[:, 8] = 3.0  # constant
    assert classified_in_folds(features, labels, seed=0).all()
