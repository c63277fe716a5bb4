"""Extraction by the backbone's own code: hooks where tracing fails, timm's intermediates where stages are tokens."""

import copy
import inspect
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import WAYS_OF_COPYING, Branching, TinyNet, copied, small_twins

from aimwrap import AIM, AIMLoss
from aimwrap.taps import TappedBackbone, tap_backbone
from aimwrap.taps.hooks import HookProgram
from aimwrap.taps.usage import IntermediatesProgram


def program_of(backbone: TappedBackbone) -> type:
    return type(backbone.tapped_program)


def recorded(model: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(n).register_forward_hook(lambda m, a, out, n=n: found.update({n: out.clone()}))
        for n in names
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return found


def test_hooks_give_the_modules_own_maps_in_both_modes() -> None:
    model = Branching()
    tapped = tap_backbone(model, [2, 3], final=True)
    assert program_of(tapped.backbone) is HookProgram
    assert tapped.final is not None and tapped.final.node == "block3"
    for training, width in ((True, 64), (False, 65)):
        images = torch.randn(2, 3, 64, width)
        expected = recorded(copy.deepcopy(model).train(training), ["block2", "block3"], images)
        maps = copy.deepcopy(tapped.backbone).train(training)(images)
        assert torch.equal(maps["2"], expected["block2"]) and torch.equal(maps["final map"], expected["block3"])


def test_after_the_last_hook_nothing_runs_and_no_parameter_is_left() -> None:
    model = Branching()
    backbone = tap_backbone(model, [1]).backbone
    assert {name.split(".")[0] for name, _ in backbone.named_parameters()} == {"stem", "block0", "block1"}
    own = dict(model.named_parameters())
    assert all(parameter is own[name] for name, parameter in backbone.named_parameters())
    twin = backbone.tapped_program.source
    twin.block2.register_forward_hook(lambda *_: pytest.fail("block2 ran"))
    backbone(torch.randn(1, 3, 64, 64))


def test_the_hooked_model_is_left_alone() -> None:
    model = Branching().train()
    model.block0[1].eval()
    model.stem[0].weight.requires_grad_(False)
    before = {name: (module.training, sorted(vars(module))) for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    tapped = tap_backbone(model, [2, 3])
    assert before == {name: (module.training, sorted(vars(module))) for name, module in model.named_modules()}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert [p.requires_grad for p in model.stem.parameters()] == [False, True, True]
    assert not tapped.backbone.get_submodule("block0.1").training  # and the copy keeps what was frozen


def test_hooks_do_not_hold_on_to_a_forward() -> None:
    model = tap_backbone(Branching(), [2, 3]).backbone
    model(torch.randn(1, 3, 64, 64))
    assert model.tapped_program.catch.runs == {}
    with pytest.raises(RuntimeError):
        model(torch.randn(1, 5, 64, 64))
    assert model.tapped_program.catch.runs == {}
    assert model(torch.randn(1, 3, 64, 64)).keys() == {"2", "3"}


@pytest.mark.parametrize("how", WAYS_OF_COPYING)
@pytest.mark.parametrize("build", [Branching, small_twins])
def test_copies_fill_their_own(how: str, build: type[nn.Module]) -> None:
    model = AIM(build(), [2, 3], mask_width=8)
    images = torch.randn(2, 3, 64, 64)
    twin = copied(model, how)
    with torch.no_grad():
        for parameter in twin.backbone.parameters():
            parameter.mul_(0)
    expected = model.eval()(images).logits
    assert expected.abs().sum() > 0
    assert not torch.equal(twin.eval()(images).logits, expected)
    assert torch.equal(model(images).logits, expected)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(images).logits, expected)


def test_freezing_by_hooks_and_by_intermediates() -> None:
    model = AIM(Branching(), [2, 3]).freeze_backbone(up_to=2).train()
    assert {n.split(".")[0] for n, p in model.backbone.named_parameters() if p.requires_grad} == {"block3"}
    assert not model.backbone.get_submodule("block2.1").training and model.backbone.get_submodule("block3.1").training
    model = AIM(small_twins(), [2, 3]).freeze_backbone(up_to=2).train()
    trainable = {n for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert trainable and all(".3." in n or n.startswith("norm") for n in trainable)
    assert any(n.startswith("blocks.2") for n, p in model.backbone.named_parameters() if not p.requires_grad)
    model.unfreeze_backbone()
    assert all(p.requires_grad for p in model.backbone.parameters())


class OverwrittenBehind(Branching):
    """What a module returns is changed in place by the function after it."""

    def features(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.block0(self.stem(x))))
        x += 1
        return self.block3(x)


def test_a_hooked_map_is_not_overwritten() -> None:
    model = OverwrittenBehind().eval()
    images = torch.randn(1, 3, 64, 64)
    maps = tap_backbone(model, ["block2", "block3"]).backbone(images)
    assert torch.equal(maps["block2"], recorded(model, ["block2"], images)["block2"])


class ActivatedBehind(Branching):
    def features(self, x: Tensor) -> Tensor:
        x = self.block2[:2](self.block1(self.block0(self.stem(x))))  # without its ReLU
        return F.relu(self.last(F.relu_(x)))

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Sequential(nn.Conv2d(16, 20, 3, stride=2, padding=1), nn.BatchNorm2d(20))
        del self.block3


def test_a_functional_activation_after_a_hooked_stage_belongs_to_it() -> None:
    model = ActivatedBehind().eval()
    images = torch.randn(1, 3, 64, 64)
    by_number, by_name = tap_backbone(model, [3], final=True), tap_backbone(model, ["last"])
    assert by_number.taps[0].node == "last + relu" and by_name.taps[0].node == "last"
    raw = by_name.backbone(images)["last"]
    assert raw.min() < 0
    for name in ("3", "final map"):
        assert torch.equal(by_number.backbone(images)[name], raw.relu())


def test_a_module_called_several_times_is_hooked_at_the_right_call() -> None:
    class Shared(Branching):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(6, 20, 1)
            self.stem[0].stride = (1, 1)

        def features(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for _ in range(5):
                x = self.pool(x)
            return self.last(x)

    model = Shared().eval()
    images = torch.randn(1, 3, 64, 64)
    pools: list[Tensor] = []
    model.pool.register_forward_hook(lambda m, a, out: pools.append(out))
    tapped = tap_backbone(model, [2, 3])
    assert pools == []
    model(images)
    maps = tapped.backbone(images)
    assert torch.equal(maps["2"], pools[3]) and torch.equal(maps["3"], pools[4])


@dataclass
class Output:
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class Encoder(nn.Module):
    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, hidden_state: Tensor, return_dict: bool | None = None) -> OrderedDict[str, Tensor]:
        for stage in self.stages:
            hidden_state = stage(hidden_state)
        return OrderedDict(last_hidden_state=hidden_state)


class TransformersStyle(nn.Module):
    """Keyword arguments, outputs with fields, and a check of values that tracing stumbles over."""

    def __init__(self) -> None:
        super().__init__()
        net = TinyNet()
        self.embedder, self.encoder = net.stem, Encoder([net.block0, net.block1, net.block2, net.block3])
        self.pooler, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Flatten(), net.fc)

    def forward(self, pixel_values: Tensor | None = None, labels: Tensor | None = None) -> Output:
        if pixel_values is None or pixel_values.shape[1] != 3:
            raise ValueError("pixel_values of three channels")
        hidden = self.encoder(hidden_state=self.embedder(pixel_values), return_dict=True)["last_hidden_state"]
        return Output(self.classifier(self.pooler(hidden)))


