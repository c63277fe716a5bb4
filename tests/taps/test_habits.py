"""What models do in addition to computing maps: hooks, a custom ``train``, Python's random numbers, caches, locks."""

import copy
import functools
import random
import threading
import types
import warnings

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Branching, ParameterNet, TinyNet, conv_block

from aimwrap import AIM, AIMLoss
from aimwrap.backbones.inspection import inspect_backbone
from aimwrap.taps import tap_backbone
from aimwrap.taps.graph import GraphProgram

IMAGES = torch.rand(2, 3, 64, 64)


def program_of(model: nn.Module, *stages: int) -> type:
    return type(tap_backbone(model, stages or (2, 3)).backbone.tapped_program)


def last_map(model: nn.Module) -> Tensor:
    """Of a model's own forward, its hooks included."""
    seen: list[Tensor] = []
    handle = model.block3.register_forward_hook(lambda module, arguments, output: seen.append(output))
    model(IMAGES)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("net", [TinyNet, Branching])
@pytest.mark.parametrize("where", ["", "block1", "block1.0"])
def test_hooks_that_change_what_a_model_computes_go_on_doing_so(net: type[TinyNet], where: str) -> None:
    model = net().eval()
    without = last_map(model)
    model.get_submodule(where).register_forward_pre_hook(lambda module, arguments: (arguments[0] * 3,))
    model.block2.register_forward_hook(lambda m, a, kw, output: output + 1, with_kwargs=True)
    backbone = tap_backbone(model, [2, 3]).backbone
    maps = backbone(IMAGES)
    assert not torch.allclose(maps["3"], without)
    torch.testing.assert_close(maps["3"], last_map(model))
    torch.testing.assert_close(copy.deepcopy(backbone)(IMAGES)["3"], maps["3"])


def test_hooks_that_cannot_be_kept_are_reported() -> None:
    model = ParameterNet().eval()  # after block2 there is a function that only a graph can tap
    model.block1.register_forward_hook(lambda module, arguments, output: output + 1)
    with pytest.warns(UserWarning, match="through a graph, without the hooks on its modules.*name the modules"):
        tap_backbone(model, [2, 3])
    with pytest.warns(UserWarning, match="through a graph, without the hooks on its modules.*no module 'mul'"):
        tap_backbone(model, ["mul", "block3"])
    by_name = tap_backbone(model, ["block2", "block3"]).backbone
    torch.testing.assert_close(by_name(IMAGES)["block3"], last_map(model))


def test_hooks_on_single_layers_leave_the_graph_usable() -> None:
    model = TinyNet()
    seen: list[torch.Size] = []
    model.block1[0].register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    backbone = tap_backbone(model, [2, 3]).backbone
    assert type(backbone.tapped_program) is GraphProgram and seen == []
    backbone(IMAGES)
    assert seen == [(2, 12, 8, 8)]


@pytest.mark.parametrize("net", [TinyNet, Branching])
@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_are_called(net: type[TinyNet], register: str) -> None:
    model = net()
    seen: list[object] = []
    getattr(model.block1, register)(lambda module, *gradients: seen.append(module))
    backbone = tap_backbone(model, [2, 3]).backbone
    backbone(IMAGES)["3"].sum().backward()
    assert len(seen) == 1


def test_hooks_are_called_the_way_they_were_registered() -> None:
    """One that is called even where the forward fails, and that is handed keywords."""
    model = Branching().eval()
    seen: list[dict[str, object]] = []
    model.block1.register_forward_hook(lambda m, a, kw, out: seen.append(kw), with_kwargs=True, always_call=True)
    backbone = tap_backbone(model, [2, 3]).backbone
    with pytest.raises(RuntimeError):
        backbone.get_submodule("block1")(torch.zeros(1, 3, 8, 8))  # of 8 channels
    assert seen == [{}]


