"""A tapped backbone trains as the model itself: modes, random numbers, statistics, gradients, freezing."""

import copy
import functools
import gc
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from odd_nets import (
    DRAWN_ELSEWHERE,
    IMAGES,
    WITHOUT_A_RESULT,
    AlwaysTrains,
    AsksForTwoImages,
    BeginsWithData,
    Calls,
    Checkpointed,
    ClampsItsWeight,
    ClampsTensors,
    CustomNorm,
    DetachesItsStem,
    DropsInside,
    HooksATensor,
    Inserted,
    KeepsANorm,
    KeepsByItsOwnHook,
    KeepsNormsFrozen,
    LooksAtItsHead,
    MayBeMasked,
    OverwritesItsShortcut,
    ScalesByADistribution,
    ScalesByItsGenerator,
    ScalesByTorchsNumbers,
    SkipsAtRandom,
    SkipsByItsGenerator,
    SkipsByTorchsNumbers,
    ThinsIfMasked,
    TrainReturnsNothing,
    TriesBySize,
    WarmsUp,
    WithoutGradientsInEvaluation,
    last_map,
)
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import WAYS_OF_COPYING, Branching, TinyNet, copied

from aimwrap import AIM, AIMLoss
from aimwrap.taps import tap_backbone
from aimwrap.taps.graph import GraphProgram
from aimwrap.taps.hooks import HookProgram


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    """The generators of these networks are made at import, which ``conftest.py`` leaves out of the search for them."""
    gc.unfreeze()
    yield
    gc.freeze()


TRAINED_LAYERS = [
    SkipsByTorchsNumbers,
    ScalesByTorchsNumbers,
    SkipsByItsGenerator,
    ScalesByItsGenerator,
    ScalesByADistribution,
    WarmsUp,
    functools.partial(ClampsItsWeight, 12, 12, 1),
    functools.partial(KeepsANorm, 12, 12, 1),
    BeginsWithData,
    functools.partial(nn.BatchNorm2d, 12, momentum=None),
    functools.partial(DropPath, 0.5),
    *(pytest.param(functools.partial(copy.deepcopy, layer), id=done) for done, layer in WITHOUT_A_RESULT.items()),
]


def test_a_custom_train_is_followed() -> None:
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


@pytest.mark.parametrize("by", ["Python", "NumPy"])
def test_random_numbers_of_python_and_numpy_are_drawn_in_each_forward(by: str) -> None:
    random.seed(0)
    np.random.seed(0)
    states = random.getstate(), np.random.get_state()[2]
    model = SkipsAtRandom(by)
    backbone = tap_backbone(model, [2, 3]).backbone.train()
    assert (random.getstate(), np.random.get_state()[2]) == states
    calls: list[None] = []
    backbone.get_submodule("skipped.0").register_forward_hook(lambda *_: calls.append(None))
    for _ in range(20):
        backbone(IMAGES)
    assert 3 < len(calls) < 17
    with pytest.raises(ValueError, match="draws random numbers in its forward"):
        tap_backbone(model, ["add", "block3"])  # a node of a graph, and nothing else


@pytest.mark.parametrize("drawn", DRAWN_ELSEWHERE)
def test_what_a_forward_draws_or_counts_elsewhere_is_drawn_in_each_forward(drawn: str) -> None:
    """A graph held the first number, without a word."""
    calls: list[None] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(None)
        return DRAWN_ELSEWHERE[drawn](x)

    backbone = tap_backbone(Inserted(Calls(counted)), [2, 3]).backbone.train()
    assert type(backbone.tapped_program) is HookProgram
    calls.clear()
    for _ in range(3):
        backbone(IMAGES)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "same",
    [
        lambda x: x * np.random.default_rng(0).uniform(),
        lambda x: x * torch.linspace(0, 1, 12)[:, None, None],
        lambda x: x * float("nan"),
    ],
)
def test_what_is_the_same_in_each_forward_leaves_the_graph_usable(same: Callable[[Tensor], Tensor]) -> None:
    backbone = tap_backbone(Inserted(Calls(same)), [2, 3]).backbone
    assert type(backbone.tapped_program) is GraphProgram


