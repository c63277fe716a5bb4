"""Which nodes are stages 0..3: the table of real backbones, node by node, and models whose numbers are refused."""

import copy
import re

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import TinyNet, conv_block, copied

from aimwrap.taps import TappedModel, tap_backbone


def tap(model: nn.Module, stages: list[int], **arguments: object) -> TappedModel:
    return tap_backbone(model, stages, **arguments)


TABLE: dict[str, list[tuple[str, int]]] = {
    "resnet50": [("layer1", 256), ("layer2", 512), ("layer3", 1024), ("layer4", 2048)],
    "convnext_tiny": [("features.1", 96), ("features.3", 192), ("features.5", 384), ("features.7", 768)],
    "efficientnet_b0": [("features.2", 24), ("features.3", 40), ("features.5", 112), ("features.7", 320)],
    "mobilenet_v3_large": [("features.3", 24), ("features.6", 40), ("features.12", 112), ("features.15", 160)],
    "mobilenet_v2": [("features.3", 24), ("features.6", 32), ("features.13", 96), ("features.17", 320)],
    "densenet121": [
        ("features.denseblock1", 256),
        ("features.denseblock2", 512),
        ("features.denseblock3", 1024),
        ("features.norm5 + relu", 1024),
    ],
    "vgg16_bn": [("features.22", 256), ("features.32", 512), ("features.42", 512), ("features.43", 512)],
    "regnet_y_400mf": [
        ("trunk_output.block1", 48),
        ("trunk_output.block2", 104),
        ("trunk_output.block3", 208),
        ("trunk_output.block4", 440),
    ],
    "shufflenet_v2_x1_0": [("maxpool", 24), ("stage2", 116), ("stage3", 232), ("stage4", 464)],
}
SLOW_FAMILIES = {*TABLE} - {"resnet50", "convnext_tiny", "shufflenet_v2_x1_0"}  # the contract has most of them, small


def build(name: str) -> nn.Module:
    if name == "regnet_y_400mf":  # cannot be built on the meta device
        return torchvision.models.get_model(name)
    with torch.device("meta"):
        return torchvision.models.get_model(name)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW_FAMILIES else ()) for n in TABLE])
def test_torchvision_table(name: str) -> None:
    tapped = tap(build(name), [0, 1, 2, 3])
    assert [(tap.node, tap.channels) for tap in tapped.taps] == TABLE[name]
    assert [tap.stage for tap in tapped.taps] == [0, 1, 2, 3]
    assert [tap.stride for tap in tapped.taps] == [4, 8, 16, 32]
    assert tapped.num_classes == 1000
    assert tapped.deepest_stage == 3
    assert tapped.image_shape == (3, 224, 224)


@pytest.mark.slow
def test_inception_at_its_own_size() -> None:
    """299 pixels become 73, 35, 17 and 8, unpadded, which are no exact powers of two."""
    model = torchvision.models.inception_v3(init_weights=False)
    tapped = tap(model, [0, 1, 2, 3], example_input=torch.zeros(1, 3, 299, 299))
    assert [(tap.node, tap.channels) for tap in tapped.taps] == [
        ("Conv2d_4a_3x3", 192),
        ("Mixed_5d", 288),
        ("Mixed_6e", 768),
        ("Mixed_7c", 2048),
    ]
    assert tapped.image_shape == (3, 299, 299)
    assert tapped.num_classes == 1000


def test_squeezenet_has_no_stage_at_stride_32() -> None:
    """Its deepest stride is 16, and its classifier, a convolution, is no stage."""
    with torch.device("meta"):
        model = torchvision.models.squeezenet1_0()
    pattern = r"SqueezeNet has no stage 3 \(stride 32\); it has 0 \(.*2 \(features.12, stride 16\)\."
    with pytest.raises(ValueError, match=pattern):
        tap(model, [2, 3])
    tapped = tap(model, [0, 1, 2])
    assert [(tap.node, tap.channels) for tap in tapped.taps] == [
        ("features.5", 256),
        ("features.10", 512),
        ("features.12", 512),
    ]
    assert tapped.num_classes == 1000