class KeepsNormsFrozen(TinyNet):
    """As detection backbones are written."""

    def train(self, mode: bool = True) -> "KeepsNormsFrozen":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def test_a_train_of_the_models_own_is_followed() -> None:
    model = AIM(KeepsNormsFrozen(), [2, 3], mask_width=8)
    for twin in (model, copy.deepcopy(model)):
        twin.train()
        assert twin.backbone.training and twin.backbone.get_submodule("block1.0").training
        assert not any(m.training for m in twin.backbone.modules() if isinstance(m, nn.BatchNorm2d))
        before = {name: buffer.clone() for name, buffer in twin.backbone.named_buffers()}
        twin(IMAGES)
        assert all(torch.equal(buffer, before[name]) for name, buffer in twin.backbone.named_buffers())
        twin.eval()
        assert not any(module.training for module in twin.modules())


class Throws(TinyNet):
    """Skips a block now and then, by another generator than torch's."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by
        self.skipped = conv_block(12, 12, stride=1)

    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        draw = random.random() if self.by == "Python" else np.random.rand()
        if not self.training or draw < 0.5:
            x = self.skipped(x)
        return self.block3(self.block2(x))


@pytest.mark.parametrize("by", ["Python", "NumPy"])
def test_pythons_own_randomness_is_drawn_again(by: str) -> None:
    random.seed(0)
    np.random.seed(0)
    states = random.getstate(), np.random.get_state()[2]
    model = Throws(by)
    backbone = tap_backbone(model, [2, 3]).backbone.train()
    assert (random.getstate(), np.random.get_state()[2]) == states
    calls: list[None] = []
    backbone.get_submodule("skipped.0").register_forward_hook(lambda *_: calls.append(None))
    for _ in range(20):
        backbone(IMAGES)
    assert 3 < len(calls) < 17
    with pytest.raises(ValueError, match="draws random numbers in its forward"):
        tap_backbone(model, ["add", "block3"])  # a node of a graph, and nothing else


class NormOfOnesOwn(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, 1e-5)


def test_norms_of_ones_own_keep_frozen_statistics() -> None:
    backbone = TinyNet()
    for block in (backbone.stem, backbone.block0, backbone.block2):
        block[1] = NormOfOnesOwn(block[1].num_features)
    model = AIM(backbone, [2, 3], mask_width=8).freeze_norm_statistics().train()
    assert type(model.backbone.tapped_program) is GraphProgram
    before = {name: buffer.clone() for name, buffer in model.backbone.named_buffers()}
    model(IMAGES)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.backbone.named_buffers())
    model.unfreeze_backbone()(IMAGES)
    assert not torch.equal(model.backbone.get_buffer("block2.1.running_mean"), before["block2.1.running_mean"])


class DropsInPlace(Branching):
    def features(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.block0(self.stem(x))))
        return self.block3(F.dropout(x, 0.5, self.training, inplace=True))


def test_a_hooked_map_is_not_overwritten_in_training() -> None:
    model = DropsInPlace().train()
    model.block2[1].bias.data.fill_(10)  # no zeros but dropout's
    maps = tap_backbone(model, [2, 3]).backbone(IMAGES)
    assert (maps["2"] != 0).all()


class Checkpointed(Branching):
    gradient_checkpointing = True

    def features(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.block0(self.stem(x))))
        if not self.training:
            return self.block3(x)
        return torch.utils.checkpoint.checkpoint(self.block3, x, use_reentrant=True)


def test_a_deepest_map_without_a_gradient_is_reported() -> None:
    with pytest.warns(UserWarning, match=r"no gradient leaves the maps of \['3'\].*use_reentrant=False"):
        tap_backbone(Checkpointed(), [2, 3])


@pytest.mark.parametrize("net", [TinyNet, Branching])
@pytest.mark.parametrize("name", ["freeze", "run", "usage", "source", "freeze_statistics"])
def test_submodules_may_be_called_what_the_taps_do(net: type[TinyNet], name: str) -> None:
    class Named(net):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Conv2d(8, 8, 1))

        def features(self, x: Tensor) -> Tensor:
            return self.block3(self.block2(self.block1(self.get_submodule(name)(self.block0(self.stem(x))))))

    backbone = Named().eval()
    model = AIM(backbone, [2, 3], mask_width=8).freeze_backbone(up_to=2).unfreeze_backbone().eval()
    torch.testing.assert_close(model.backbone(IMAGES)["3"], last_map(backbone))


class Locked(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def features(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().features(x)


class KeepsActivations(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.activations: list[Tensor] = []

    def features(self, x: Tensor) -> Tensor:
        self.activations.clear()
        for block in (self.stem, self.block0, self.block1, self.block2, self.block3):
            x = block(x)
            self.activations.append(x)
        return x


class HoldsLocked(TinyNet):
    """A part of it cannot be copied, and all others can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Locked()

    def features(self, x: Tensor) -> Tensor:
        with self.inner.lock:
            return super().features(x)


