"""Reports about wrapping a network: what tracing loses, sizes of images, layers in front, adapters."""

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from zoo import TinyNet, conv_block

from aimwrap import AIM, SecondLook, explain, inspect_backbone
from aimwrap.analysis.readout import evaluating
from aimwrap.attribution import LogitsView
from aimwrap.backbones.pooled import PooledClassifier
from aimwrap.taps import find_stages, probe, tap_backbone
from aimwrap.taps.graph import GraphProgram


class Within(TinyNet):
    """A network whose trunk runs within a context."""

    def __init__(self, context: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__()
        self.context = context

    def features(self, x: Tensor) -> Tensor:
        with self.context():
            return super().features(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).float().clone().mean((2, 3)))


class SwitchesGradients(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        x = super().features(x)
        torch.set_grad_enabled(True)
        return x


class Decorated(TinyNet):
    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        return super().features(x)


class Summed(TinyNet):
    """Its maps are made by functions, which hooks cannot tap."""

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.block0(self.stem(x))))
        return self.block3(x + x.sin())


@pytest.mark.parametrize(
    "build",
    [
        lambda: Within(torch.no_grad),
        lambda: Within(torch.inference_mode),
        lambda: Within(lambda: torch.set_grad_enabled(False)),
        SwitchesGradients,
        Decorated,
    ],
)
def test_a_trunk_without_gradients_stays_so(build: Callable[[], nn.Module]) -> None:
    """``no_grad`` around the whole trunk was traced, and AIM trained all of its parameters without a word."""
    with pytest.warns(UserWarning, match="no gradient leaves the maps"):
        model = AIM(build().train(), mask_width=8)
    output = model(torch.randn(2, 3, 64, 64))
    (output.logits.sum() + sum(logits.sum() for logits in output.stage_logits.values())).backward()
    assert torch.is_grad_enabled()  # also where the forward was ended before it turns gradients on again
    assert model.classifier.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_what_neither_a_graph_nor_hooks_can_keep_is_refused() -> None:
    refused = pytest.raises(ValueError, match=r"Summed computes its maps under torch.no_grad\(\).*name modules")
    with refused, pytest.warns(UserWarning, match="no gradient leaves the maps"):
        AIM(Summed(), mask_width=8)


def test_wrapping_under_no_grad_sees_it_too() -> None:
    """The network's own ``no_grad`` is found also where wrapping itself happens under one."""
    with torch.no_grad(), pytest.warns(UserWarning, match="no gradient leaves the maps"):
        AIM(Within(torch.no_grad).train(), mask_width=8)