@pytest.mark.parametrize(
    ("name", "final", "channels"),
    [
        # The contract sees to smaller ones of these families by value.
        pytest.param("resnet50", "layer4", 2048, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", "features.8", 1280, marks=pytest.mark.slow),
        ("mobilenet_v3_large", "features.16", 960),
        ("shufflenet_v2_x1_0", "conv5", 1024),
        pytest.param("densenet121", "features.norm5 + relu", 1024, marks=pytest.mark.slow),
        ("squeezenet1_0", "features.12", 512),
        ("vgg16_bn", "features.43", 512),
    ],
)
def test_final_map_includes_the_head_convolution(name: str, final: str, channels: int) -> None:
    tapped = tap(build(name), [2], final=True)
    assert tapped.final is not None
    assert (tapped.final.node, tapped.final.channels) == (final, channels)


TIMM_TABLE = [
    "resnet10t",
    "convnext_atto",
    pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow),
    pytest.param("efficientnet_lite0", marks=pytest.mark.slow),
    "mobilenetv3_small_050",
    pytest.param("densenet121", marks=pytest.mark.slow),
    "regnetx_002",
    pytest.param("regnety_002", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", TIMM_TABLE)
def test_values_are_timms_own_features(name: str) -> None:
    """Against features_only=True with the same weights, matched by reduction, at another size than the probe's."""
    model = timm.create_model(name, num_classes=3).eval()
    tapped = tap(model, [0, 1, 2, 3])
    reference = timm.create_model(name, features_only=True).eval()
    mapped = {key.replace("_", "."): value for key, value in model.state_dict().items()}
    state = {key: mapped[key.replace("_", ".")] for key in reference.state_dict()}
    reference.load_state_dict(state)
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        maps, features = tapped.backbone(images), reference(images)
    expected = dict(zip(reference.feature_info.reduction(), features, strict=True))
    for tap_, reduction in zip(tapped.taps, (4, 8, 16, 32), strict=True):
        assert tap_.channels == expected[reduction].shape[1]
        torch.testing.assert_close(maps[str(tap_.stage)], expected[reduction], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet10t", "test_resnet", "convnext_atto"])
def test_strides_are_timms_reductions_at_odd_native_sizes(name: str) -> None:
    """resnet10t's own size is 176 px and test_resnet's 160: 176 / 6 = 29.3, but stage 3 is at stride 32."""
    tapped = tap(timm.create_model(name, num_classes=3), [0, 1, 2, 3])
    assert [tap.stride for tap in tapped.taps] == [4, 8, 16, 32]


def test_timm_record_that_contradicts_the_probe_is_not_believed() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    entry = model.feature_info[-1]
    for wrong in ({"module": "layer4.0.conv1", "num_chs": 1}, {"module": "layer1", "num_chs": 32}):
        model.feature_info[-1] = {**entry, **wrong}
        assert [tap.node for tap in tap(model, [2, 3]).taps] == ["layer3", "layer4"]  # by module boundaries


@pytest.mark.parametrize(
    ("name", "offset"),
    [("resnet18", 1), ("convnext_tiny", 0)],
)
def test_the_papers_count_includes_a_stem_stage(name: str, offset: int) -> None:
    """ResNet-50 "has five convolutional stages, including the stem cell"; ConvNeXt's are S_0 to S_3."""
    assert tap(build(name), [2, 3]).paper_stage_offset == offset


def test_a_vit_is_refused_by_default_with_the_line_that_mends_it() -> None:
    with torch.device("meta"):
        model = torchvision.models.vit_b_16()
    pattern = (
        r"VisionTransformer has one resolution and so no stage 2. Choose among its 12 blocks: stages=\[5, 11\], or by "
        r"name: stages=\['encoder.layers.encoder_layer_5', 'encoder.layers.encoder_layer_11'\]"
    )
    with pytest.raises(ValueError, match=pattern):
        tap(model, [2, 3])
    tapped = tap(model, [5, 11], final=True)
    assert [(t.node, t.channels, t.stride, t.size) for t in tapped.taps] == [
        ("encoder.layers.encoder_layer_5", 768, 16, (14, 14)),
        ("encoder.layers.encoder_layer_11", 768, 16, (14, 14)),
    ]
    assert tapped.final is not None and tapped.final.node == "encoder.ln"
    with pytest.raises(ValueError, match="has 12 blocks, 0 to 11, not 12"):
        tap(model, [5, 12])


def test_a_hierarchy_of_tokens_is_refused_where_no_code_of_its_own_makes_maps_of_them() -> None:
    with pytest.raises(ValueError, match=r"cannot be trusted on TokenPyramid: .* works on tokens.*\['early', 'late'\]"):
        tap(TokenPyramid(), [2, 3])


class TokenPyramid(nn.Module):
    """Maps only where patches are embedded; what works on them works on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.shrink = nn.Conv2d(3, 8, 16, stride=16), nn.Conv2d(8, 12, 2, stride=2)
        self.early, self.late, self.fc = nn.Linear(8, 8), nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        size = x.shape[-2:]
        x = self.early(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, size)
        return self.fc(self.late(self.shrink(x).flatten(2).transpose(1, 2)).mean(1))


class Cifar(nn.Module):
    """A ResNet's outline for small images: the stem keeps the resolution."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        channels = [8, *widths]
        self.stem = conv_block(3, 8, stride=1)
        self.groups = nn.ModuleList(
            conv_block(channels[i], width, stride=1 if i == 0 else 2) for i, width in enumerate(widths)
        )
        self.fc = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for group in self.groups:
            x = group(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("widths", [(8, 16, 24), (8, 16, 24, 32)])
def test_networks_for_small_images_have_their_stages_in_order_and_their_own_strides(widths: tuple[int, ...]) -> None:
    stages = list(range(len(widths)))
    tapped = tap(Cifar(widths), stages, example_input=torch.zeros(1, 3, 32, 32))
    assert [(t.node, t.channels, t.stride) for t in tapped.taps] == [
        (f"groups.{i}", width, 2**i) for i, width in enumerate(widths)
    ]
    pattern = r"Cifar has no stage 4; it has 0 \(groups.0, stride 1\), 1 \(groups.1, stride 2\)"
    with pytest.raises(ValueError, match=pattern):
        tap(Cifar(widths), [4])


class Pair(nn.Module):
    """A stage that returns its map with something else."""

    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.body, self.shortcut, self.as_dict = conv_block(12, 16), nn.Conv2d(12, 16, 1, stride=2), as_dict

    def forward(self, x: Tensor) -> object:
        out = torch.relu(self.body(x) + self.shortcut(x))
        return {"map": out, "energy": out.mean()} if self.as_dict else (out, out.mean())


class WithPair(TinyNet):
    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.block2 = Pair(as_dict)

    def features(self, x: Tensor) -> Tensor:
        pair = self.block2(self.block1(self.block0(self.stem(x))))
        return self.block3(pair["map"] if isinstance(pair, dict) else pair[0])


@pytest.mark.parametrize(("as_dict", "kind"), [(True, "dict"), (False, "tuple")])
def test_a_stage_that_returns_a_container_is_refused_by_number_and_found_by_name(as_dict: bool, kind: str) -> None:
    """By number, the last map inside it would be the shortcut's, before the sum."""
    model = WithPair(as_dict).eval()
    pattern = rf"'block2' returns a {kind} that holds maps, not a map.*stages=\['block2', 'block3'\]"
    with pytest.raises(ValueError, match=pattern):
        tap(model, [2, 3])
    tapped = tap(model, ["block2", "block3"], final=True)
    images = torch.randn(2, 3, 64, 64)
    expected = model.block2(model.block1(model.block0(model.stem(images))))
    assert torch.equal(tapped.backbone(images)["block2"], expected["map"] if as_dict else expected[0])


@pytest.mark.slow
def test_the_probe_looks_for_a_size_that_the_strides_divide() -> None:
    """Inception at 224 pixels ends in 5 x 5, which is no stride 32."""
    with torch.device("meta"):
        model = torchvision.models.inception_v3(init_weights=False)
    assert [t.node for t in tap(model, [2, 3]).taps] == ["Mixed_6e", "Mixed_7c"]


@pytest.mark.slow  # in the contract there is a small one
def test_swins_channels_last_stages_become_channels_first() -> None:
    with torch.device("meta"):
        model = torchvision.models.swin_t()
    tapped = tap(model, [0, 1, 2, 3])
    assert [(t.node, t.channels, t.stride, t.size) for t in tapped.taps] == [
        ("features.1", 96, 4, (56, 56)),
        ("features.3", 192, 8, (28, 28)),
        ("features.5", 384, 16, (14, 14)),
        ("permute", 768, 32, (7, 7)),
    ]
    maps = tapped.backbone.eval()(torch.zeros(1, 3, 224, 192, device="meta"))
    shapes = [tuple(x.shape[1:]) for x in maps.values()]
    assert shapes == [(96, 56, 48), (192, 28, 24), (384, 14, 12), (768, 7, 6)]


class BackAndForth(TinyNet):
    """Goes back to a finer resolution at the level of stages."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(20, 20, 4, stride=4)
        self.last = conv_block(20, 20, stride=2)

    def features(self, x: Tensor) -> Tensor:
        return self.last(self.up(super().features(x)))


def test_strides_that_go_back_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot be trusted on BackAndForth: 'up' goes back from stride 32 to 8"):
        tap(BackAndForth(), [2, 3])


@pytest.mark.parametrize("stage", [4, -1, 99])
def test_missing_stage_lists_those_that_exist(stage: int) -> None:
    pattern = rf"has no stage {stage}.*it has 0 \(block0, stride 4\).*3 \(block3, stride 32\).*example_input="
    with pytest.raises(ValueError, match=pattern):
        tap(TinyNet(), [stage])


def test_no_stage_at_all() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).mean((2, 3)))

    with pytest.raises(ValueError, match=r"Flat has no stage 3 \(stride 32\); it has none\."):
        tap(Flat(), [3])


def test_first_block_of_the_next_stage_is_not_the_stage() -> None:
    """The trap: it still works at the old resolution (here as a stride-1 convolution before the strided one)."""

    class Early(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.block2 = nn.Sequential(conv_block(12, 14, stride=1), conv_block(14, 16))

    tapped = tap(Early(), [1, 2])
    assert [(tap.node, tap.channels) for tap in tapped.taps] == [("block1", 12), ("block2", 16)]


def test_containers_are_opened_only_if_they_span_several_stages() -> None:
    model = nn.Sequential(
        nn.Sequential(conv_block(3, 4), conv_block(4, 5), conv_block(5, 6)),  # strides 2, 4, 8: opened
        conv_block(6, 7),  # 16: one stage
        nn.Sequential(conv_block(7, 8), conv_block(8, 9, stride=1)),  # 32: one stage of two blocks
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9, 2),
    )
    tapped = tap(model, [0, 1, 2, 3])
    assert [(tap.node, tap.channels) for tap in tapped.taps] == [("0.1", 5), ("0.2", 6), ("1", 7), ("2", 9)]


def test_a_container_that_spans_exactly_two_halvings_is_opened() -> None:
    model = nn.Sequential(
        conv_block(3, 4),
        conv_block(4, 5),
        nn.Sequential(conv_block(5, 6), conv_block(6, 7)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(7, 2),
    )
    assert [(tap.node, tap.channels) for tap in tap(model, [1, 2]).taps] == [("2.0", 6), ("2.1", 7)]


class WithHead(TinyNet):
    """The last map, then a head of the given layers, before pooling."""

    def __init__(self, *head: nn.Module, channels: int = 20) -> None:
        super().__init__()
        self.head = nn.ModuleList(head)
        self.fc = nn.Linear(channels, 3)

    def features(self, x: Tensor) -> Tensor:
        x = super().features(x)
        for layer in self.head:
            x = layer(x)
        return x


@pytest.mark.parametrize(
    ("head", "channels", "node", "final"),
    [
        ((nn.Conv2d(20, 50, 1), nn.ReLU()), 50, "block3", "head.1"),  # a head expansion: stepped back over
        ((nn.Dropout(0.1), nn.Conv2d(20, 50, 1)), 50, "block3", "head.1"),
        ((nn.Conv2d(20, 50, 3, padding=1),), 50, "head.0", "head.0"),  # reads neighbours: the stage itself
        ((nn.Conv2d(20, 10, 1),), 10, "head.0", "head.0"),  # narrows: no expansion
        ((nn.BatchNorm2d(20),), 20, "head.0", "head.0"),
        ((nn.Identity(), nn.Dropout2d(0.1)), 20, "block3", "block3"),
        ((nn.AdaptiveAvgPool2d(1),), 20, "block3", "block3"),
    ],
)
def test_deepest_stage_and_final_map_around_a_head(head: tuple, channels: int, node: str, final: str) -> None:
    tapped = tap(WithHead(*head, channels=channels), [3], final=True)
    assert tapped.taps[0].node == node
    assert tapped.final is not None
    assert tapped.final.node == final


@pytest.mark.parametrize(("side", "found"), [(8, True), (9, False)])
def test_a_quarter_octave_of_tolerance(side: int, found: bool) -> None:
    """Maps of 224 px at stride 32 have 7 cells; 8 are 0.19 octaves off, 9 are 0.36."""

    class Resized(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.block3 = nn.Sequential(nn.Conv2d(16, 20, 1), nn.Upsample(size=(side, side)))

    if found:
        assert tap(Resized(), [3], example_input=torch.zeros(1, 3, 224, 224)).taps[0].node == "block3"
    else:
        with pytest.raises(ValueError, match="map of 9 x 9, whose stride is no power of two"):
            tap(Resized(), [3], example_input=torch.zeros(1, 3, 224, 224))


@pytest.mark.parametrize("num_classes", [1, 2, 11])
def test_number_of_classes_of_a_hand_written_model(num_classes: int) -> None:
    assert tap(TinyNet(num_classes), [3]).num_classes == num_classes


def test_number_of_classes_of_a_convolutional_classifier() -> None:
    model = nn.Sequential(
        *[conv_block(i, o) for i, o in ((3, 4), (4, 5), (5, 6), (6, 7), (7, 8))],
        nn.Conv2d(8, 9, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    tapped = tap(model, [3], final=True)
    assert tapped.num_classes == 9
    assert tapped.taps[0].node == tapped.final.node == "4"


HEADLESS = ("resnet10t", "convnext_atto", "tf_efficientnet_lite0", "mobilenetv3_small_050")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "resnet10t" else pytest.mark.slow) for name in HEADLESS]
)
def test_headless_models_show_no_classes(name: str) -> None:
    assert tap(timm.create_model(name, num_classes=0), [3]).num_classes is None


def test_headless_hand_written_model_shows_no_classes() -> None:
    class Headless(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.features(x).mean((2, 3))

    assert tap(Headless(), [3]).num_classes is None


class Between(TinyNet):
    """Functions between the modules of a stage and the next: what the next one reads is the stage."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.branch = nn.Conv2d(16, 16, 3, padding=1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Sigmoid())
        self.spatial = nn.Sequential(nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid())
        self.last = nn.Conv2d(20, 20, 3, padding=1)
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 16)[:, None, None])
        if kind == "cat":
            self.block3 = conv_block(32, 20)

    def between(self, x: Tensor) -> Tensor:
        if self.kind == "sum":
            return x + self.branch(x)
        if self.kind == "in place":
            y = self.branch(x)
            y += x
            return y
        if self.kind == "cat":
            return torch.cat([x, self.branch(x)], 1)
        if self.kind == "gate":
            return x * self.gate(x)
        if self.kind == "spatial":
            return x * self.spatial(x)
        if self.kind == "scale":
            return self.scale * x
        if self.kind == "side activation":
            return x * self.gate(F.relu(x - 1))
        return F.mish(x)

    def trunk(self, x: Tensor) -> Tensor:
        return self.between(self.block2(self.block1(self.block0(self.stem(x)))))

    def features(self, x: Tensor) -> Tensor:
        x = self.block3(self.trunk(x))
        return x + self.last(x)


KINDS = ["sum", "in place", "cat", "gate", "spatial", "scale", "side activation", "mish"]


@pytest.mark.parametrize(("kind", "training"), [(kind, number % 2 == 0) for number, kind in enumerate(KINDS)])
def test_functions_between_modules_belong_to_the_stage(kind: str, training: bool) -> None:
    model = Between(kind).train(training)
    images = torch.randn(2, 3, 64, 64)
    tapped = tap(model, [2, 3], final=True)
    maps = copy.deepcopy(tapped.backbone)(images)
    expected = copy.deepcopy(model)
    torch.testing.assert_close(maps["2"], expected.trunk(images), rtol=0, atol=0)
    expected = copy.deepcopy(model)
    torch.testing.assert_close(maps["final map"], expected.features(images), rtol=0, atol=0)
    torch.testing.assert_close(maps["3"], maps["final map"], rtol=0, atol=0)
    assert tapped.taps[0].channels == (32 if kind == "cat" else 16)


def test_a_branch_next_to_the_trunk_is_not_the_stage() -> None:
    class Auxiliary(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(16, 4, 1)

        def features(self, x: Tensor) -> Tensor:
            x = self.block2(self.block1(self.block0(self.stem(x))))
            self.auxiliary = self.side(x).mean()
            return self.block3(x)

    with pytest.raises(ValueError, match="stage '2' was taken to be 'side', but 'block3' reads another map"):
        tap(Auxiliary(), [2, 3])


def test_without_a_graph_functions_between_modules_are_refused() -> None:
    class Untraceable(Between):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[..., 1:] if x.shape[-1] % 2 else x)

    with pytest.raises(ValueError, match="'add' makes another map of that of 'branch'"):
        tap(Untraceable("sum"), [2])
    with pytest.raises(ValueError, match="'add' makes another map of that of 'last'"):
        tap(Untraceable("mish"), [2], final=True)
    with pytest.raises(ValueError, match=r"'block3' reads another map|'mul' makes another map"):
        tap(Untraceable("spatial"), [2])


class Unpadded(nn.Module):
    """LeNet's convolutions: of 32 pixels 28, 14, 10 and 5."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        blocks = [[nn.Conv2d(i, o, 5), nn.ReLU(), nn.MaxPool2d(2)] for i, o in ((3, 6), (6, 16))]
        inner = [nn.Sequential(*block) for block in blocks] if inside else [*blocks[0], *blocks[1]]
        self.features = nn.Sequential(*inner)
        self.fc = nn.Linear(400, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(1))


@pytest.mark.parametrize("inside", [False, True])
def test_a_deeper_map_at_no_power_of_two_is_not_passed_over(inside: bool) -> None:
    """Numbers would end at 14 x 14 and never see what is classified."""
    model = Unpadded(inside)
    pattern = r"gives a map of 5 x 5, whose stride is no power of two.*, for example stages=\['(.*)', '(.*)'\]"
    with pytest.raises(ValueError, match=pattern) as refusal:
        tap_backbone(model, [0, 1])
    names = re.search(pattern, str(refusal.value)).groups()
    tapped = tap_backbone(model, names, final=True)
    assert [tap.size for tap in tapped.taps] == ([(14, 14), (5, 5)] if inside else [(10, 10), (5, 5)])
    assert tapped.final.node == names[1]


def test_an_unpadded_map_between_is_no_obstacle() -> None:
    class Between(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.crop, self.pad = nn.Conv2d(12, 12, 5), nn.ZeroPad2d(2)

        def features(self, x: Tensor) -> Tensor:
            return self.block3(self.block2(self.pad(self.crop(self.block1(self.block0(self.stem(x)))))))

    found = tap_backbone(Between(), [1, 2, 3], example_input=torch.zeros(1, 3, 96, 96))
    assert [tap.node for tap in found.taps] == ["pad", "block2", "block3"]


def test_a_resolution_that_is_skipped_is_missing_and_the_next_is_not() -> None:
    class Skips(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.block1 = nn.Sequential(nn.Conv2d(8, 16, 4, stride=4), nn.ReLU())

        def features(self, x: Tensor) -> Tensor:
            return self.block3(self.block1(self.block0(self.stem(x))))

    model = Skips()
    tapped = tap_backbone(model, [0, 2, 3], final=True)
    assert [(tap.node, tap.stride) for tap in tapped.taps] == [("block0", 4), ("block1.1", 16), ("block3", 32)]
    with pytest.raises(ValueError, match=r"has no stage 1 \(stride 8\); it has 0 \(block0, stride 4\), 2 \(block1.1"):
        tap_backbone(model, [1])


class Headless(TinyNet):
    """As headless backbones are made, by an Identity for their classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.block3, self.norm = nn.Conv2d(16, 20, 3, stride=2, padding=1), nn.BatchNorm2d(20)
        self.fc = nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(super().features(x)))


def test_the_last_norm_of_a_headless_network_is_no_classifier() -> None:
    model = Headless().eval()
    tapped, images = tap_backbone(model, [2, 3], final=True), torch.rand(1, 3, 64, 64)
    assert tapped.taps[-1].node == tapped.final.node == "norm + relu"
    assert torch.equal(tapped.backbone(images)["3"], model.features(images))


class BesideTheTrunk(TinyNet):
    """Something of another width that also reads the last map."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.extra = kind, nn.Conv2d(20, 1, 1)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        x = self.features(x)
        logits = self.fc(x.mean((2, 3)))
        if self.kind == "attention pooling":
            weights = self.extra(x).flatten(2).softmax(-1)
            return self.fc((x.flatten(2) * weights).sum(-1))
        if self.kind == "two tasks":
            return {"mask": self.extra(x), "logits": logits}
        return {"logits": logits, "maps": torch.einsum("bchw,kc->bkhw", x, self.fc.weight)}


@pytest.mark.parametrize("kind", ["attention pooling", "two tasks", "activation maps"])
def test_a_branch_at_the_deepest_stride_is_not_the_stage(kind: str) -> None:
    tapped = tap_backbone(BesideTheTrunk(kind), [2, 3], final=True)
    assert [tap.node for tap in (*tapped.taps, tapped.final)] == ["block2", "block3", "block3"]


def test_a_network_that_classifies_several_resolutions_has_no_one_final_map() -> None:
    class TwoScales(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            x = self.block2(self.block1(self.block0(self.stem(x))))
            return self.fc(self.block3(x).mean((2, 3))) + F.pad(x.mean((2, 3)), (0, 4)) @ self.fc.weight.T

    with pytest.raises(ValueError, match=r"output depends on more maps than that of 'block3', the last.*stages=\['bl"):
        tap_backbone(TwoScales(), [2, 3])
    assert len(tap_backbone(TwoScales(), ["block2", "block3"]).taps) == 2


class Leaky(TinyNet):
    """Activations by functions with arguments, and a check of sizes that no graph can make, if it is to be hooked."""

    def __init__(self, by_hooks: bool) -> None:
        super().__init__()
        self.by_hooks = by_hooks
        self.block2, self.block3 = nn.Conv2d(12, 16, 3, 2, 1), nn.Conv2d(16, 20, 3, 2, 1)

    def block2_activated(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.block2(self.block1(self.block0(self.stem(x)))), negative_slope=0.3)

    def features(self, x: Tensor) -> Tensor:
        if self.by_hooks:
            assert x.shape[1] == 3
        return F.elu(self.block3(self.block2_activated(x)), 0.7)


@pytest.mark.parametrize("where", ["between", "after"])
@pytest.mark.parametrize("by_hooks", [False, True])
def test_functional_activations_keep_their_arguments(where: str, by_hooks: bool) -> None:
    model, images = Leaky(by_hooks).eval(), torch.rand(1, 3, 64, 64)
    tapped = tap_backbone(model, [2] if where == "between" else [3])
    expected = model.block2_activated(images) if where == "between" else model.features(images)
    assert torch.equal(copied(tapped.backbone, "pickle")(images)[str(tapped.taps[0].stage)], expected)


class Preactivated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.conv = nn.ReLU(), nn.Conv2d(16, 20, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x))


def test_what_the_next_block_does_first_is_its_own() -> None:
    class Net(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.block2, self.block3 = nn.Conv2d(12, 16, 3, 2, 1), Preactivated()

        def features(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 3  # so that hooks are taken
            return super().features(x)

    assert [tap.node for tap in tap_backbone(Net(), [2, 3]).taps] == ["block2", "block3"]


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AvgPool2d(1280, ceil_mode=True), nn.AdaptiveAvgPool2d(1)])
def test_an_average_over_four_positions_is_no_map(pool: nn.Module) -> None:
    """AvgPool2d(2) on 2 x 2 was the final map, so a mask chose nothing."""
    blocks = [conv_block(c, k, stride=2) for c, k in ((3, 8), (8, 12), (12, 16), (16, 20))]
    model = nn.Sequential(*blocks, pool, nn.Flatten(), nn.Linear(20, 3))
    tapped = tap_backbone(model, [1, 2], example_input=torch.zeros(1, 3, 32, 32), final=True)
    assert [(tap.node, tap.size) for tap in tapped.taps] == [("2", (4, 4)), ("3", (2, 2))]
    assert tapped.final is not None and tapped.final.node == "3"
