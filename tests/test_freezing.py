"""Freezing the backbone, wholly or up to a stage, and the optimiser's parameter groups."""

import copy
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import HeadConvNet, TinyNet

from aimwrap import AIM, AIMLoss


def aim(backbone: nn.Module | None = None, **arguments: object) -> AIM:
    settings = {"mask_width": 4, "width": 8} | arguments
    return AIM(HeadConvNet() if backbone is None else backbone, [2, 3], **settings).train()


def train_a_step(model: AIM) -> None:
    groups = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    AIMLoss(model.tau)(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()


def changed(before: dict[str, torch.Tensor], model: AIM) -> set[str]:
    after = model.backbone.state_dict()
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


def state_of(model: AIM) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.backbone.state_dict().items()}


@pytest.mark.parametrize("head", ["paper", "feature-preserving"])
def test_a_frozen_backbone_keeps_weights_and_statistics(head: str) -> None:
    model = aim(head=head).freeze_backbone()
    for switched in (model, model.eval().train()):
        assert switched.training and not any(module.training for module in switched.backbone.modules())
        before = state_of(switched)
        train_a_step(switched)
        assert changed(before, switched) == set()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("backbone."))


def test_a_frozen_backbone_gives_its_evaluation_maps_while_the_head_trains() -> None:
    backbone = TinyNet(dropout=0.5)
    model, images = aim(backbone), torch.randn(2, 3, 64, 64)
    expected = copy.deepcopy(model).eval().forward_backbone(images)
    maps = model.freeze_backbone().train().forward_backbone(images)
    torch.testing.assert_close(maps, expected, rtol=0, atol=0)


def test_freezing_up_to_a_stage_trains_what_is_after_it() -> None:
    model = aim().freeze_backbone(up_to=2)
    before = state_of(model)
    train_a_step(model.eval().train())
    assert changed(before, model) == {"block3", "head_conv"}
    trained = {name.split(".")[0] for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained == {"block3", "head_conv"}


def test_freezing_adds_up_and_unfreezing_undoes_all_of_it() -> None:
    model = aim().freeze_backbone(up_to=2).freeze_backbone(up_to=3)
    assert {name.split(".")[0] for name, p in model.backbone.named_parameters() if p.requires_grad} == {"head_conv"}
    assert model.unfreeze_backbone() is model
    assert all(module.training for module in model.modules())
    before = state_of(model)
    train_a_step(model)
    assert changed(before, model) == {"stem", "block0", "block1", "block2", "block3", "head_conv"}
    model.freeze_backbone().eval().unfreeze_backbone()
    assert not any(module.training for module in model.modules())


def test_norm_statistics_alone_can_be_frozen() -> None:
    model = aim().freeze_norm_statistics()
    for _ in range(2):
        before = state_of(model)
        train_a_step(model.eval().train())
        after = model.backbone.state_dict()
        same = {name for name, value in before.items() if torch.equal(value, after[name])}
        statistics = {name for name in before if "running_" in name or "num_batches" in name}
        assert same == statistics != set()
    train_a_step(model.unfreeze_backbone())
    assert not torch.equal(model.backbone.state_dict()["block3.1.running_mean"], before["block3.1.running_mean"])


def test_copies_stay_frozen() -> None:
    model = aim(timm.create_model("resnet10t", num_classes=4)).freeze_backbone(up_to=2)
    flags = [module.training for module in model.modules()]
    assert 0 < flags.count(False) < len(flags)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [module.training for module in twin.eval().train().modules()] == flags
        assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]


def test_freezing_leaves_other_flags_alone() -> None:
    model = aim()
    model.backbone.block3.eval()
    model.freeze_backbone(up_to=2)
    assert not model.backbone.block3.training


def test_unknown_stages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"up_to must be one of the tapped stages \[2, 3\], or None for all, got 1"):
        aim().freeze_backbone(up_to=1)


