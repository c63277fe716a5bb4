"""Backbones by name, from timm and torchvision; no weights are fetched."""

import json
import socket
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from aimwrap import AIM
from aimwrap.backbones.create import create_backbone, default_weights, find_builder, is_import_path


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
    ("name", "library", "model"),
    [
        ("resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("timm/resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("hf_hub:timm/resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("HF-Hub:TIMM/ResNet18.A1_in1k", "timm", "resnet18.a1_in1k"),
        ("resnet18.A1_IN1K", "timm", "resnet18.a1_in1k"),
        ("ResNet18", "timm", "resnet18"),
        ("tf_efficientnet_b0_ns", "timm", "tf_efficientnet_b0.ns_jft_in1k"),  # as timm maps it
        ("timm/tf_efficientnet_b0_ns.ap_in1k", "timm", "tf_efficientnet_b0.ap_in1k"),
        ("Torchvision/ResNet18", "torchvision", "resnet18"),
        ("Swin_T", "torchvision", "swin_t"),
    ],
)
def test_names_in_all_their_styles(name: str, library: str, model: str) -> None:
    assert find_builder(name) == (library, model) and not is_import_path(name)
    weights = default_weights(name)
    assert weights is not None and (library == "torchvision" or weights.startswith(model))


def test_a_name_of_the_hub_is_built_and_saved_as_timms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("something is being fetched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model = AIM("hf-hub:timm/resnet10t.c3_in1k", backbone_kwargs={"num_classes": 2}, mask_width=4).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["backbone"]["name"] == "timm/resnet10t.c3_in1k"
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(AIM.from_pretrained(tmp_path)(images).logits, model(images).logits)


def test_a_name_that_the_user_registered_may_have_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timm.models._registry._model_entrypoints, "MyNet", timm.models.resnet10t)
    assert find_builder("timm/MyNet") == find_builder("MyNet") == ("timm", "MyNet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", r"neither timm nor torchvision has a model named 'resnet51'; did you mean resnet5"),
        ("timm/shufflenet_v2_x0_5", r"backbone: timm has no model named 'shufflenet_v2_x0_5'"),
        ("torchvision/convnext_atto", r"torchvision has no model named 'convnext_atto'; did you mean convnext_"),
        ("ResNet-50", r"named 'resnet-50'; did you mean resnet50"),
        ("resnet81.a1_in1k", r"named 'resnet81.a1_in1k'; did you mean resnet18"),
        ("resnet50.a1_in1", r"timm has no weights named 'resnet50.a1_in1'; use resnet50.a1_in1k, "),
        ("tf_efficientnet_b0_ns.nope", r"no weights named 'tf_efficientnet_b0.nope'; use tf_efficientnet_b0\."),
        ("torchvision/resnet18.a1_in1k", r"torchvision has no model named 'resnet18.a1_in1k'; did you mean resnet18,"),
        (
            "microsoft/resnet-50",
            r"named 'microsoft/resnet-50'; build models of other libraries with that library",
        ),
        ("hf-hub:someone/net", r"named 'hf-hub:someone/net'; build models of other libraries with that library"),
        ("local-dir:/net", r"named 'local-dir:/net'; build models of other libraries with that library"),
        ("§§§", r"backbone: .* model named '§§§'; timm.list_models\(\) lists all names"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(name)
