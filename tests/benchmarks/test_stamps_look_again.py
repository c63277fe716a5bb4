"""The study's second look is the library's, its control sees as much, and its heatmap is in the correct place."""

import copy
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

STAMPS = Path(__file__).parents[2] / "benchmarks" / "stamps"
if not STAMPS.is_dir():
    pytest.skip("the benchmarks come with a checkout, not with the package's sources", allow_module_level=True)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(STAMPS), *sys.path])
    import look_again as study
    from variants import STAGES, Config, Data, maps_of

    from aimwrap import AIM, SecondLook


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=2).eval()


@pytest.fixture(scope="module")
def data(backbone: nn.Module) -> tuple[Data, Data]:
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 96, 96), torch.arange(6) % 2
    tapping = AIM(backbone, list(STAGES), num_classes=2).eval()
    split = Data(images, labels, labels, torch.ones(6, 1, 96, 96), torch.arange(6), maps_of(tapping, images))
    return split, split


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(study.FIRST, "epochs", 1)


def test_the_library_says_the_same_and_the_backbone_stays(data: tuple[Data, Data], backbone: nn.Module) -> None:
    config = Config("AIM, second look", 1.0, 0, epochs=1)
    before = copy.deepcopy(backbone.state_dict())
    study.first_look(config, data, backbone)  # once for both, so that both classifiers are trained with the same draws
    torch.manual_seed(0)
    fast = study.look_again(config, data, backbone)
    torch.manual_seed(0)
    outcome = study.pixels_again(config, data, backbone)
    torch.testing.assert_close(outcome.look.logits, fast.look.logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    assert isinstance(outcome.model, SecondLook)
    assert torch.equal(outcome.model(data[1].images).kept, fast.look.kept)
    assert (fast.look.heatmap * (1 - fast.look.kept[:, 0]) == 0).all()


def test_the_control_is_shown_as_much_of_each_image(data: tuple[Data, Data], backbone: nn.Module) -> None:
    looks = [
        study.looked(Config(method, 1.0, 0), data, backbone)[1] for method in ("AIM, second look", "CAM, second look")
    ]
    ours, control = (look.kept.sum((1, 2, 3)) for look in looks)
    assert torch.equal(ours, control)
    assert not torch.equal(looks[0].kept, looks[1].kept)


def test_a_heatmap_of_a_box_is_placed_on_it() -> None:
    kept = torch.ones(1, 1, 8, 8)
    kept[..., 4, 5] = 0
    boxes = torch.tensor([[2.0, 1.0, 6.0, 5.0]])
    placed = study.on_the_image(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), kept, boxes)[0]
    expected = torch.zeros(8, 8)
    expected[1:3, 2:4], expected[1:3, 4:6], expected[3:5, 2:4], expected[3:5, 4:6] = 1, 2, 3, 4
    expected[4, 5] = 0
    assert torch.equal(placed, expected)