@pytest.mark.parametrize("net", [Locked, HoldsLocked, KeepsActivations])
def test_attributes_that_cannot_be_copied(net: type[TinyNet]) -> None:
    backbone = net()
    backbone(IMAGES)
    kept = list(getattr(backbone, "activations", []))
    backbone.block1.eval()
    flags = [module.training for module in backbone.modules()]
    model = AIM(backbone, [2, 3], mask_width=8)
    assert [module.training for module in backbone.modules()] == flags
    assert all(a is b for a, b in zip(kept, getattr(backbone, "activations", []), strict=True))
    AIMLoss(model.tau)(model(IMAGES), torch.tensor([0, 1])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def with_scripted_part() -> nn.Module:
    model = TinyNet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch call it deprecated
        model.block1 = torch.jit.script(model.block1)
    return model


def with_lazy_part() -> nn.Module:
    model = TinyNet()
    model.block1[0] = nn.LazyConv2d(12, 3, stride=2, padding=1)
    return model


def with_lazy_statistics() -> nn.Module:
    model = TinyNet()
    model.block1[1] = nn.LazyBatchNorm2d(affine=False)
    return model


def with_another_forward() -> nn.Module:
    model = TinyNet()
    model.forward = lambda x: model.fc(model.features(x).mean((2, 3)))
    return model


CACHE: dict[tuple[int, ...], Tensor] = {}


class CachesOutside(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        size = tuple(int(side) for side in x.shape[2:])
        if size not in CACHE:
            CACHE[size] = torch.linspace(0, 1, size[0] * size[1]).view(1, 1, *size)
        return self.block3(self.block2(x + CACHE[size]))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (with_scripted_part, TypeError, r"'block1' is a scripted module"),
        (with_lazy_part, ValueError, r"'block1.0.weight' has no shape yet.*run the backbone once"),
        (with_lazy_statistics, ValueError, r"'block1.1.running_mean' has no shape yet.*run the backbone once"),
        (with_another_forward, ValueError, r"bind it instead: module.forward = types.MethodType\(function, module\)"),
        (CachesOutside, ValueError, r"does not run on real images.*run the backbone once on real images"),
    ],
)
@pytest.mark.parametrize("function", [functools.partial(AIM, stages=[2, 3]), inspect_backbone])
def test_what_cannot_be_wrapped_as_it_is_says_how_to_go_on(
    build: type[nn.Module], error: type[Exception], message: str, function: type[AIM]
) -> None:
    CACHE.clear()
    with pytest.raises(error, match=f"(?s){message}"):
        function(build())
    CACHE.clear()


def test_the_remedies_help() -> None:
    lazy, forward, caches = with_lazy_part(), TinyNet(), CachesOutside().eval()
    lazy(IMAGES)
    forward.forward = types.MethodType(lambda self, x: self.fc(self.features(x).mean((2, 3))), forward)
    CACHE.clear()
    caches(torch.rand(1, 3, 224, 224))
    for model in (lazy, forward, caches):
        backbone = tap_backbone(model.eval(), [2, 3]).backbone
        torch.testing.assert_close(backbone(IMAGES)["3"], last_map(model))
    CACHE.clear()


