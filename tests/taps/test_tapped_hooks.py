"""Hooks and a custom ``__call__`` of a model go on working in its tapped backbone."""

import copy

import pytest
import torch
from odd_nets import IMAGES, DropsInPlace, LooksAtItsHead, NormalisesWhenCalled, last_map
from torch import Tensor
from zoo import Branching, ConstantNet, NormalisingNet, ParameterNet, TinyNet

from aimwrap import AIM
from aimwrap.taps import tap_backbone
from aimwrap.taps.graph import GraphProgram


@pytest.mark.parametrize("net", [TinyNet, Branching])
@pytest.mark.parametrize("where", ["", "block1", "block1.0"])
def test_hooks_that_change_values_keep_doing_so(net: type[TinyNet], where: str) -> None:
    model = net().eval()
    without = last_map(model)
    model.get_submodule(where).register_forward_pre_hook(lambda module, arguments: (arguments[0] * 3,))
    model.block2.register_forward_hook(lambda m, a, kw, output: output + 1, with_kwargs=True)
    backbone = tap_backbone(model, [2, 3]).backbone
    maps = backbone(IMAGES)
    assert not torch.allclose(maps["3"], without)
    torch.testing.assert_close(maps["3"], last_map(model))
    torch.testing.assert_close(copy.deepcopy(backbone)(IMAGES)["3"], maps["3"])


def test_hooks_that_cannot_be_kept_are_warned_of() -> None:
    model = ParameterNet().eval()  # a function that only a graph can tap comes after block2
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


def test_a_hooked_map_is_not_overwritten_in_training() -> None:
    model = DropsInPlace().train()
    model.block2[1].bias.data.fill_(10)  # no zeros but dropout's
    maps = tap_backbone(model, [2, 3]).backbone(IMAGES)
    assert (maps["2"] != 0).all()


@pytest.mark.parametrize("stages", [[2, 3], ["block2", "block3"]])
def test_a_custom_call_is_made(stages: list[int | str]) -> None:
    model = NormalisesWhenCalled().eval()
    maps = tap_backbone(model, stages).backbone(IMAGES)
    torch.testing.assert_close(maps[str(stages[1])], last_map(model))


def test_a_default_type_that_a_forward_sets_for_a_while_does_not_stay() -> None:
    """The forward ends at the deepest map, and so before its own statement that sets it back."""

    class Precise(Branching):
        def forward(self, x: Tensor) -> Tensor:
            torch.set_default_dtype(torch.float64)
            x = super().forward(x)
            torch.set_default_dtype(torch.float32)
            return x

    try:
        tap_backbone(Precise(), [2, 3]).backbone(IMAGES)
        assert torch.get_default_dtype() is torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("net", [TinyNet, Branching, NormalisingNet])
@pytest.mark.parametrize("how", ["wrapped", "network"])
def test_buffers_are_shared_after_a_change_of_type(net: type[TinyNet], how: str) -> None:
    """``to()`` puts new buffers into a module, and the other one kept its own: statistics were not loaded into it."""
    network = net()
    model = AIM(network, [2, 3], mask_width=8)
    (model if how == "wrapped" else network).double()
    other = net().double()
    for name, value in other.state_dict().items():
        value.mul_(0.5 if name.endswith("var") else 1)
    network.load_state_dict(other.state_dict())
    theirs = dict(network.named_buffers())
    ours = dict(model.backbone.named_buffers())
    assert ours and all(value is theirs[name] for name, value in ours.items())
    maps = model.double().eval().forward_backbone(IMAGES.double())
    assert maps["3"].any()
    torch.testing.assert_close(maps["3"], other.eval().features(IMAGES.double()))


def test_no_buffer_of_a_tapped_copy_comes_into_the_network() -> None:
    for network in (ConstantNet(), LooksAtItsHead(), NormalisingNet()):
        names = network.state_dict().keys()
        kept = {name: set(module._buffers) for name, module in network.named_modules()}
        AIM(network, ["block2", "block3"], mask_width=8).double()
        assert network.state_dict().keys() == names
        assert kept == {name: set(module._buffers) for name, module in network.named_modules()}