@pytest.mark.parametrize("stages", [[2, 3], ["encoder.stages.2", "encoder.stages.3"]])
def test_backbones_in_the_style_of_transformers(stages: list[int | str]) -> None:
    backbone = TransformersStyle()
    model = AIM(backbone, stages, mask_width=8)
    assert program_of(model.backbone) is HookProgram
    assert [tap.node for tap in model.taps] == ["encoder.stages.2", "encoder.stages.3"]
    assert model.num_classes == 7
    images = torch.randn(2, 3, 64, 64)
    AIMLoss(model.tau)(model(images), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None for p in model.parameters())
    missing, _ = model.backbone.load_state_dict(backbone.state_dict(), strict=False)
    assert missing == []


@pytest.mark.parametrize("kind", ["timm", "torchvision", "hand-written"])
def test_gradient_checkpointing_goes_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    checkpoint = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: ran.append(a[0]) or checkpoint(*a, **k))

    class Checkpointed(TinyNet):
        gradient_checkpointing = True

        def features(self, x: Tensor) -> Tensor:
            x = self.block1(self.block0(self.stem(x)))
            x = (
                torch.utils.checkpoint.checkpoint(self.block2, x, use_reentrant=False)
                if self.training
                else self.block2(x)
            )
            return self.block3(x)

    if kind == "timm":
        if "checkpoint" not in inspect.getsource(timm.models.resnet.ResNet.forward_intermediates):
            pytest.skip(f"timm {timm.__version__} does not checkpoint in a ResNet's forward_intermediates")
        backbone = timm.create_model("resnet10t", num_classes=3)
        backbone.set_grad_checkpointing(True)
    elif kind == "torchvision":
        backbone = torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=3, memory_efficient=True)
    else:
        backbone = Checkpointed()
    plain = AIM(backbone, [2, 3], copy=True).train()
    ran.clear()
    output = plain(torch.randn(2, 3, 64, 64))
    assert ran
    AIMLoss(plain.tau)(output, torch.tensor([0, 1])).backward()
    assert [name for name, p in plain.named_parameters() if p.grad is None] == []


