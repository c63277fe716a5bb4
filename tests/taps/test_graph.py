"""The tapped backbone: two graphs on the user's own parameters, through copies and pickles."""

import copy
import operator
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from zoo import (
    WAYS_OF_COPYING,
    ConstantNet,
    FunctionalNet,
    HeadConvNet,
    NormalisingNet,
    ParameterNet,
    TinyNet,
    TrainEvalNet,
    conv_block,
    copied,
)

from aimwrap.taps import TappedBackbone, tap_backbone
from aimwrap.taps.copies import traceable_shadow_of
from aimwrap.taps.graph import GraphNames, GraphProgram, _noting_assignments, _work_in_place_again
from aimwrap.taps.probe import CallSite


def tapped(model: nn.Module, *stages: int | str) -> TappedBackbone:
    return tap_backbone(model, list(stages)).backbone


def test_what_comes_after_the_deepest_tap_is_gone() -> None:
    names = {name for name, _ in tapped(HeadConvNet(), "block1").named_parameters()}
    assert {name.split(".")[0] for name in names} == {"stem", "block0", "block1"}


def test_what_comes_after_the_tap_is_not_run() -> None:
    model = TinyNet()
    ran: list[str] = []
    for name in ("block2", "fc"):
        for module in getattr(model, name).modules():
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    tapped(model, 0, 1)(torch.randn(1, 3, 64, 64))
    assert ran == []
    tapped(model, 2)(torch.randn(1, 3, 64, 64))
    assert set(ran) == {"block2"}


def test_state_dict_names_are_the_backbones() -> None:
    for model in (TinyNet(), ParameterNet(), HeadConvNet(), TrainEvalNet()):
        own, theirs = tapped(model, 2, 3).state_dict(keep_vars=True), model.state_dict(keep_vars=True)
        assert own.keys() < theirs.keys()
        assert all(value is theirs[name] for name, value in own.items())


def test_state_dict_holds_no_tensor_that_the_backbones_does_not() -> None:
    """Plain attributes, tensors made in the forward, and non-persistent buffers stay out of checkpoints."""
    for model in (NormalisingNet(), ConstantNet()):
        own, theirs = set(tapped(model, 2, 3).state_dict()), set(model.state_dict())
        assert own == {name for name in theirs if not name.startswith("fc.")}


def test_buffers_that_the_forward_reshapes() -> None:
    model = NormalisingNet().eval()
    images = torch.rand(2, 3, 64, 64)
    maps = tapped(model, 3)(images)
    assert type(maps["3"]) is Tensor  # not a fake one
    assert torch.equal(maps["3"], model.features(images))


def test_reshaped_buffers_follow_their_values() -> None:
    """A normalisation that is loaded later must count."""
    model = NormalisingNet().eval()
    backbone = tapped(model, 3)
    backbone.load_state_dict({"std": torch.ones(3)}, strict=False)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(backbone(images)["3"], model.features(images))


def test_tensors_made_in_the_forward() -> None:
    model = ConstantNet().eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(tapped(model, 3)(images)["3"], model.features(images))


