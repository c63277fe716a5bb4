"""Backbones that came as modules are found again by name, if and only if a library builds the same."""

import copy
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from aimwrap import AIM
from aimwrap.sharing.recipe import fingerprint, likeness, recognise


def test_a_timm_module_comes_back_without_being_passed(tmp_path: Path) -> None:
    backbone = timm.create_model("resnet10t", num_classes=3)
    model = AIM(backbone, stages=[2, 3], tau=0.25).eval()
    model.save_pretrained(tmp_path)
    again = AIM.from_pretrained(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images).logits, model(images).logits)
    card = (tmp_path / "README.md").read_text()
    assert "timm/resnet10t" in card and "backbone=backbone" not in card


@pytest.mark.slow
def test_a_torchvision_module_comes_back_with_its_new_classifier(tmp_path: Path) -> None:
    backbone = torchvision.models.mobilenet_v3_small()
    backbone.classifier[3] = nn.Linear(1024, 4)
    model = AIM(backbone, stages=[2, 3]).eval()
    model.save_pretrained(tmp_path)
    again = AIM.from_pretrained(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images).logits, model(images).logits)


def name_of(backbone: nn.Module, in_channels: int = 3) -> str | None:
    found = recognise(likeness(backbone, in_channels))
    return found if found is None else f"{found[0]} {found[1]}"


def test_the_builders_arguments_are_found() -> None:
    assert name_of(timm.create_model("resnet18", num_classes=7)) == 'timm/resnet18 {"num_classes": 7}'
    grey = timm.create_model("resnet18", num_classes=7, in_chans=1)
    assert name_of(grey, 1) == 'timm/resnet18 {"num_classes": 7, "in_chans": 1}'
    replaced = timm.create_model("resnet18")
    replaced.fc = nn.Linear(512, 3)
    assert name_of(replaced) == 'timm/resnet18 {"num_classes": 3}'
    used = timm.create_model("resnet18").eval().requires_grad_(False).half()
    used.set_grad_checkpointing()
    assert name_of(used) == 'timm/resnet18 {"num_classes": 1000}'
    if hasattr(grey, "_model_args"):  # newer versions of timm note what a model was built with
        dropping = timm.create_model("resnet18", num_classes=7, drop_path_rate=0.1)
        assert name_of(dropping) == 'timm/resnet18 {"num_classes": 7, "drop_path_rate": 0.1}'
    assert name_of(torchvision.models.resnet34(num_classes=2)) == 'torchvision/resnet34 {"num_classes": 2}'
    assert name_of(nn.Sequential(nn.Conv2d(3, 4, 3))) is None


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """To be copied and changed: a copy by itself changes nothing."""
    backbone = torchvision.models.resnet18(num_classes=2)
    again = copy.deepcopy(backbone)
    assert name_of(again) == 'torchvision/resnet18 {"num_classes": 2}'
    assert fingerprint(again) == fingerprint(backbone)
    return backbone


class OwnResNet(torchvision.models.ResNet):
    """A user's own class, built as ResNet-18 is."""


def another_class(backbone: nn.Module) -> None:
    backbone.__class__ = OwnResNet


def another_forward(backbone: nn.Module) -> None:
    backbone.forward = types.MethodType(lambda self, images: self.layer1(images), backbone)


def another_activation(backbone: nn.Module) -> None:
    backbone.layer2[0].relu = nn.GELU()


def another_epsilon(backbone: nn.Module) -> None:
    backbone.layer2[0].bn1.eps = 1e-3


def another_buffer(backbone: nn.Module) -> None:
    backbone.register_buffer("mean", torch.zeros(3), persistent=False)


def a_hook(backbone: nn.Module) -> None:
    backbone.layer1.register_forward_hook(lambda module, arguments, output: output * 2)


def a_hook_before(backbone: nn.Module) -> None:
    backbone.layer1.register_forward_pre_hook(lambda module, arguments: None)


def another_stride(backbone: nn.Module) -> None:
    backbone.layer4[0].conv1.stride = (1, 1)


def one_more_layer(backbone: nn.Module) -> None:
    backbone.layer4.append(nn.Identity())


@pytest.mark.parametrize(
    "change",
    [
        *(another_class, another_forward, another_epsilon, a_hook, another_stride),
        *(pytest.param(change, marks=pytest.mark.slow) for change in (another_activation, another_buffer)),
        *(pytest.param(change, marks=pytest.mark.slow) for change in (a_hook_before, one_more_layer)),
    ],
)
def test_a_changed_module_is_not_taken_for_the_librarys(change: Callable[[nn.Module], None], resnet: nn.Module) -> None:
    backbone = copy.deepcopy(resnet)
    change(backbone)
    assert name_of(backbone) is None
    assert fingerprint(backbone) != fingerprint(resnet)