def test_a_compiled_part_of_a_backbone() -> None:
    model = TinyNet().eval()
    images = torch.randn(1, 3, 64, 64)
    expected = model.features(images)
    model.block1 = torch.compile(model.block1, backend="eager")
    tapped = tap_backbone(model, [2, 3])
    assert torch.equal(tapped.backbone(images)["3"], expected)
    assert set(tapped.backbone.state_dict()) <= set(model.state_dict())


def test_stages_of_tokens_are_timms_own_intermediates() -> None:
    model = small_twins().eval()
    tapped = tap_backbone(model, [0, 1, 2, 3], final=True)
    assert program_of(tapped.backbone) is IntermediatesProgram
    assert [(t.stage, t.stride) for t in tapped.taps] == [(0, 4), (1, 8), (2, 16), (3, 32)]
    images = torch.randn(2, 3, 64, 96)
    final, expected = model.forward_intermediates(images)
    maps = tapped.backbone(images)
    for stage in range(4):
        torch.testing.assert_close(maps[str(stage)], expected[stage])
    tokens = maps["final map"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, final)
    with pytest.raises(ValueError, match="use either, not both"):
        tap_backbone(model, [3, "blocks.2"])


@pytest.mark.parametrize("registers", [0, 4])
def test_a_vits_blocks_are_maps_without_class_and_register_tokens(registers: int) -> None:
    arguments = {"img_size": 64, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 5, "reg_tokens": registers}
    model = timm.create_model("vit_tiny_patch16_224", **arguments).eval()
    images = torch.randn(2, 3, 64, 64)
    final, expected = model.forward_intermediates(images, indices=[2, 5])
    by_index = tap_backbone(model, [2, 5], final=True)
    by_name = tap_backbone(model, ["blocks.2", "blocks.5"], final=True)
    assert by_index.final is not None and by_name.final is not None and by_name.final.node == "norm"
    for tapped, names in ((by_index, ("2", "5")), (by_name, ("blocks.2", "blocks.5"))):
        maps = tapped.backbone(images)
        for name, reference in zip(names, expected, strict=True):
            torch.testing.assert_close(maps[name], reference)
        torch.testing.assert_close(maps["final map"].flatten(2).transpose(1, 2), final[:, 1 + registers :])
    with pytest.raises(
        ValueError, match=r"one resolution and so no stage 2. Choose among its 6 blocks: stages=\[2, 5\]"
    ):
        AIM(model)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_vit_trains_for_a_step(library: str) -> None:
    if library == "timm":
        backbone = timm.create_model(
            "vit_tiny_patch16_224", img_size=64, embed_dim=24, depth=6, num_heads=2, num_classes=5
        )
    else:
        backbone = torchvision.models.VisionTransformer(64, 16, 6, 2, 24, 48, num_classes=5)
    model = AIM(backbone, stages=[2, 5], tau=0.5, mask_width=8).train()
    assert [tap.size for tap in model.taps] == [(4, 4), (4, 4)]
    AIMLoss(model.tau)(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_torchvisions_vits_train_for_a_step_by_block_index(name: str) -> None:
    patch = int(name[-2:])
    backbone = torchvision.models.get_model(name, image_size=2 * patch, num_classes=5)
    deepest = len(backbone.encoder.layers) - 1
    with pytest.raises(ValueError, match=rf"Choose among its {deepest + 1} blocks: stages=\[\d+, {deepest}\]"):
        AIM(backbone)
    model = AIM(backbone, stages=[deepest // 2, deepest], tau=0.5, mask_width=8).train()
    assert [tap.size for tap in model.taps] == [(2, 2), (2, 2)]
    AIMLoss(model.tau)(model(torch.randn(2, 3, 2 * patch, 2 * patch)), torch.tensor([0, 1])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_graph_that_gives_other_values_than_the_module_is_not_used() -> None:
    """The map is the module's output; its last graph node is a number made in between."""

    class Reports(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(12, 16, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            out = self.conv(x)
            self.twice = out * 2
            return out

    model = TinyNet().eval()
    model.block2 = Reports().eval()
    images = torch.randn(1, 3, 64, 64)
    maps = tap_backbone(model, [2, 3]).backbone(images)
    assert torch.equal(maps["2"], recorded(model, ["block2"], images)["block2"])


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return gradient


class OwnBackward(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(StraightThrough.apply(self.block1(self.block0(self.stem(x))))))


class PartlyWithoutGradients(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.block0(self.stem(x))
        return self.block3(self.block2(self.block1(x)))


class CountsImages(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def features(self, x: Tensor) -> Tensor:
        x = self.block0(self.stem(x))
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)).detach())
        return self.block3(self.block2(self.block1(x - self.mean[:, None, None])))


class Optional(TinyNet):
    """An argument that no classifier is called with: a traced argument is not None."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = nn.Conv2d(3, 3, 1)
        nn.init.zeros_(self.adapter.weight)
        nn.init.zeros_(self.adapter.bias)

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        if task is not None:
            x = x + self.adapter(x)
        return super().forward(x)


@pytest.mark.parametrize("net", [OwnBackward, PartlyWithoutGradients, CountsImages, Optional, TinyNet])
def test_training_through_the_taps_is_training_the_model(net: type[nn.Module]) -> None:
    """What tracing would lose without a word: backwards of one's own, no_grad, updates of buffers."""
    model = net().train()
    twin, tapped = copy.deepcopy(model), tap_backbone(copy.deepcopy(model), [2, 3]).backbone
    images = torch.randn(4, 3, 64, 64)
    twin.features(images).square().mean().backward()
    tapped(images)["3"].square().mean().backward()
    own = dict(twin.named_parameters())
    for name, parameter in tapped.named_parameters():
        expected = own[name].grad
        assert parameter.grad is not None, name  # else DistributedDataParallel waits for it
        torch.testing.assert_close(parameter.grad, expected)
    state = twin.state_dict()
    for name, buffer in tapped.named_buffers():
        torch.testing.assert_close(buffer, state[name])


def test_what_hooked_backbones_cost_is_counted() -> None:
    cost = AIM(Branching(), [2, 3], mask_width=8).cost()
    same = AIM(TinyNet(), [2, 3], mask_width=8).cost()
    assert cost == same


class ByHalves(Branching):
    """Shrinks large images first: another path through the forward than when it was wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(3, 3, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.shrink(x) if x.shape[-1] > 256 else x)


def test_a_way_that_was_not_taken_when_wrapping_is_refused() -> None:
    backbone = tap_backbone(ByHalves().eval(), [2, 3]).backbone
    assert backbone(torch.randn(1, 3, 64, 64))["3"].shape[-1] == 2
    with pytest.raises(RuntimeError, match=r"did not use when it was wrapped.*example_input="):
        backbone(torch.randn(1, 3, 288, 288))


def test_weights_made_by_older_hooks_stay_trainable_when_hooked() -> None:
    model = Branching()
    nn.utils.spectral_norm(model.block2[0])
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.block3[0])
    backbone = tap_backbone(model.eval(), [2, 3]).backbone
    assert {"block2.0.weight_orig", "block3.0.weight_g"} <= dict(backbone.named_parameters()).keys()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        model.block3[0].weight_g.mul_(2)
        model.block2[0].weight_orig.mul_(3)
    torch.testing.assert_close(backbone(images)["3"], model.features(images))


class MoreInTraining(Branching):
    """Goes through another module in training, and counts its images in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.jitter = nn.Conv2d(12, 12, 1)
        self.register_buffer("seen", torch.zeros(()))

    def features(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        x = self.block1(self.block0(self.stem(x)))
        if self.training:
            x = x + self.jitter(x)
        return self.block3(self.block2(x))


def test_what_is_used_in_training_only_is_kept() -> None:
    model = MoreInTraining()
    backbone = tap_backbone(model, [2, 3]).backbone.train()
    backbone(torch.rand(2, 3, 64, 64))["3"].sum().backward()
    assert model.jitter.weight.grad is not None


def test_wrapping_moves_no_buffer_that_a_forward_moves() -> None:
    model = MoreInTraining()
    tapped = tap_backbone(model, [2, 3])
    assert model.seen == 0
    tapped.backbone(torch.rand(2, 3, 64, 64))
    assert model.seen == 2  # it is shared, and followed


class WiderInTraining(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        x = super().features(x)
        return self.widen(torch.cat([x, x], 1) if self.training else x)

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)[:, :20].mean((2, 3)))


def test_a_map_that_is_wider_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'widen' gives \(40, 2, 2\) in training, but \(20, 2, 2\) in evaluation"):
        tap_backbone(WiderInTraining(), ["block2", "widen"], example_input=torch.rand(1, 3, 64, 64))
