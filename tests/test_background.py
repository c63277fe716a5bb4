"""How well the background alone gives the label away is right where the tie is known."""

from collections.abc import Mapping

import pytest
import timm
import torch
from torch import Tensor, nn

from aimwrap import AIM, AIMLoss, SecondLook, background_bias
from aimwrap.analysis.background import classified_in_folds, painted_over
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
    said = "in " + f"{found.accuracy:.0%}" if tie > 0.5 else "says no more than chance"
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
    with pytest.raises(ValueError, match="masks keep nothing"):
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
