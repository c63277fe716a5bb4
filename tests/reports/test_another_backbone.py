"""Reported: ``from_pretrained(backbone=)`` took a network that computes something else, without a word."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from zoo import TinyNet

from aimwrap import AIM
from aimwrap.backbones.plain import PlainClassifier, load_plain, save_plain


class Scale(nn.Module):
    """A layer with a number of its own."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def changed(activation: nn.Module, classes: int = 3) -> nn.Module:
    backbone = timm.create_model("resnet10t", num_classes=classes, drop_path_rate=0.1 * (classes > 3))
    backbone.layer4[0].act2 = activation
    return backbone


def saved(backbone: nn.Module, folder: Path) -> AIM:
    model = AIM(backbone, [2, 3], mask_width=4).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("was", "given", "says"),
    [
        (lambda: changed(nn.GELU()), lambda: changed(nn.ReLU()), r"'layer4\.0\.act2' was GELU .*, and is ReLU"),
        (
            lambda: nn.Sequential(v2.Normalize([0.5] * 3, [0.5] * 3), TinyNet()),
            lambda: nn.Sequential(v2.Normalize([0.4] * 3, [0.2] * 3), TinyNet()),
            r"'0' was Normalize mean=\[0\.5.*, and is Normalize mean=\[0\.4",
        ),
        (
            lambda: nn.Sequential(Scale(1.0), TinyNet()),
            lambda: nn.Sequential(Scale(255.0), TinyNet()),
            r"was Scale .*1\.0.*is Scale .*255",
        ),
    ],
    ids=["activation", "normalisation", "number"],
)
def test_a_network_that_computes_something_else_is_refused(
    was: Callable[[], nn.Module], given: Callable[[], nn.Module], says: str, tmp_path: Path
) -> None:
    model = saved(was(), tmp_path)
    images = torch.rand(2, 3, 64, 64)
    again = AIM.from_pretrained(tmp_path, backbone=was())
    assert torch.equal(again(images).logits, model(images).logits)
    with pytest.raises(ValueError, match=f"{says}.*remove 'modules' from config.json"):
        AIM.from_pretrained(tmp_path, backbone=given())
    content = json.loads((tmp_path / "config.json").read_text())
    content["versions"]["timm"] = "0.9"
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=f"{says}.*other versions"):
        AIM.from_pretrained(tmp_path, backbone=given())


def test_the_same_network_with_another_end_state_and_dropout_is_taken(tmp_path: Path) -> None:
    model = saved(changed(nn.GELU()), tmp_path)
    given = changed(nn.GELU(), classes=7).train().requires_grad_(False)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(AIM.from_pretrained(tmp_path, backbone=given)(images).logits, model(images).logits)


def test_an_exported_file_of_the_model_before_is_named(tmp_path: Path) -> None:
    """The new weights lay next to the ONNX file of the old ones."""
    model = saved(TinyNet(), tmp_path)
    for kind in ("onnx", "pt2"):
        (tmp_path / f"model.{kind}").touch()
        with pytest.warns(UserWarning, match=rf"model\.{kind} is of the model .* aimwrap export .* --format {kind}"):
            model.save_pretrained(tmp_path)
        (tmp_path / f"model.{kind}").unlink()


def test_another_backbone_of_a_plain_run_is_refused(tmp_path: Path) -> None:
    model = PlainClassifier(nn.Sequential(Scale(1.0), TinyNet()), 2).eval()
    save_plain(model, tmp_path, "mine:net")
    images = torch.rand(2, 3, 64, 64)
    again = load_plain(tmp_path, backbone=nn.Sequential(Scale(1.0), TinyNet()))
    assert torch.equal(again(images).logits, model(images).logits)
    with pytest.raises(ValueError, match=r"another backbone was passed: its module '0' was Scale .*1\.0"):
        load_plain(tmp_path, backbone=nn.Sequential(Scale(255.0), TinyNet()))