def test_plain_tensor_attribute_that_is_computed_with() -> None:
    class Computed(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.tensor(2.0)

        def features(self, x: Tensor) -> Tensor:
            return super().features(x * (1 + self.gain))

    model, images = Computed().eval(), torch.rand(2, 3, 64, 64)
    assert torch.equal(tapped(model, 3)(images)["3"], model.features(images))


class SharedActivation(TinyNet):
    """One ReLU module called after every convolution, as tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.second = nn.Conv2d(12, 12, 3, padding=1)
        self.relu = nn.ReLU()

    def features(self, x: Tensor) -> Tensor:
        x = self.block0(self.stem(x))
        x = self.relu(self.first(x))
        x = self.relu(self.second(x))
        return self.block3(self.block2(x))


def test_a_module_called_twice_at_one_stage_is_tapped_at_its_last_call() -> None:
    model = SharedActivation().eval()
    outputs: list[Tensor] = []
    model.relu.register_forward_hook(lambda m, a, out: outputs.append(out))
    images = torch.rand(1, 3, 64, 64)
    model(images)
    last = outputs[-1]
    assert torch.equal(tapped(model, 1)(images)["1"], last)


class Thrice(TinyNet):
    """A block of several layers, and a single layer, each called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.relu = conv_block(12, 12, stride=1), nn.ReLU()

    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        for _ in range(3):
            x = self.relu(self.again(x))
        return self.block3(self.block2(x))


@pytest.mark.parametrize("node", ["again", "relu"])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_each_call_of_a_module_has_its_own_node(node: str, call: int) -> None:
    names = GraphNames(traceable_shadow_of(Thrice(), FakeTensorMode(allow_non_fake_inputs=True)))
    suffix = f"_{call}" if call else ""
    expected = f"again.2{suffix}" if node == "again" else f"relu{suffix}"
    assert names.resolve(CallSite(node, call, 3)) == ((expected, expected), expected)


def test_a_pool_shared_by_all_stages() -> None:
    """The tutorial CNN: a stage is the last map at its stride, so the activated convolution after a pool."""

    class SharedPool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = ((3, 4), (4, 5), (5, 6), (6, 7), (7, 8))
            self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in sizes)
            self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            for convolution in self.convolutions:
                x = self.pool(F.relu(convolution(x)))
            return self.fc(x.mean((2, 3)))

    model = SharedPool().eval()
    outputs: list[Tensor] = []
    model.pool.register_forward_hook(lambda m, a, out: outputs.append(out))
    images = torch.rand(1, 3, 64, 64)
    model(images)
    expected = {"2": F.relu(model.convolutions[4](outputs[3])), "3": outputs[4]}
    maps = tapped(model, 2, 3)(images)
    assert all(torch.equal(maps[stage], value) for stage, value in expected.items())


@pytest.mark.parametrize("name", ["architecture", "_nodes", "_graphs", "_forwards"])
def test_submodules_may_have_any_name(name: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Sequential(conv_block(3, 4), conv_block(4, 5)))
            self.fc = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.get_submodule(name)(x).mean((2, 3)))

    model = Named().eval()
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(tapped(model, 0)(images)["0"], model.get_submodule(name)(images))


@pytest.mark.parametrize("training", [True, False])
def test_train_and_eval_have_their_own_graph(training: bool) -> None:
    model = TrainEvalNet().train(training)
    images = torch.rand(4, 3, 64, 64)
    x = copy.deepcopy(model).block2(model.block1(model.block0(model.stem(images))))
    expected = copy.deepcopy(model).block3(x * 2 if training else x)
    assert torch.allclose(tapped(model, 3).train(training)(images)["3"], expected)


