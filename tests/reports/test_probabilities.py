"""Reports of networks that end in a sigmoid or a softmax: their probabilities were taken as logits."""

import pytest
import torch
from torch import Tensor, nn
from zoo import TinyNet

from aimwrap import AIM, area_curve
from aimwrap._checks import check_logits
from aimwrap.backbones.plain import PlainClassifier

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Ending(TinyNet):
    """In a last step after its linear layer, which may be moved or cast again."""

    def __init__(self, last: nn.Module, num_classes: int = 2) -> None:
        super().__init__(num_classes)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x).double()).float().view(len(x), -1)


ENDINGS = pytest.mark.parametrize(("last", "name"), [(nn.Sigmoid(), "sigmoid"), (nn.Softmax(1), "softmax")])


@ENDINGS
def test_training_a_plain_network_on_probabilities_is_refused(last: nn.Module, name: str) -> None:
    """Cross entropy took their softmax once more, and no loss could fall far."""
    model = PlainClassifier(Ending(last), 2)
    with pytest.raises(ValueError, match=f"Ending must return logits, and ends in a {name}: leave that out.*Identity"):
        model.train()(IMAGES)
    model.backbone.last = nn.Identity()
    assert model(IMAGES).logits.shape == (2, 2)
    assert PlainClassifier(Ending(nn.LogSoftmax(1)), 2).train()(IMAGES).logits.shape == (2, 2)  # whose loss is the same


@ENDINGS
def test_attributions_of_probabilities_are_refused(last: nn.Module, name: str) -> None:
    """Gradients of a probability vanish where the network is sure."""
    pytest.importorskip("captum")
    from aimwrap.attribution import grad_cam, guided_backprop, score_cam

    for function in (grad_cam, guided_backprop, score_cam):
        with pytest.raises(ValueError, match=f"model must return logits, and ends in a {name}"):
            function(Ending(last).eval(), IMAGES)
    with pytest.raises(ValueError, match="ends in a logsoftmax"):
        grad_cam(Ending(nn.LogSoftmax(1)).eval(), IMAGES)
    assert grad_cam(Ending(nn.Identity()).eval(), IMAGES).shape == (2, 2, 2)


def test_an_area_curve_of_probabilities_is_refused() -> None:
    """A single one is never below 0, so every image was of class 1. Other classifiers of one's own are taken."""
    model = AIM(TinyNet(1), [2, 3], mask_width=4).eval()
    model.classifier = nn.Sequential(linear := model.classifier, nn.Sigmoid())  # type: ignore[assignment]
    with pytest.raises(ValueError, match="model must return logits, and ends in a sigmoid"):
        area_curve(model, [(IMAGES, torch.tensor([0, 1]))])
    model.classifier = nn.Sequential(linear)  # type: ignore[assignment]
    assert area_curve(model, [(IMAGES, torch.tensor([0, 1]))], areas=[0.5]).images == 2


def test_gates_are_no_ending() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    for found in (logits, logits.sigmoid() * logits, logits.softmax(1).log(), logits.detach().sigmoid()):
        check_logits(found, "model")