def test_custom_norms_keep_frozen_statistics() -> None:
    backbone = TinyNet()
    for block in (backbone.stem, backbone.block0, backbone.block2):
        block[1] = CustomNorm(block[1].num_features)
    model = AIM(backbone, [2, 3], mask_width=8).freeze_norm_statistics().train()
    assert type(model.backbone.tapped_program) is GraphProgram
    before = {name: buffer.clone() for name, buffer in model.backbone.named_buffers()}
    model(IMAGES)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.backbone.named_buffers())
    model.unfreeze_backbone()(IMAGES)
    assert not torch.equal(model.backbone.get_buffer("block2.1.running_mean"), before["block2.1.running_mean"])


def test_a_deepest_map_without_a_gradient_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"no gradient leaves the maps of \['3'\].*use_reentrant=False"):
        tap_backbone(Checkpointed(), [2, 3])


@pytest.mark.parametrize("build", TRAINED_LAYERS)
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


def test_a_train_that_freezes_does_so_in_training_only() -> None:
    backbone = TrainReturnsNothing()
    model = AIM(backbone, [2, 3], mask_width=8)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    model.train()
    assert not any(parameter.requires_grad for parameter in backbone.stem.parameters())
    assert not model.backbone.get_submodule("stem.1").training


def test_dropout_that_stays_on_in_evaluation_does() -> None:
    model = AIM(AlwaysTrains(dropout=0.5), [2, 3], mask_width=8).eval()
    assert not model.training and model.backbone.get_submodule("block2.3").training
    assert not torch.equal(model.forward_backbone(IMAGES)["2"], model.forward_backbone(IMAGES)["2"])


@pytest.mark.filterwarnings("error")
def test_a_map_without_a_gradient_in_evaluation_is_not_warned_of() -> None:
    tap_backbone(WithoutGradientsInEvaluation(), [2, 3])


def test_freezing_reaches_functions_of_hooked_modules() -> None:
    model = AIM(Inserted(DropsInside()), [2, 3], mask_width=8).freeze_backbone(up_to=2).train()
    assert torch.equal(model.forward_backbone(IMAGES)["2"], model.forward_backbone(IMAGES)["2"])
    assert model.backbone.get_submodule("block3").training and model.backbone.training
    model.unfreeze_backbone()
    assert not torch.equal(model.forward_backbone(IMAGES)["2"], model.forward_backbone(IMAGES)["2"])


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