def test_a_stage_may_end_in_another_node_in_training() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 20, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x))
            return x * 2 if self.training else x

    class Ending(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.block3 = Block()

    model = Ending().eval()
    backbone, images = tapped(model, 3), torch.rand(2, 3, 64, 64)
    expected = model.features(images)
    assert torch.equal(backbone(images)["3"], expected)
    backbone.training = True  # the train graph, on modules that are still in evaluation
    assert torch.equal(backbone(images)["3"], 2 * expected)


def test_follows_the_models_mode_and_frozen_parts() -> None:
    model = TinyNet(dropout=0.5).train()
    model.block1.eval()
    backbone = tapped(model, 3)
    assert backbone.training
    flags = {name: module.training for name, module in backbone.named_modules()}
    assert [name for name, training in flags.items() if not training] == ["block1", "block1.0", "block1.1", "block1.2"]
    assert not any(module.training for module in tapped(model.eval(), 3).modules())


def test_frozen_statistics_do_not_move() -> None:
    model = TinyNet().train()
    model.block1.eval()
    backbone = tapped(model, 3)
    before = copy.deepcopy(model.state_dict())
    backbone(torch.rand(4, 3, 64, 64))
    after = model.state_dict()
    moved = {name.rsplit(".", 1)[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"stem.1", "block0.1", "block2.1", "block3.1"}


@pytest.mark.parametrize("how", WAYS_OF_COPYING)
@pytest.mark.parametrize("model_class", [TinyNet, ParameterNet, TrainEvalNet, FunctionalNet, NormalisingNet])
def test_copies_switch_modes(how: str, model_class: type[TinyNet]) -> None:
    backbone = tapped(model_class().train(), 2, 3)
    twin = copied(backbone, how)
    images = torch.rand(2, 3, 64, 64)
    for training in (False, True):
        ours, theirs = backbone.train(training)(images), twin.train(training)(images)
        assert list(ours) == list(theirs) == ["2", "3"]
        assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


def test_a_loaded_copy_turns_dropout_off_and_on() -> None:
    """What torchvision's own extractor forgets when it is pickled."""
    backbone = pickle.loads(pickle.dumps(tapped(TinyNet(dropout=0.5).train(), 3)))
    images = torch.rand(2, 3, 64, 64)
    backbone.eval()
    assert torch.equal(backbone(images)["3"], backbone(images)["3"])
    backbone.train()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(backbone(images)["3"], backbone(images)["3"])


def test_functional_dropout_follows_the_mode() -> None:
    class FunctionalDropout(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            x = self.block2(self.block1(self.block0(self.stem(x))))
            return self.block3(F.dropout(x, 0.5, training=self.training))

    backbone = pickle.loads(pickle.dumps(tapped(FunctionalDropout(), 3))).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(backbone(images)["3"], backbone(images)["3"])
    backbone.train()
    assert not torch.equal(backbone(images)["3"], backbone(images)["3"])


def test_maps_run_through_jumps_of_precision_and_place() -> None:
    backbone = tapped(ParameterNet(), 3).to(torch.float64)
    assert backbone(torch.rand(2, 3, 64, 64, dtype=torch.float64))["3"].dtype == torch.float64


@pytest.mark.parametrize("node", ["block1", "block1.1", "mean"])
def test_a_module_is_tapped_at_its_last_node_and_a_node_at_itself(node: str) -> None:
    class Named(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.features(x).mean((2, 3), keepdim=True).flatten(1))

    tapped_model = tap_backbone(Named(), [node])
    assert [tap.node for tap in tapped_model.taps] == [node]
    names = [name for name, _ in tapped_model.backbone.named_modules()]
    assert ("block1.2" in names) == (node != "block1.1")  # the tap is where the backbone ends
    assert ("block3" in names) == (node == "mean")


def test_steps_on_to_functions_only_for_numbers() -> None:
    class AfterASum(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            return F.relu(super().features(x) + 1)

    class Activated(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            return F.gelu(super().features(x))

    def node_of(model: nn.Module, stage: int | str) -> str:
        return tap_backbone(model, [stage]).taps[0].node

    assert node_of(AfterASum(), 3) == "block3 + relu"
    assert node_of(AfterASum(), "block3") == "block3"
    model, images = AfterASum().eval(), torch.randn(1, 3, 64, 64)
    assert torch.equal(tap_backbone(model, [3]).backbone(images)["3"], model.features(images))
    assert node_of(Activated(), 3) == "block3 + gelu"
    assert node_of(Activated(), "block3") == "block3"
    assert node_of(TinyNet(), 3) == "block3"


def test_an_unknown_node_lists_those_there_are() -> None:
    pattern = r"the backbone has no node 'layer9'; it has x, stem.0, .*block3.*get_graph_node_names"
    with pytest.raises(ValueError, match=pattern):
        tapped(TinyNet(), "layer9")


def test_a_prefix_of_a_name_is_no_node() -> None:
    with pytest.raises(ValueError, match="no node 'bloc'"):
        tapped(TinyNet(), "bloc")


def test_control_flow_that_cannot_be_traced_leaves_the_graphs_nodes_out_of_reach() -> None:
    """Its modules can still be named: see test_own_code.py."""

    class Branching(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            return super().features(x[..., 1:] if x.shape[-1] % 2 else x)

    pattern = r"the backbone Branching cannot be traced .*timm's untraced modules(.*\n)*.*register_notrace_module"
    with pytest.raises(ValueError, match=pattern):
        tapped(Branching(), "mul")


def test_control_flow_that_depends_on_values_is_named_as_such() -> None:
    """No example_input helps here, so the message must not send the user there."""

    class Branching(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            return super().features(-x if x.sum() > 1e30 else x)

    with pytest.raises(ValueError, match="control flow that depends on values"):
        tapped(Branching(), "block3")


def test_repr_is_one_line() -> None:
    assert repr(tapped(TinyNet(), 3)) == "TappedBackbone(TinyNet up to its deepest tap, 0.01 M parameters)"


class Assigning(TinyNet):
    """Overwrites what a convolution gave it, and what a module gave it that may have handed its input on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 16, 3, stride=2, padding=1)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv(self.block1(self.block0(self.stem(x))))
        x += 1
        x = self.stem[2](x)
        x -= 0.25
        return self.block3(x)


@pytest.mark.parametrize("training", [True, False])
def test_assignments_work_in_place_where_the_model_lets_them(training: bool) -> None:
    """fx writes x = x + y, and each such map has to be allocated; a tapped one is saved from being overwritten."""
    model = Assigning().train(training)
    reference, backbone = copy.deepcopy(model), tapped(model, "conv", 3).train(training)
    images = torch.rand(2, 3, 64, 64)
    for twin in (backbone, copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        targets = [node.target for node in twin.tapped_program.graphs[training].nodes]
        assert operator.iadd in targets and operator.add not in targets
        assert operator.sub in targets and operator.isub not in targets
        maps = twin(images)
        x = reference.conv(reference.block1(reference.block0(reference.stem(images))))
        torch.testing.assert_close(maps["conv"], x)
        torch.testing.assert_close(maps["3"], reference.block3((x + 1).relu() - 0.25))
        maps["3"].sum().backward()
    assert not hasattr(torch.fx.Proxy, "__iadd__")


class Overwriting(nn.Module):
    """Overwrites a parameter of its own, which torch allows where none needs a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain
        gain += x.mean()
        return x * gain


def test_no_graph_overwrites_a_parameter() -> None:
    module = Overwriting()
    with _noting_assignments({}):
        graph = torch.fx.Tracer().trace(module)
    _work_in_place_again(graph, module)
    assert any(node.meta.get("assigned by") is operator.iadd for node in graph.nodes)
    with torch.no_grad():
        torch.fx.GraphModule(module, graph)(torch.ones(3, 2))
    assert module.gain.tolist() == [0.5, 0.5]


class Neutral(TinyNet):
    """Assigns to a parameter what it is already, so that no value shows whether it was overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((12, 1, 1), 0.5), requires_grad=False)

    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        gain = self.gain
        gain *= 1
        return self.block3(self.block2(x * gain))


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_assigns_to_its_parameters_can_be_wrapped(training: bool) -> None:
    model = Neutral().train(training)
    backbone, version = tapped(model, 3).train(training), model.gain._version
    images = torch.rand(2, 3, 64, 64)
    expected = copy.deepcopy(model).features(images)
    torch.testing.assert_close(backbone(images)["3"], expected)
    assert model.gain._version == version


class Accumulating(TinyNet):
    """Makes a tensor in its forward, and adds to it: once by a method, once by an assignment, once in a view."""

    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        total, other = torch.full((1, 12, 1, 1), 0.5), torch.zeros(12)
        total += x.mean((0, 2, 3), keepdim=True)
        total += 1
        other = other.view(12, 1, 1).add_(x.mean())
        return self.block3(self.block2(x * total + other))


@pytest.mark.parametrize("how", [None, *WAYS_OF_COPYING])
def test_what_a_forward_makes_and_adds_to_is_made_again_every_time(how: str | None) -> None:
    model = Accumulating().eval()
    backbone = tapped(model, 3) if how is None else copied(tapped(model, 3), how)
    assert isinstance(backbone.tapped_program, GraphProgram)
    for _ in range(3):
        images = torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(backbone(images)["3"], model.features(images))


class WritingItsImages(TinyNet):
    """Normalises in place: what it is given is overwritten."""

    def features(self, x: Tensor) -> Tensor:
        x -= 0.5
        return super().features(x)


def test_a_model_that_overwrites_its_images_can_be_wrapped() -> None:
    model = WritingItsImages().eval()
    images = torch.rand(2, 3, 64, 64)
    expected = model.features(images.clone())
    torch.testing.assert_close(tapped(model, 3)(images.clone())["3"], expected)


def test_images_that_are_overwritten_through_a_view_stay_as_they_are() -> None:
    class Flipping(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            x = x.transpose(2, 3)
            x -= 0.5
            return super().features(x)

    model, images = Flipping().eval(), torch.rand(2, 3, 64, 64)
    expected, before = model.features(images.clone()), images.clone()
    torch.testing.assert_close(tapped(model, 3)(images)["3"], expected)
    assert torch.equal(images, before)