def test_a_networks_own_precision_is_kept() -> None:
    """``autocast(enabled=False)`` in a forward was lost: the maps were half precision where the network's are not."""
    model = AIM(Within(lambda: torch.autocast("cpu", enabled=False)), mask_width=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model.forward_backbone(torch.randn(1, 3, 64, 64))
    assert {x.dtype for x in maps.values()} == {torch.float32}


def test_a_forward_with_its_own_autocast_runs() -> None:
    """Every forward failed in the mask estimator, whose weights are float32 and whose map was bfloat16."""
    network = Within(lambda: torch.autocast("cpu", dtype=torch.bfloat16)).eval()
    model, images = AIM(network, mask_width=8), torch.randn(1, 3, 64, 64)
    maps = model.forward_backbone(images)
    assert torch.equal(maps["3"], network.features(images).float())
    assert model(images).logits.isfinite().all()


def test_a_context_after_the_maps_leaves_the_graph() -> None:
    class Head(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            x = self.features(x)
            with torch.autocast("cpu", enabled=False):
                return self.fc(x.mean((2, 3)))

    class Asks(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            x = self.features(x).mean((2, 3))
            return self.fc(x.float() if torch.is_autocast_enabled("cpu") else x)

    for network in (Head(), Asks(), Within(nullcontext)):
        assert isinstance(tap_backbone(network, [2, 3], final=True).backbone.tapped_program, GraphProgram)


@pytest.mark.parametrize("padding", [1, 0])
def test_stages_are_found_at_every_even_size(padding: int) -> None:
    """100 x 100, 80 x 60 and 48 x 320 were refused with "one resolution": halvings of odd sides round."""
    layers = [(3, 4), (4, 4), (4, 6), (6, 8), (8, 10)]
    blocks = [nn.Sequential(nn.Conv2d(i, o, 2 + padding, 2, padding), nn.ReLU(), nn.Conv2d(o, o, 1)) for i, o in layers]
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3)).eval()
    sizes = [(side, side) for side in range(34 if padding else 64, 257, 6)]
    sizes += [(100, 100), (80, 60), (99, 75), (34, 46), (48, 48), (63, 63), *([(48, 320)] if padding else [])]
    for size in sizes:
        found = find_stages(network, probe(network, torch.zeros(1, 3, *size)))
        last = "4.2" if size in ((48, 48), (63, 63)) and not padding else "4"  # whose 3 x 3 become one position
        assert [found.nodes[stage].node for stage in range(4)] == ["1", "2", "3", last], size
        assert found.final is not None and found.final.node == last and found.obstacle is None, size


def test_small_odd_maps_have_their_stages_stride() -> None:
    taps = tap_backbone(TinyNet(), [2, 3], final=True, example_input=torch.zeros(1, 3, 34, 34)).taps
    assert [(tap.node, tap.size, tap.stride) for tap in taps] == [("block2", (3, 3), 16), ("block3", (2, 2), 32)]
    assert [tap.stride for tap in AIM(TinyNet(), example_input=torch.zeros(1, 3, 48, 320)).taps] == [16, 32]


class Normalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


@pytest.mark.parametrize(
    "front",
    [Normalize(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), v2.Normalize([0.5] * 3, [0.25] * 3), nn.PixelUnshuffle(1)],
    ids=lambda front: type(front).__name__,
)
def test_layers_in_front_are_no_stage_of_the_stem(front: nn.Module) -> None:
    """A normalisation in front made the label "[4, 25%]" of "[3, 25%]"."""
    assert "[3, 25%]" in AIM(TinyNet()).variant
    assert "[3, 25%]" in AIM(nn.Sequential(front, TinyNet())).variant


def test_a_layer_in_front_does_not_count_as_full_resolution() -> None:
    """With one in front, a network that ends at stride 8 had its stages by order, from the normalisation on."""
    short = [conv_block(3, 4, 4), conv_block(4, 6)]
    network = nn.Sequential(Normalize(), *short, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    taps = tap_backbone(network, [0, 1], final=True).taps
    assert [(tap.node, tap.stride) for tap in taps] == [("1.2", 4), ("2", 8)]


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node", "ignore:Node .* does not reference")
def test_torchvisions_normalize_in_front_can_be_exported() -> None:
    """``v2.Normalize`` in front could not be traced, and so not be exported; torch 2.7 warns of its constants."""
    model = AIM(nn.Sequential(v2.Normalize([0.5] * 3, [0.25] * 3), TinyNet()), mask_width=8).eval()
    assert isinstance(model.backbone.tapped_program, GraphProgram)
    images = torch.rand(1, 3, 64, 64)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images).logits, model(images).logits)


class LowRank(nn.Module):
    """A layer with an adapter, of the kind that peft and loralib put in its place."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = layer
        self.scale = nn.ParameterDict({name: nn.Parameter(torch.randn(1)) for name in ("a", "b")})
        self.active, self.enabled, self.merged = "a", True, False

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        return y + self.scale[self.active] * y if self.enabled and not self.merged else y

    def merge(self) -> None:
        with torch.no_grad():
            self.base_layer.weight.mul_(1 + self.scale[self.active])
        self.merged = True


class Adapted(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.block2[0] = LowRank(self.block2[0])


class AdaptedOwnCode(Adapted):
    """Depends on sizes, and so is run by its own code."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) if x.shape[-1] > 16 else super().features(x.repeat(1, 1, 2, 2))


