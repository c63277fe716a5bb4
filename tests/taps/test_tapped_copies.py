"""What a copy of a model holds: attributes, names, functions; and models that cannot be copied."""

import functools
import types

import pytest
import torch
from odd_nets import (
    CACHE,
    IMAGES,
    CachesOutside,
    Helper,
    HoldsLocked,
    Inserted,
    KeepsActivations,
    Lambda,
    Locked,
    last_map,
    with_another_forward,
    with_lazy_part,
    with_lazy_statistics,
    with_scripted_part,
)
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Branching, TinyNet, conv_block

from aimwrap import AIM, AIMLoss
from aimwrap.backbones.inspection import inspect_backbone
from aimwrap.taps import tap_backbone


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
def test_a_model_that_cannot_be_wrapped_gets_a_way_out(
    build: type[nn.Module], error: type[Exception], message: str, function: type[AIM]
) -> None:
    CACHE.clear()
    with pytest.raises(error, match=f"(?s){message}"):
        function(build())
    CACHE.clear()


def test_each_way_out_helps() -> None:
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


@pytest.mark.parametrize("kind", ["function", "object"])
def test_a_function_or_object_that_holds_a_module_is_refused(kind: str) -> None:
    adapter = conv_block(12, 12, stride=1)
    model = Inserted(Lambda((lambda x: x + adapter(x)) if kind == "function" else Helper(adapter)))
    model.adapter = adapter
    expected = "pass the module to it as an argument" if kind == "function" else "define Helper.__deepcopy__"
    with pytest.raises(ValueError, match=expected):
        tap_backbone(model, [2, 3])


def test_functions_without_a_module_are_accepted() -> None:
    slope = 0.3
    model = Inserted(Lambda(lambda x: F.leaky_relu(x, slope))).eval()
    torch.testing.assert_close(tap_backbone(model, [3]).backbone(IMAGES)["3"], model.features(IMAGES))