@pytest.mark.parametrize("head", ["paper", "feature-preserving"])
def test_groups_hold_every_trainable_parameter_once(head: str) -> None:
    model = aim(timm.create_model("test_convnext", num_classes=4), head=head)
    groups = model.parameter_groups(lr=1e-5, head_lr=1e-3, mask_lr=1e-4)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            part = name_of[id(parameter)].split(".")[0]
            assert group["lr"] == {"backbone": 1e-5, "mask_estimators": 1e-4}.get(part, 1e-3)
            assert group["weight_decay"] == (0.05 if parameter.ndim > 1 and part != "mask_estimators" else 0)


def test_frozen_parameters_are_in_no_group() -> None:
    model = aim().freeze_backbone()
    groups = model.parameter_groups(lr=1e-5, head_lr=1e-3)
    assert [group["name"] for group in groups] == ["head", "head, no decay", "masks, no decay"]
    assert {group["lr"] for group in groups} == {1e-3}
    assert {group["lr"] for group in model.parameter_groups(lr=1e-5)} == {1e-5}


def test_groups_are_checked() -> None:
    model = aim()
    with pytest.raises(ValueError, match="must not be negative, got -1 for the masks"):
        model.parameter_groups(lr=1e-3, mask_lr=-1)
    with pytest.raises(ValueError, match=r"no parameter is trainable; model.unfreeze_backbone\(\)"):
        model.requires_grad_(False).parameter_groups(lr=1e-3)


class DropsFunctionally(TinyNet):
    """Dropout and drop path as functions, before and after a stage."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block1(self.block0(self.stem(x)))
        x = self.block2(nn.functional.dropout(x, 0.5, self.training))
        return self.block3(nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("build", [DropsFunctionally, lambda: timm.create_model("test_convnext", drop_path_rate=0.9)])
def test_functions_of_a_frozen_part_stay_in_evaluation_mode_too(build: Callable[[], nn.Module], copied: bool) -> None:
    images = torch.randn(4, 3, 64, 64)
    model = AIM(build(), [1, 2, 3], num_classes=3).freeze_backbone(up_to=2)
    expected = model.eval().forward_backbone(images)
    model = pickle.loads(pickle.dumps(model)) if copied else model
    first, second = model.train().forward_backbone(images), model.forward_backbone(images)
    assert torch.equal(first["1"], expected["1"]) and torch.equal(first["2"], expected["2"])
    assert not torch.equal(first["3"], second["3"])  # the layers after it are still in training mode
    model.unfreeze_backbone()
    assert not torch.equal(model.forward_backbone(images)["2"], model.forward_backbone(images)["2"])


class Overwriting(TinyNet):
    """Drops out by a function, and overwrites the map that is tapped."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(12, 16, 3, 2, 1), relu

    def features(self, x: Tensor) -> Tensor:
        x = self.conv(F.dropout(self.block1(self.block0(self.stem(x))), 0.5, self.training))
        if self.relu:
            return self.block3(F.relu_(x))
        x += 1
        return self.block3(x)


@pytest.mark.parametrize("relu", [True, False])
def test_what_overwrites_a_frozen_map_goes_on_from_it(relu: bool) -> None:
    """And not from a second, unfrozen run of the frozen part."""
    net = Overwriting(relu)
    model = AIM(net, ["conv", 3], mask_width=4).freeze_backbone(up_to="conv").train()
    model.backbone.block3.eval()
    runs: list[int] = []
    model.backbone.conv.register_forward_hook(lambda *_: runs.append(1))
    images = torch.randn(2, 3, 64, 64)
    first, second = model.forward_backbone(images), model.forward_backbone(images)
    assert len(runs) == 2
    assert torch.equal(first["conv"], second["conv"]) and torch.equal(first["3"], second["3"])
    expected = net.block3(first["conv"].relu() if relu else first["conv"] + 1)
    torch.testing.assert_close(first["3"], expected)