def test_a_module_of_two_names_is_found_by_both() -> None:
    class Alias(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = self.block2

        def features(self, x: Tensor) -> Tensor:
            return self.block3(self.trunk(self.block1(self.block0(self.stem(x)))))

    for name in ("trunk", "block2"):
        tapped = tap_backbone(Alias(), [name, "block3"])
        assert [(tap.stage, tap.node) for tap in tapped.taps] == [(name, "block2"), ("block3", "block3")]


class Inserted(TinyNet):
    """A layer of some habit after block1."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def features(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(self.layer(self.block1(self.block0(self.stem(x))))))


class SkipsByTorchsDice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 if self.training and torch.rand(1).item() < 0.5 else x


class ShakesByTorchsDice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(1) if self.training else x


class SkipsByItsOwnDice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 if self.training and self.dice.random() < 0.5 else x


class ShakesByItsOwnDice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dice = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(1, generator=self.dice) if self.training else x


class MixesByADistribution(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.distributions.Beta(0.5, 0.5).sample((len(x), 1, 1, 1)) if self.training else x


class WarmsUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.step += 1
        return x * min(1.0, 0.1 + self.step / 50)


class ClampsItsWeight(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.clamp_(-0.01, 0.01)
        return super().forward(x)


class KeepsANorm(nn.Conv2d):
    """As EEGNet writes it."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.1)
        return super().forward(x)


class BeginsWithData(nn.Module):
    """ActNorm: the first batch sets its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.begun = nn.Parameter(torch.zeros(12, 1, 1)), False

    def forward(self, x: Tensor) -> Tensor:
        if not self.begun:
            self.shift.data.copy_(-x.mean((0, 2, 3))[:, None, None].detach())
            self.begun = True
        return x + self.shift


HABITS = [
    SkipsByTorchsDice,
    ShakesByTorchsDice,
    SkipsByItsOwnDice,
    ShakesByItsOwnDice,
    MixesByADistribution,
    WarmsUp,
    functools.partial(ClampsItsWeight, 12, 12, 1),
    functools.partial(KeepsANorm, 12, 12, 1),
    BeginsWithData,
    functools.partial(nn.BatchNorm2d, 12, momentum=None),
]


@pytest.mark.parametrize("build", HABITS)
def test_training_step_by_step_is_the_models_own(build: type[nn.Module]) -> None:
    """Over several steps, and wrapping changed nothing: no weight, counter or generator."""
    torch.manual_seed(3)
    model = Inserted(build())
    twin, state = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    before = torch.get_rng_state()
    backbone = tap_backbone(model, [2, 3]).backbone.train()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    twin.train()
    for step in range(8):
        torch.manual_seed(step)
        ours = backbone(IMAGES)["3"]
        torch.manual_seed(step)
        torch.testing.assert_close(ours, twin.features(IMAGES))
    own = twin.state_dict()
    for name, value in {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}.items():
        torch.testing.assert_close(value, own[name])


class TrainReturnsNothing(TinyNet):
    """As OpenMMLab's backbones do."""

    def train(self, mode: bool = True) -> None:
        super().train(mode)
        self.stem.eval()
        for parameter in self.stem.parameters():
            parameter.requires_grad_(False)


def test_a_train_that_freezes_does_so_in_training_only() -> None:
    backbone = TrainReturnsNothing()
    model = AIM(backbone, [2, 3], mask_width=8)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    model.train()
    assert not any(parameter.requires_grad for parameter in backbone.stem.parameters())
    assert not model.backbone.get_submodule("stem.1").training


class AlwaysTrains(TinyNet):
    """Dropout that stays on in evaluation, for its uncertainty."""

    def train(self, mode: bool = True) -> "AlwaysTrains":
        return super().train(True)


def test_what_stays_on_in_evaluation_does() -> None:
    model = AIM(AlwaysTrains(dropout=0.5), [2, 3], mask_width=8).eval()
    assert not model.training and model.backbone.get_submodule("block2.3").training
    assert not torch.equal(model.forward_backbone(IMAGES)["2"], model.forward_backbone(IMAGES)["2"])


class WithoutGradientsInEvaluation(Branching):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training):
            return super().forward(x)


