"""What a backbone is said to be before it is wrapped, as an object, as text, as JSON and on the command line."""

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from zoo import NUM_CLASSES, HeadConvNet, TinyNet

from aimwrap import AIM, inspect_backbone


def test_inspection_says_what_wrapping_does() -> None:
    backbone = HeadConvNet()
    found = inspect_backbone(backbone, example_input=torch.zeros(1, 3, 96, 64))
    assert found.name == "HeadConvNet" and found.num_classes == NUM_CLASSES and found.image_shape == (3, 96, 64)
    assert found.parameters == sum(parameter.numel() for parameter in backbone.parameters())
    assert [(t.stage, t.node, t.channels, t.stride, t.size) for t in found.taps] == [
        (0, "block0", 8, 4, (24, 16)),
        (1, "block1", 12, 8, (12, 8)),
        (2, "block2", 16, 16, (6, 4)),
        (3, "block3", 20, 32, (3, 2)),
    ]
    assert list(found.costs) == [(3,), (2, 3), (1, 2, 3), (0, 1, 2, 3)]
    wrapped = AIM(backbone, [2, 3], example_input=torch.zeros(1, 3, 96, 64))
    assert found.costs[(2, 3)] == wrapped.cost()


@pytest.mark.slow
def test_the_head_changes_the_cost() -> None:
    costs = [inspect_backbone(TinyNet(), head=head).costs[(2, 3)] for head in ("paper", "feature-preserving")]
    assert costs[0] == AIM(TinyNet(), [2, 3], head="paper").cost() != costs[1]


@pytest.mark.slow
def test_how_stages_were_found_is_shown() -> None:
    assert inspect_backbone(TinyNet()).found_by == "module boundaries"
    assert inspect_backbone(timm.create_model("test_resnet")).found_by == "timm's feature_info"


@pytest.mark.parametrize(
    "name", ["timm/test_resnet", pytest.param("torchvision/resnet18", marks=pytest.mark.slow), "zoo:TinyNet"]
)
def test_the_two_lines_can_be_pasted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    found = inspect_backbone(name)
    code = "\n".join(found.lines).replace("pretrained=True", "pretrained=False").replace('"DEFAULT"', "None")
    scope: dict[str, object] = {}
    exec(f"import timm, torchvision\nfrom aimwrap import AIM\n{code}", scope)
    assert scope["model"].stages == (2, 3)


def test_a_backbone_without_classifier() -> None:
    found = inspect_backbone(timm.create_model("resnet10t", num_classes=0))
    assert found.num_classes is None
    assert "num_classes=" in found.lines[-1] and "no classifier recognised: pass num_classes=" in str(found)


def test_text_and_json_hold_the_same() -> None:
    found = inspect_backbone(TinyNet())
    text = str(found)
    for tap in found.taps:
        assert tap.node in text and f"{tap.size[0]} x {tap.size[1]}" in text
    assert all(line in text for line in found.lines)
    read = json.loads(json.dumps(found.as_dict()))
    assert [tap["node"] for tap in read["taps"]] == ["block0", "block1", "block2", "block3"]
    assert read["costs"][1]["stages"] == [2, 3]
    assert read["costs"][1]["head_macs"] == found.costs[(2, 3)].head_macs


class Forgetful(nn.Module):
    """Tokens: nothing to tap."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 16, 16)
        self.mix = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.mix(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


def test_what_cannot_be_tapped_is_refused_as_wrapping_refuses_it() -> None:
    with pytest.raises(ValueError) as wrapping:
        AIM(Forgetful(), [3])
    with pytest.raises(ValueError) as inspecting:
        inspect_backbone(Forgetful())
    assert str(inspecting.value) == str(wrapping.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Net", "'no_such_module:Net' cannot be imported"),
        ("zoo:NoSuchNet", "'zoo:NoSuchNet' cannot be imported"),
        ("zoo:NUM_CLASSES", "must be an nn.Module or build one"),
        ("resnet_ten", "neither timm nor torchvision has a model"),
    ],
)
def test_wrong_names(path: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises((TypeError, ValueError), match=message):
        inspect_backbone(path)


@pytest.mark.slow
def test_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from aimwrap.cli import app

    runner = CliRunner()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    shown = runner.invoke(app, ["inspect", "test_resnet", "--image-size", "96"])
    assert shown.exit_code == 0 and "layer4" in shown.output and "size at 96 x 96" in shown.output
    as_json = runner.invoke(app, ["inspect", "zoo:TinyNet", "--json", "--head", "paper"])
    found = json.loads(as_json.output)
    assert found["head"] == "paper" and found["lines"][-1].endswith('tau=0.25, head="paper")')
    blocks = json.loads(runner.invoke(app, ["inspect", "test_vit", "--json"]).output)
    assert [tap["stage"] for tap in blocks["taps"]] == [1, 3, 5] and "6 blocks" in blocks["found_by"]
    refused = runner.invoke(app, ["inspect", "test_inspection:Forgetful", "--json"])
    assert refused.exit_code == 1 and "tokens" in json.loads(refused.output)["error"]
    assert runner.invoke(app, ["inspect", "resnet_ten"]).exit_code == 1
