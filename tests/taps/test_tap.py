"""From stages, as the user names them, to taps: order, node names, measured facts, and what is refused."""

import itertools

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from zoo import HeadConvNet, TinyNet

from aimwrap.taps import Tap, tap_backbone
from aimwrap.taps.probe import is_channels_last


def test_a_tap_is_what_was_measured() -> None:
    tapped = tap_backbone(TinyNet(), [2, 3])
    assert tapped.taps == (Tap(2, "block2", 16, 16, (14, 14)), Tap(3, "block3", 20, 32, (7, 7)))
    assert tapped.final is None
    assert tapped.num_classes == 7
    assert tapped.parameters == sum(p.numel() for p in TinyNet().parameters())


@pytest.mark.parametrize("stages", [*itertools.permutations([0, 1, 3])])
def test_taps_run_shallow_to_deep_whatever_the_order(stages: tuple[int, ...]) -> None:
    tapped = tap_backbone(TinyNet(), stages)
    assert [tap.stage for tap in tapped.taps] == [0, 1, 3]


@pytest.mark.parametrize("stages", [*itertools.permutations(["block1.0", "block1", 2])])
def test_taps_of_one_stride_run_in_the_order_of_the_forward(stages: tuple[int | str, ...]) -> None:
    tapped = tap_backbone(TinyNet(), stages)
    assert [tap.stage for tap in tapped.taps] == ["block1.0", "block1", 2]
    assert [tap.stride for tap in tapped.taps] == [8, 8, 16]


def test_numbers_and_names_mix() -> None:
    model = TinyNet().eval()
    tapped = tap_backbone(model, [3, "block0"])
    assert [(tap.stage, tap.node) for tap in tapped.taps] == [("block0", "block0"), (3, "block3")]
    images = torch.rand(2, 3, 64, 64)
    maps = tapped.backbone(images)
    assert set(maps) == {"block0", "3"}
    assert torch.equal(maps["block0"], model.block0(model.stem(images)))


