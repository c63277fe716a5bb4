"""Backbones by name, from timm and torchvision; no weights are fetched."""

import pytest
import timm
import torch
import torchvision

from aimwrap import AIM
from aimwrap.backbones.create import create_backbone


def test_timm_comes_first() -> None:
    assert isinstance(create_backbone("resnet18"), timm.models.ResNet)


def test_prefix_decides() -> None:
    assert isinstance(create_backbone("torchvision/resnet18"), torchvision.models.ResNet)
    assert isinstance(create_backbone("timm/resnet18"), timm.models.ResNet)


def test_a_name_that_only_torchvision_has() -> None:
    assert isinstance(create_backbone("shufflenet_v2_x0_5"), torchvision.models.ShuffleNetV2)


def test_arguments_reach_the_builder() -> None:
    assert create_backbone("resnet10t", {"num_classes": 12, "in_chans": 1}).num_classes == 12
    assert create_backbone("torchvision/resnet18", {"num_classes": 12}).fc.out_features == 12


def test_wrapped_by_name() -> None:
    model = AIM("resnet10t", [2, 3], 0.35, backbone_kwargs={"num_classes": 12, "in_chans": 1}, mask_width=4)
    assert model.variant == "resnet10t+AIM [3, 35%], feature-preserving head"
    assert model.num_classes == 12
    assert model.eval()(torch.zeros(1, 1, 64, 64)).logits.shape == (1, 12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", r"neither timm nor torchvision has a model named 'resnet51'; did you mean resnet5"),
        ("timm/shufflenet_v2_x0_5", r"backbone: timm has no model named 'shufflenet_v2_x0_5'"),
        ("torchvision/convnext_atto", r"torchvision has no model named 'convnext_atto'; did you mean convnext_"),
        ("§§§", r"backbone: .* model named '§§§'; timm.list_models\(\) lists all names"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(name)