@pytest.mark.filterwarnings("error")
def test_a_map_without_a_gradient_in_evaluation_is_no_news() -> None:
    tap_backbone(WithoutGradientsInEvaluation(), [2, 3])


class NormalisesWhenCalled(TinyNet):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__((x - 0.5) / 0.2)


@pytest.mark.parametrize("stages", [[2, 3], ["block2", "block3"]])
def test_a_call_of_the_models_own_is_made(stages: list[int | str]) -> None:
    model = NormalisesWhenCalled().eval()
    maps = tap_backbone(model, stages).backbone(IMAGES)
    torch.testing.assert_close(maps[str(stages[1])], last_map(model))


class DropsInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x) if x.shape[2] > 1 else x, 0.5, self.training)


def test_freezing_reaches_functions_of_hooked_modules() -> None:
    model = AIM(Inserted(DropsInside()), [2, 3], mask_width=8).freeze_backbone(up_to=2).train()
    assert torch.equal(model.forward_backbone(IMAGES)["2"], model.forward_backbone(IMAGES)["2"])
    assert model.backbone.get_submodule("block3").training and model.backbone.training
    model.unfreeze_backbone()
    assert not torch.equal(model.forward_backbone(IMAGES)["2"], model.forward_backbone(IMAGES)["2"])


class DetachesItsStem(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(self.block1(self.block0(self.stem(x)).detach())))


class HooksATensor(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        if self.training:
            x.register_hook(lambda gradient: gradient * 0.1)
        return self.block3(self.block2(x))


class LooksAtItsHead(Branching):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x.to(self.fc.weight.dtype))


class KeepsByItsOwnHook(TinyNet):
    """Features of block1 reach block3 by a hook that the model puts on itself, which has a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(16))
        self.kept: dict[str, Tensor] = {}
        self.block2.register_forward_hook(self.amplify)
        self.block1.register_forward_hook(self.keep)
        self.lateral = nn.Conv2d(12, 16, 1, stride=2)

    def keep(self, module: nn.Module, arguments: object, output: Tensor) -> None:
        self.kept["block1"] = output

    def amplify(self, module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        return output * self.gain[:, None, None]

    def features(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.block0(self.stem(x))))
        return self.block3(torch.maximum(x, self.lateral(self.kept["block1"])))


@pytest.mark.filterwarnings("ignore:.*is tapped through a graph")
@pytest.mark.parametrize("net", [DetachesItsStem, HooksATensor, LooksAtItsHead, KeepsByItsOwnHook])
def test_trained_parameters_are_those_that_a_gradient_reaches(net: type[TinyNet]) -> None:
    backbone = net()
    model = AIM(backbone, ["block2", "block3"], mask_width=8).train()
    AIMLoss(model.tau)(model(IMAGES), torch.tensor([0, 1])).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    torch.testing.assert_close(model.forward_backbone(IMAGES)["block3"], last_map(backbone.eval()))
    assert net is not KeepsByItsOwnHook or "gain" in dict(model.backbone.named_parameters())


class Lambda(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Helper:
    def __init__(self, module: nn.Module) -> None:
        self.lock, self.module = threading.Lock(), module

    def __call__(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.module(x)


@pytest.mark.parametrize("kind", ["function", "object"])
def test_what_would_hold_on_to_the_original_modules_is_refused(kind: str) -> None:
    adapter = conv_block(12, 12, stride=1)
    model = Inserted(Lambda((lambda x: x + adapter(x)) if kind == "function" else Helper(adapter)))
    model.adapter = adapter
    expected = "hand the module to it as an argument" if kind == "function" else "give Helper a __deepcopy__"
    with pytest.raises(ValueError, match=expected):
        tap_backbone(model, [2, 3])


def test_functions_without_a_module_are_welcome() -> None:
    slope = 0.3
    model = Inserted(Lambda(lambda x: F.leaky_relu(x, slope))).eval()
    torch.testing.assert_close(tap_backbone(model, [3]).backbone(IMAGES)["3"], model.features(IMAGES))
