"""The trial of views: its search is plain's, its default view is the library's, and its cascade is what it says."""

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
    import views
    from variants import Config, Data, train_plain

    from aimwrap import AIM, SecondLook


def split_of(maps: torch.Tensor, images: torch.Tensor | None = None) -> Data:
    labels = torch.arange(len(maps)) % 2
    places = torch.arange(len(maps)) // 2 % 2
    return Data(maps if images is None else images, labels, places, labels, labels, {"final map": maps})


def test_fewer_epochs_are_the_beginning_of_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "EPOCHS", (1, 3))
    monkeypatch.setattr(views, "RATES", (1e-2,))
    data = split_of(torch.randn(40, 6, 2, 2, generator=torch.Generator().manual_seed(0)))
    found = dict(views.searched(data, data, 5))
    pooled = data._replace(maps={"final map": data.maps["final map"].mean((2, 3), True)})
    for epochs in (1, 3):
        torch.manual_seed(5)
        classifier = nn.Linear(6, 2)
        config = Config("plain", 1.0, 5, epochs=epochs, learning_rate=1e-2)
        alone = train_plain(config, (pooled, pooled), views._Holder(classifier), classifier=classifier)
        torch.testing.assert_close(found[epochs, 1e-2], alone.look.logits)


def test_the_default_view_is_the_librarys_and_a_size_too() -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("test_resnet", num_classes=2).eval()
    second = SecondLook(AIM(backbone, [2, 3]).eval()).eval()
    images = torch.randn(5, 3, 96, 96)
    with torch.no_grad():
        masks = second.first.forward_masks(second.first.forward_backbone(images)).merged_mask
    for view, size in ((views.View(), None), (views.View(size=64), 64)):
        second.size = size
        features = views.features_of(view, images, masks, backbone).flatten(1)
        torch.testing.assert_close(features, second.features(images), rtol=1e-4, atol=1e-5)
    shown = views.own_mean(torch.tensor([[[[1.0, 3.0, 9.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0]]]]))
    assert shown.tolist() == [[[[1, 3, 2]]]]


def test_a_cascade_by_hand() -> None:
    """The first look is right where it is sure, the second everywhere."""
    test = split_of(torch.zeros(8, 1, 1, 1))
    right = 2.0 * nn.functional.one_hot(test.labels, 2)
    first = torch.where(torch.arange(8)[:, None] < 4, right, -right / 8)  # sure of four, and wrong of the others
    calibration = torch.tensor([[0.0, 1.0], [0.0, 1.5], [0.0, 3.0], [0.0, 3.0]])
    found = views.cascade(0.5, calibration, first, right, test)
    assert (found["share"], found["accuracy"], found["worst_group"]) == (1.0, 1.0, 1.0), "sure, on the held-out images"
    found = views.cascade(0.25, calibration, first, right, test)
    assert found["of_test_share"] == 0 and found["of_test_accuracy"] == 0.5 and found["of_test_worst_group"] == 0.5
    assert views.scores(test, right) == {"accuracy": 1.0, "worst_group": 1.0}
