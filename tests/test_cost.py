"""What a wrapped model costs, counted by hand."""

import pytest
import torch
from torch import Tensor, nn

from aimwrap import AIM
from aimwrap.base import Cost


class OneStage(nn.Module):
    """A 4x4 convolution 3 -> 5 at stride 4 and a classifier of 2 classes: 240 + 5 and 10 + 2 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 4, stride=4), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def wrap(**arguments: object) -> AIM:
    return AIM(OneStage(), [0], example_input=torch.zeros(1, 3, 8, 12), width=7, mask_width=2, **arguments)


def test_paper_head_by_hand() -> None:
    """At 8 x 12 pixels the map has 2 x 3 = 6 positions.

    transform: 1x1 5 -> 7 (35 + 7), 3x3 7 -> 7 (441 + 7), LayerNorm (14)
    estimator: 3x3 5 -> 2 (90 + 2), six 3x3 2 -> 2 (6 (36 + 2)), seven LayerNorms (7 x 4), 1x1 2 -> 1 twice (4 + 1);
        the second of those sees the average, one position
    classifiers: twice 7 -> 2 (2 (14 + 2))
    """
    cost = wrap(head="paper").cost()
    head = 42 + 448 + 14 + 92 + 228 + 28 + 5 + 32
    macs = 6 * (35 + 441 + 90 + 6 * 36 + 2) + 2 + 28
    assert cost == Cost(
        parameters=245 + head,
        macs=6 * 240 + macs,
        backbone_parameters=257,
        backbone_macs=6 * 240 + 10,
        head_parameters=head,
        head_macs=macs,
        image_size=(8, 12),
    )


def test_feature_preserving_head_by_hand() -> None:
    """No transform; the mask is summed to the final map's grid (rows 2 x 2 x 3, columns 2 x 3 x 3), of 5 channels."""
    cost = wrap(head="feature-preserving").cost()
    assert cost.head_parameters == 92 + 228 + 28 + 5 + 2 * 12
    assert cost.head_macs == 6 * (90 + 6 * 36 + 2) + 2 + 12 + 18 + 2 * 10


def test_text() -> None:
    text = str(Cost(30_000_000, 5_000_000_000, 25_000_000, 4_000_000_000, 2_500_000, 500_000_000, (224, 192)))
    assert text.splitlines() == [
        "30.00 M parameters, backbone alone 25.00 M (+20.0%), head 2.50 M",
        "5.00 GMACs at 224 x 192, backbone alone 4.00 (+25.0%), head 0.50",
    ]


@pytest.mark.parametrize("training", [True, False])
def test_counting_is_free_of_side_effects_and_of_mode(training: bool) -> None:
    model = wrap().train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.cost() == wrap().cost()
    assert model.training == training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