def test_dropout_that_the_forward_switches_on_stays_on_in_evaluation() -> None:
    """Monte Carlo dropout: the graph had it off."""

    class DropsAlways(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            self.block2[3].train()
            return super().features(x)

    model = AIM(DropsAlways(dropout=0.5), [2, 3], mask_width=8).eval()
    assert not torch.equal(model.forward_backbone(IMAGES)["2"], model.forward_backbone(IMAGES)["2"])


@pytest.mark.parametrize("always", [False, True])
def test_parameters_that_the_forward_freezes_are_not_trained(always: bool) -> None:
    """The graph trained them; and where evaluation freezes them too, wrapping did."""

    class Freezes(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            if self.training or always:
                self.block1.requires_grad_(False)
            return super().features(x)

    model = AIM(Freezes(), [2, 3], mask_width=8).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(IMAGES).logits.sum().backward()
    trained = {name.partition(".")[0] for name, p in model.backbone.named_parameters() if p.grad is not None}
    assert trained == {"stem", "block0", "block2", "block3"}


def test_a_stage_that_is_the_identity_in_evaluation_is_tapped_by_hooks() -> None:
    """It has no node in the graph of evaluation, and was refused: "the backbone has no node 'block2.1'"."""

    class Doubles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x if self.training else x

    network = TinyNet().train()
    network.block2 = nn.Sequential(network.block2, Doubles())
    model = AIM(network, ["block2.1", "block3"], mask_width=8).train()
    expected = 2 * network.block2[0](network.block1(network.block0(network.stem(IMAGES))))
    torch.testing.assert_close(model.forward_backbone(IMAGES)["block2.1"], expected)


def test_drop_path_is_kept_in_one_piece() -> None:
    """The graph lost that timm scales up what is kept, by a statement. Later changes of the rate are followed."""
    path = DropPath(0.5)
    backbone = tap_backbone(Inserted(path), ["layer"]).backbone.train()
    assert isinstance(backbone.tapped_program, GraphProgram)
    before, after = [], []
    backbone.get_submodule("layer").register_forward_hook(lambda m, x, y: (before.append(x[0]), after.append(y)))
    backbone(IMAGES.repeat(16, 1, 1, 1))
    factors = (after[0].sum((1, 2, 3)) / before[0].sum((1, 2, 3))).round(decimals=3)
    assert set(factors.tolist()) == {0.0, 2.0}
    path.drop_prob = 0.0
    backbone(IMAGES)
    assert torch.equal(before[1], after[1])


class ThinsByAFunction(nn.Module):
    """As the dense layers of timm and torchvision do."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.conv, self.always = nn.Conv2d(12, 12, 1), always

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x), 0.5, True if self.always else self.training)


@pytest.mark.parametrize("how", [None, *WAYS_OF_COPYING])
def test_eval_on_one_block_stops_the_dropout_that_its_forward_calls(how: str | None) -> None:
    backbone = tap_backbone(Inserted(ThinsByAFunction()), [2, 3]).backbone
    backbone = (backbone if how is None else copied(backbone, how)).train()
    assert type(backbone.tapped_program) is GraphProgram
    assert not torch.equal(backbone(IMAGES)["2"], backbone(IMAGES)["2"])
    backbone.get_submodule("layer").eval()
    assert backbone.training and torch.equal(backbone(IMAGES)["2"], backbone(IMAGES)["2"])
    backbone.train()
    assert not torch.equal(backbone(IMAGES)["2"], backbone(IMAGES)["2"])


def test_a_block_that_was_in_evaluation_keeps_its_functions_so() -> None:
    network = Inserted(ThinsByAFunction()).train()
    network.layer.eval()
    backbone = tap_backbone(network, [2, 3]).backbone
    assert backbone.training and torch.equal(backbone(IMAGES)["2"], backbone(IMAGES)["2"])


def test_a_dropout_that_is_always_on_is_no_part_of_the_mode() -> None:
    backbone = tap_backbone(Inserted(ThinsByAFunction(always=True)), ["layer"]).backbone.train()
    backbone.get_submodule("layer").eval()
    assert not torch.equal(backbone(IMAGES)["layer"], backbone(IMAGES)["layer"])


@pytest.mark.parametrize(
    "net", [MayBeMasked, ThinsIfMasked, ClampsTensors, TriesBySize, OverwritesItsShortcut, AsksForTwoImages]
)
def test_what_a_trace_takes_otherwise_in_training_only(net: type[TinyNet]) -> None:
    """The graph trained on other maps: a traced argument is not None, and a traced tensor is none."""
    model = net()
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    backbone = tap_backbone(model, [2, 3]).backbone.train()
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    twin = copy.deepcopy(model).train()
    torch.manual_seed(0)
    ours = backbone(IMAGES)["3"]
    torch.manual_seed(0)
    torch.testing.assert_close(ours, last_map(twin))


def test_draws_that_a_graph_leaves_out_do_not_count_as_a_difference() -> None:
    """GoogLeNet's auxiliary classifiers have dropout, which no stage depends on."""

    class Auxiliary(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            x = self.block1(self.block0(self.stem(x)))
            if self.training:
                self.loss = F.dropout(x, 0.3, self.training).mean()
            return self.block3(self.block2(x))

    assert type(tap_backbone(Auxiliary(dropout=0.5), [2, 3]).backbone.tapped_program) is GraphProgram


def test_a_forward_that_asks_for_targets_in_training_leaves_the_graph_usable() -> None:
    class Asks(TinyNet):
        def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
            if self.training and targets is None:
                raise ValueError("targets")
            return super().forward(x)

    assert type(tap_backbone(Asks(), [2, 3]).backbone.tapped_program) is GraphProgram


def test_freezing_reaches_functions_of_the_tapped_module_itself() -> None:
    """With hooks, the last frozen stage's own dropout stayed on."""

    class Thinned(Branching):
        def __init__(self) -> None:
            super().__init__()
            self.block2 = ThinsByAFunction()
            self.block2.conv = nn.Conv2d(12, 16, 3, stride=2, padding=1)

    model = AIM(Thinned(), [2, 3], mask_width=8).freeze_backbone(up_to=2).train()
    assert type(model.backbone.tapped_program) is HookProgram
    assert torch.equal(model.forward_backbone(IMAGES)["2"], model.forward_backbone(IMAGES)["2"])
    assert model.backbone.get_submodule("block3").training
    model.unfreeze_backbone().train()
    assert not torch.equal(model.forward_backbone(IMAGES)["2"], model.forward_backbone(IMAGES)["2"])