def test_graph_nodes_that_are_no_modules_can_be_named() -> None:
    """A functional node of the tracer's naming."""

    class Doubled(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            return super().features(x) * 2

    model, images = Doubled().eval(), torch.rand(1, 3, 64, 64)
    tapped = tap_backbone(model, ["mul"])
    assert tapped.taps == (Tap("mul", "mul", 20, 32, (7, 7)),)
    assert torch.equal(tapped.backbone(images)["mul"], model.features(images))


def test_a_tapped_map_is_not_overwritten_by_the_in_place_operation_after_it() -> None:
    """ResNet's layer4.1.add is the sum before the last activation, which works in place."""
    model = torchvision.models.resnet18(num_classes=3).eval()
    images = torch.rand(1, 3, 64, 64)
    maps = tap_backbone(model, ["layer4.1.add", "layer4"]).backbone(images)
    assert (maps["layer4.1.add"] < 0).any()
    assert torch.equal(maps["layer4.1.add"].relu(), maps["layer4"])


def test_one_node_as_stage_and_as_final_map() -> None:
    model = TinyNet().eval()
    tapped = tap_backbone(model, [2, 3], final=True)
    assert tapped.final is not None
    assert (tapped.final.node, tapped.final.channels) == ("block3", 20)
    maps = tapped.backbone(torch.rand(2, 3, 64, 64))
    assert set(maps) == {"2", "3", "final map"}
    assert torch.equal(maps["3"], maps["final map"])


def test_one_node_as_number_and_as_name() -> None:
    maps = tap_backbone(TinyNet().eval(), [3, "block3"]).backbone(torch.rand(2, 3, 64, 64))
    assert torch.equal(maps["3"], maps["block3"])


def test_final_map_is_after_the_deepest_stage() -> None:
    tapped = tap_backbone(HeadConvNet(), [2, 3], final=True)
    assert tapped.final is not None
    assert (tapped.final.node, tapped.final.channels, tapped.final.stride) == ("head_conv", 40, 32)


def test_a_backbone_may_have_a_module_called_final() -> None:
    class Final(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.final = nn.Conv2d(20, 20, 3, padding=1)

        def features(self, x: Tensor) -> Tensor:
            return self.final(super().features(x))

    model = Final().eval()
    images = torch.rand(1, 3, 64, 64)
    maps = tap_backbone(model, ["block2", "final"], final=True).backbone(images)
    assert torch.equal(maps["final"], model.features(images))
    assert torch.equal(maps["final map"], maps["final"])


class Thirds(nn.Module):
    """Strides 3 and 9: no stage numbers, but maps."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse, self.fc = nn.Conv2d(3, 8, 3, 3), nn.Conv2d(8, 16, 3, 3), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.coarse(self.fine(x)).mean((2, 3)))


@pytest.mark.parametrize("stages", [["fine", "coarse"], ["coarse", "fine"]])
def test_final_map_without_stage_numbers_is_the_deepest_named_node(stages: list[str]) -> None:
    tapped = tap_backbone(Thirds(), stages, final=True)
    assert [tap.stage for tap in tapped.taps] == ["fine", "coarse"]
    assert tapped.final is not None
    assert tapped.final.node == "coarse"


def test_tapping_consumes_no_randomness() -> None:
    model = TinyNet(dropout=0.5)
    before = torch.get_rng_state()
    tap_backbone(model, [2, 3], final=True)
    assert torch.equal(before, torch.get_rng_state())


def test_example_input_sets_channels_and_size() -> None:
    tapped = tap_backbone(TinyNet(in_channels=5), [3], example_input=torch.zeros(8, 5, 96, 128))
    assert tapped.image_shape == (5, 96, 128)
    assert tapped.taps[0].stride == 32


def test_torch_compiled_backbone_is_unwrapped() -> None:
    model = TinyNet()
    tapped = tap_backbone(torch.compile(model, backend="eager"), [2, 3])
    assert [tap.node for tap in tapped.taps] == ["block2", "block3"]
    assert set(tapped.backbone.parameters()) <= set(model.parameters())
    assert all(not name.startswith("_orig_mod") for name, _ in tapped.backbone.named_parameters())


@pytest.mark.parametrize("backbone", [None, 3, TinyNet])
def test_backbone_that_is_no_module(backbone: object) -> None:
    with pytest.raises(TypeError, match=r"backbone must be an nn.Module or a model's name, got"):
        tap_backbone(backbone, [2])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_scripted_backbone() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(TypeError, match=r"backbone is a scripted module, .*; pass the module it was scripted from"):
        tap_backbone(scripted, [2])


@pytest.mark.parametrize(("node", "came"), [("fc", r"\(1, 7\)"), ("mean", r"\(1, 20\)")])
def test_a_node_that_is_no_map(node: str, came: str) -> None:
    pattern = rf"stages: node '{node}' gives {came}, not a \(N, C, H, W\) map or its tokens; name another node"
    with pytest.raises(ValueError, match=pattern):
        tap_backbone(TinyNet(), [node])


@pytest.mark.slow
def test_a_named_channels_last_node_becomes_channels_first() -> None:
    """Swin's features.5 gives (N, 14, 14, 384): as (N, C, H, W) that would be 14 channels."""
    with torch.device("meta"):
        model = torchvision.models.swin_t()
    tapped = tap_backbone(model, ["features.5"], example_input=torch.zeros(1, 3, 96, 64))
    assert tapped.taps == (Tap("features.5", "features.5", 384, 16, (6, 4)),)


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [
        ((1, 14, 14, 384), True),
        ((1, 384, 14, 14), False),
        ((1, 14, 14, 14), False),  # both fit: as it is
        ((1, 28, 28, 24), True),  # 24 is 28 except for a rounding
        ((1, 24, 28, 28), False),
        ((1, 24, 27, 27), False),
        ((1, 197, 768), False),
        ((1, 3, 50, 384), False),  # neither fits
        ((1, 1, 1, 768), True),
        ((1, 768, 1, 1), False),
    ],
)
def test_layout_by_what_fits_the_stride(shape: tuple[int, ...], channels_last: bool) -> None:
    assert is_channels_last(shape, (1, 3, 224, 224)) == channels_last


def test_a_module_that_the_graph_contradicts_is_caught_by_a_hook() -> None:
    """The module hands on less than its last node makes: the graph node and the module are not the same map."""

    class Cropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 9, 3, stride=2, padding=1)
            self.pool = nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            self.pool(x)
            return x

    class Contradicting(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.block1 = Cropping()
            self.fc = nn.Linear(9, 3)

        def features(self, x: Tensor) -> Tensor:
            return self.block1(self.block0(self.stem(x)))

    model, images = Contradicting().eval(), torch.rand(2, 3, 64, 64)
    tapped = tap_backbone(model, ["block1"])
    assert tapped.taps[0].size == (28, 28)
    assert torch.equal(tapped.backbone(images)["block1"], model.block1(model.block0(model.stem(images))))


def test_refusals_leave_the_model_alone() -> None:
    model = TinyNet().train()
    model.block1.eval()
    flags = [module.training for module in model.modules()]
    for stages in ([9], ["nowhere"], ["fc"]):
        with pytest.raises(ValueError, match=r"stage|node"):
            tap_backbone(model, stages)
    assert [module.training for module in model.modules()] == flags


def test_a_tapped_map_is_not_overwritten_after_an_identity() -> None:
    """Timm's ResNet has an Identity between bn1 and the ReLU that works in place."""
    model = timm.create_model("resnet18").eval()
    outputs: list[torch.Tensor] = []
    model.layer3[1].bn1.register_forward_hook(lambda m, a, out: outputs.append(out.clone()))
    images = torch.rand(1, 3, 64, 64)
    model(images)
    assert torch.equal(tap_backbone(model, ["layer3.1.bn1", "layer4"]).backbone(images)["layer3.1.bn1"], outputs[0])


class OddStrides(TinyNet):
    """Strides of 3, 9 and 27: 74, 24 and 8 positions of 224 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.block0, self.block1, self.block2 = (nn.Conv2d(c, d, 3, stride=3) for c, d in ((3, 4), (4, 5), (5, 6)))
        self.fc = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block2(self.block1(self.block0(x))).mean((2, 3)))


class Decoder(TinyNet):
    """Classifies a map that was upsampled after the deepest one."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(20, 9, 1))
        self.fc = nn.Linear(9, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.up(self.features(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("net", "stages", "reason"),
    [
        (Decoder, ["block2", "up"], "goes back from stride 32 to 8"),
        (Decoder, ["block2", "block3"], "goes back from stride 32 to 8"),
    ],
)
def test_a_final_map_that_is_not_the_classified_one_is_refused(net: type, stages: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=rf'classifies .*{reason}.*head="paper"'):
        tap_backbone(net(), stages, final=True)
    assert len(tap_backbone(net(), stages).taps) == 2