@pytest.mark.parametrize("kind", [Adapted, AdaptedOwnCode])
def test_adapters_may_be_switched_and_merged_after_wrapping(kind: type[nn.Module]) -> None:
    """``merge_and_unload``, ``disable_adapter`` and ``set_adapter`` moved the network, and AIM otherwise or not."""
    network = kind().eval()
    backbone = tap_backbone(network, [2, 3]).backbone
    assert isinstance(backbone.tapped_program, GraphProgram) is (kind is Adapted)
    images, adapter = torch.randn(1, 3, 64, 64), network.block2[0]
    seen = [network.features(images)]
    torch.testing.assert_close(backbone(images)["3"], seen[0])
    adapter.enabled = False  # disable_adapter
    seen.append(network.features(images))
    torch.testing.assert_close(backbone(images)["3"], seen[1])
    adapter.enabled, adapter.active = True, "b"  # set_adapter
    seen.append(network.features(images))
    torch.testing.assert_close(backbone(images)["3"], seen[2])
    assert not any(torch.allclose(a, b) for a, b in pairwise(seen))
    adapter.merge()
    network.block2[0] = adapter.base_layer  # merge_and_unload
    torch.testing.assert_close(network.features(images), seen[2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(backbone(images)["3"], network.features(images))


@pytest.mark.slow
def test_the_lines_of_inspect_run_as_they_are() -> None:
    """They lacked imports and ``num_classes``, and built 1000 logits without a word."""
    found = inspect_backbone("timm/resnet10t")
    scope: dict[str, AIM] = {}
    exec("\n".join(found.lines).replace("pretrained=True", "pretrained=False").replace("=1000", "=3"), scope)
    assert scope["model"].num_classes == 3


@pytest.mark.filterwarnings("ignore")  # torch advises against tracing
def test_a_view_of_logits_can_be_traced() -> None:
    """TensorBoard's ``add_graph`` traces, which AIM's output with its dicts does not allow."""
    view, images = LogitsView(AIM(TinyNet(), mask_width=8).eval()), torch.zeros(1, 3, 64, 64)
    assert torch.equal(torch.jit.trace(view, images, check_trace=False)(images), view(images))


class Prepared(Summed):
    """Prepares its images within a context; its maps are made by functions, which hooks cannot tap."""

    def __init__(self, context: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__()
        self.context = context
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))

    def features(self, x: Tensor) -> Tensor:
        with self.context():
            x = (x - self.mean) / self.mean.clone()
        return Summed.features.__wrapped__(self, x.clone())


class LearnedPreparation(Prepared):
    def __init__(self, context: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__(context)
        self.mean = nn.Parameter(self._buffers.pop("mean"))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
def test_images_prepared_without_gradients_are_no_trunk(context: Callable[[], AbstractContextManager[object]]) -> None:
    """``no_grad`` around a normalisation sent the graph to hooks, and where those cannot follow, it was refused."""
    network = Prepared(context).train()
    model = AIM(network, mask_width=8)
    assert isinstance(model.backbone.tapped_program, GraphProgram)
    model(torch.rand(2, 3, 64, 64)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    with pytest.raises(ValueError, match="name modules"):
        AIM(LearnedPreparation(context), mask_width=8)  # the mean is not trained, and a graph would train it


def test_threads_may_wrap_while_others_run() -> None:
    """Threads that wrapped one network left every module of the process unable to run ("not installed")."""
    network, images = TinyNet().eval(), torch.rand(1, 3, 64, 64)
    logits = network(images)
    with ThreadPoolExecutor(2) as pool:
        wrapped = [pool.submit(AIM, network, mask_width=8) for _ in range(2)]
        while not all(each.done() for each in wrapped):
            time.sleep(0.001)
            assert torch.equal(network(images), logits)
    wanted = network.features(images)
    for each in wrapped:
        model = each.result().eval()
        assert isinstance(model.backbone.tapped_program, GraphProgram)
        assert torch.equal(model.forward_backbone(images)["3"], wanted)


def test_a_model_that_another_thread_trains_is_not_explained() -> None:
    """It was explained in training mode, with noise in its masks, and its statistics moved."""
    model = AIM(TinyNet(), mask_width=8).train()
    with pytest.raises(RuntimeError, match=r"explain copy.deepcopy\(model\)"), evaluating(model):
        model.train()  # as the other thread does
    assert model.training


class SwitchesAutocast(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        before = torch.is_autocast_enabled("cpu")
        torch.set_autocast_enabled("cpu", False)
        x = super().features(x)
        torch.set_autocast_enabled("cpu", before)
        return x.clone()


class AsksForAutocast(TinyNet):
    """As ``maybe_autocast`` of transformers: where it is off there is nothing to keep."""

    def features(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
            return super().features(x).clone()


@pytest.mark.parametrize("network", [SwitchesAutocast, AsksForAutocast])
def test_what_a_forward_sets_by_functions_is_kept(network: type[TinyNet]) -> None:
    """``set_autocast_enabled(False)`` was lost, or whether it is called, and the maps had half precision."""
    model = AIM(network(), mask_width=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model.forward_backbone(torch.randn(1, 3, 64, 64))
    assert {x.dtype for x in maps.values()} == {torch.float32}


class StandIn(nn.Module):
    """What peft puts in the place of a layer of ``modules_to_save``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.original_module, self.enabled = layer, True
        self.modules_to_save = nn.ModuleDict({"default": nn.BatchNorm2d(16, momentum=0.5)})
        nn.init.constant_(self.modules_to_save["default"].bias, 0.7)

    def forward(self, x: Tensor) -> Tensor:
        return (self.modules_to_save["default"] if self.enabled else self.original_module)(x)


@pytest.mark.parametrize("kind", [Adapted, AdaptedOwnCode])
def test_layers_that_are_saved_beside_adapters_may_be_switched_off(kind: type[nn.Module]) -> None:
    """``disable_adapter`` of a model with ``modules_to_save`` moved the network, and AIM only in part."""
    network = kind()
    network.block2[1] = StandIn(network.block2[1])
    network.eval()
    backbone, images = tap_backbone(network, [2, 3]).backbone, torch.randn(1, 3, 64, 64)
    before = network.features(images)
    torch.testing.assert_close(backbone(images)["3"], before)
    network.block2[1].enabled = False
    assert not torch.allclose(network.features(images), before)
    torch.testing.assert_close(backbone(images)["3"], network.features(images))


class Thrice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def test_a_layer_that_does_more_than_its_weights_say_has_no_exact_map() -> None:
    """Contributions of a subclass of ``nn.Linear`` did not add up to the logits."""
    model, network, images = AIM(TinyNet(), mask_width=8).eval(), TinyNet().eval(), torch.randn(1, 3, 64, 64)
    model.classifier = Thrice(20, 7)
    with pytest.raises(TypeError, match=r"model.classifier must be one nn.Linear, got Thrice"):
        explain(model, images)
    network.fc = Thrice(20, 7)
    with pytest.raises(ValueError, match="must end in an average over positions and one linear layer"):
        PooledClassifier(network)
    network.fc = nn.Linear(20, 7)
    nn.init.zeros_(network.fc.weight)
    nn.init.zeros_(network.fc.bias)
    assert PooledClassifier(network).explained(images)[0].tolist() == [[0.0] * 7]  # a fresh head of zeros


MEAN = [0.5] * 3


@pytest.mark.parametrize(
    ("front", "kind"),
    [
        (v2.CenterCrop(48), "CenterCrop"),
        (v2.Pad(16), "Pad"),
        (nn.ZeroPad2d(16), "ZeroPad2d"),
        (nn.Sequential(v2.Resize(80), v2.Normalize(MEAN, MEAN), v2.CenterCrop(64)), "CenterCrop"),
        (v2.Compose([v2.Resize(80), v2.CenterCrop(64)]), "Compose"),
        (nn.Sequential(v2.Resize(64), v2.Normalize(MEAN, MEAN)), None),
        (nn.Conv2d(3, 3, 3, padding=1), None),
        (nn.Sequential(nn.ZeroPad2d(3), nn.Conv2d(3, 3, 7)), None),
    ],
    ids=["crop", "pad", "zeros", "preset", "one transform", "resize", "convolution", "padding of a convolution"],
)
def test_a_layer_in_front_that_moves_pixels_is_warned_of(front: nn.Module, kind: str | None) -> None:
    """Maps are laid over the whole image, so heatmaps were shifted, and energy pointing counted other pixels."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tap_backbone(nn.Sequential(front, TinyNet()), ["1.block2", "1.block3"], example_input=torch.zeros(1, 3, 64, 64))
    said = [str(each.message) for each in caught if "will be shifted" in str(each.message)]
    assert [kind in text and "Prepare images before the model" in text for text in said] == [True] * bool(kind)


class OwnCode(TinyNet):
    """Depends on sizes, and so is run by its own code."""

    def features(self, x: Tensor) -> Tensor:
        x[:] = (x - 0.5) / 0.5
        return super().features(x) if x.shape[-1] > 16 else super().features(x.repeat(1, 1, 2, 2))


class Method(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x.sub_(0.5).div_(0.5))


IN_PLACE = v2.Normalize(MEAN, MEAN, inplace=True)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(IN_PLACE, TinyNet()),
        lambda: nn.Sequential(v2.Compose([IN_PLACE]), TinyNet()),
        lambda: nn.Sequential(nn.Identity(), nn.Hardtanh(inplace=True), TinyNet()),
        Method,
        OwnCode,
    ],
    ids=["layer", "within a transform", "after an identity", "method", "own code"],
)
def test_layers_in_front_that_work_in_place_leave_the_images(build: Callable[[], nn.Module]) -> None:
    """``v2.Normalize(inplace=True)`` normalised the images again for each look: second looks were wrong."""
    torch.manual_seed(0)
    model = AIM(build(), mask_width=8).eval()
    second, images = SecondLook(model), 3 * torch.rand(2, 3, 64, 64)
    before = images.clone()
    again, twice = (second(images).logits for _ in range(2))
    assert torch.equal(images, before) and torch.equal(again, twice)
