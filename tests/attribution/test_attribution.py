"""Attribution: each map against straight code, what is refused, and every library on the view as its users call it."""

import copy
import sys
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2
from zoo import BACKBONES, HAND_WRITTEN, NUM_CLASSES, Branching, HeadConvNet, TinyNet, small_aim

from aimwrap import AIM, explain
from aimwrap.attribution import LogitsView, cam_layer_of, grad_cam, guided_backprop, guided_grad_cam, score_cam
from aimwrap.taps import FINAL, tap_backbone

attr = pytest.importorskip("captum.attr")
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")

HEADS = ["paper", "feature-preserving"]
every_head = pytest.mark.parametrize("head", HEADS)
METHODS = [grad_cam, guided_backprop, guided_grad_cam, score_cam]
every_method = pytest.mark.parametrize("method", METHODS)


def aim(head: str = "feature-preserving", backbone: nn.Module | None = None, **arguments: object) -> AIM:
    """A small AIM in evaluation mode, its fresh parameters spread so that no term is too small to be missed."""
    settings = {"width": 8, "mask_width": 4, "head": head} | arguments
    model = (small_aim([2, 3], **settings) if backbone is None else AIM(backbone, [2, 3], **settings)).eval()
    for module in (model.top_down, model.mask_estimators, model.stage_classifiers, model.classifier):
        for parameter in module.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    for estimator in model.mask_estimators.values():
        estimator.how_much.weight.data.zero_()  # so that the masks are neither full nor empty
        estimator.how_much.bias.data.zero_()
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 64, 64)


def features_of(model: AIM, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        features = model.forward_masks(model.forward_backbone(images))
    outside = features.merged_mask[:, 0] == 0
    assert 0 < int(outside.sum()) < outside.numel()
    return features.fused, outside


# ---- The view --------------------------------------------------------------------------------------------------------


@every_head
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask_gradients", [True, False])
def test_the_view_returns_the_models_logits(head: str, training: bool, mask_gradients: bool, images: Tensor) -> None:
    model = aim(head).train(training)
    view = LogitsView(model, mask_gradients=mask_gradients)
    assert view.training == view.cam_layer.training == training
    torch.manual_seed(1)
    expected = model(images).logits
    torch.manual_seed(1)
    got = view(images)
    torch.testing.assert_close(got, expected)  # the sum over the mask's finer grid rounds differently
    assert head != "paper" or torch.equal(got, expected)


@every_head
def test_the_cam_layer_gives_the_map_that_is_classified(head: str, images: Tensor) -> None:
    model = aim(head)
    view, seen = LogitsView(model), []
    view.cam_layer.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    view(images)
    assert len(seen) == 1
    assert torch.equal(seen[0], features_of(model, images)[0])


def test_the_view_shares_the_model_and_adds_nothing_to_it() -> None:
    model = aim()
    names, modules = list(model.state_dict()), list(model.modules())
    view = LogitsView(model)
    assert list(model.state_dict()) == names
    assert list(model.modules()) == modules
    assert [id(p) for p in view.parameters()] == [id(p) for p in model.parameters()]
    view.train()
    assert model.training
    assert repr(view).startswith("LogitsView(\n  mask_gradients=True")
    assert torch.equal(copy.deepcopy(view.eval())(torch.ones(1, 3, 64, 64)), view(torch.ones(1, 3, 64, 64)))


def test_the_view_takes_nothing_but_an_aim() -> None:
    with pytest.raises(TypeError, match="model must be an AIM or a SecondLook, got TinyNet; a plain classifier"):
        LogitsView(TinyNet())


@every_head
def test_gradients_run_through_the_masks_or_do_not(head: str, images: Tensor) -> None:
    """At the pixels the straight-through path counts; without it, what remains is the gradient with masks given."""
    model = aim(head)
    held = {stage: mask.detach() for stage, mask in model(images).masks.items()}

    def pixel_gradient(classify: Callable[[Tensor], Tensor]) -> Tensor:
        pixels = images.clone().requires_grad_()
        return torch.autograd.grad(classify(pixels)[:, 2].sum(), pixels)[0]

    own = pixel_gradient(lambda x: model(x).logits)
    without = pixel_gradient(lambda x: model(x, masks=held).logits)
    torch.testing.assert_close(pixel_gradient(LogitsView(model)), own, rtol=1e-4, atol=1e-9)
    assert torch.equal(pixel_gradient(LogitsView(model, mask_gradients=False)), without)
    assert (own - without).norm() > 0.01 * own.norm()

    LogitsView(model, mask_gradients=False)(images).sum().backward()
    assert all(p.grad is None for p in model.mask_estimators.parameters())
    LogitsView(model)(images).sum().backward()
    assert model.mask_estimators["stage_2"].where.weight.grad.abs().sum() > 0


def test_the_gradient_at_the_cam_layer_knows_nothing_of_the_masks_path(images: Tensor) -> None:
    model = aim("paper")
    gradients = []
    for mask_gradients in (True, False):
        view = LogitsView(model, mask_gradients=mask_gradients)
        view.cam_layer.register_forward_hook(lambda layer, inputs, output: gradients.append(output))
        gradients[-1:] = torch.autograd.grad(view(images)[:, 0].sum(), gradients[-1])
    active = model.forward_masks(model.forward_backbone(images)).merged_mask.sum((1, 2, 3))
    expected = model.classifier.weight[0][None, :, None, None] / active[:, None, None, None]
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected.expand_as(gradient))


# ---- Each map against straight code ----------------------------------------------------------------------------------


def test_grad_cam_of_an_average_and_a_linear_layer_is_the_class_activation_map(images: Tensor) -> None:
    model = TinyNet().eval()
    maps, logits = model.features(images), model(images)
    classes = logits.argmax(1)
    expected = (model.fc.weight[classes][:, :, None, None] * maps).sum(1) / (maps.shape[2] * maps.shape[3])
    torch.testing.assert_close(grad_cam(model, images), expected.detach())


@every_head
@pytest.mark.parametrize("pooling", ["all", "active"])
def test_grad_cam_of_aim_adds_up_to_the_logit_and_is_zero_outside_the_merged_mask(
    head: str, pooling: str, images: Tensor
) -> None:
    model = aim(head, pooling=pooling)
    fused, outside = features_of(model, images)
    classes = torch.tensor([0, 3, 6])
    positions = (~outside).sum((1, 2)) if pooling == "active" else torch.tensor(outside[0].numel())
    weighted = (model.classifier.weight[classes][:, :, None, None] * fused).sum(1) / positions.view(-1, 1, 1)
    attribution = grad_cam(model, images, classes)
    torch.testing.assert_close(attribution, weighted.detach())
    assert attribution[outside].count_nonzero() == 0
    logits = model(images).logits.detach()[range(3), classes]
    torch.testing.assert_close(attribution.sum((1, 2)) + model.classifier.bias.detach()[classes], logits)
    torch.testing.assert_close(attribution, explain(model, images).contributions[range(3), classes])


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient.clamp(min=0) * (ctx.saved_tensors[0] > 0)


def guided_gradient(model: nn.Module, images: Tensor, classes: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Springenberg et al.: every ReLU of a network replaced by one with their backward, (N, C, H, W)."""
    pixels = images.clone().requires_grad_()
    with monkeypatch.context() as patch:
        patch.setattr(nn.ReLU, "forward", lambda module, x: _GuidedReLU.apply(x))
        logits = model(pixels)
    return torch.autograd.grad(logits[range(len(images)), classes].sum(), pixels)[0]


def in_place_resnet() -> nn.Module:
    """ReLUs in place, and one module for all of a block's."""
    return torchvision.models.resnet18(num_classes=NUM_CLASSES, width_per_group=64).eval()


@pytest.mark.parametrize("kind", ["plain", "in place and shared", "aim", "aim on shared"])
def test_guided_backprop_passes_positive_gradients_only(
    kind: str, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = {
        "plain": lambda: TinyNet().eval(),
        "in place and shared": in_place_resnet,
        "aim": aim,
        "aim on shared": lambda: aim(backbone=in_place_resnet()),
    }
    model = build[kind]()
    classes = torch.tensor([1, 0, 5])
    straight = LogitsView(model, mask_gradients=False) if isinstance(model, AIM) else model
    expected = guided_gradient(straight, images, classes, monkeypatch)
    attribution = guided_backprop(model, images, classes)
    assert attribution.abs().sum() > 0
    torch.testing.assert_close(attribution, expected.sum(1))


def test_guided_grad_cam_is_the_product_of_both(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = aim()
    classes = torch.tensor([1, 0, 5])
    guided = guided_gradient(LogitsView(model, mask_gradients=False), images, classes, monkeypatch)
    cam = grad_cam(model, images, classes).clamp(min=0)[:, None]
    expected = (guided * F.interpolate(cam, size=(64, 64), mode="bilinear")).sum(1)
    attribution = guided_grad_cam(model, images, classes)
    assert attribution.abs().sum() > 0
    torch.testing.assert_close(attribution, expected)


@every_head
def test_score_cam_weights_channels_by_the_logit_of_what_they_show(head: str, images: Tensor) -> None:
    model = aim(head)
    classes = torch.tensor([1, 0, 5])
    fused, outside = features_of(model, images)
    expected = []
    for image, maps, k in zip(images, fused, classes, strict=True):
        shown = F.interpolate(maps[None], size=(64, 64), mode="bilinear", align_corners=True)[0]
        lowest, highest = shown.amin((1, 2), keepdim=True), shown.amax((1, 2), keepdim=True)
        seen = image[None] * ((shown - lowest) / (highest - lowest + 1e-8))[:, None]
        weights = model(seen).logits[:, k].softmax(0)
        expected.append((weights[:, None, None] * maps).sum(0))
    attribution = score_cam(model, images, classes, batch_size=3)
    torch.testing.assert_close(attribution, torch.stack(expected).detach(), atol=1e-5, rtol=1e-4)
    assert attribution[outside].count_nonzero() == 0


@pytest.mark.parametrize("method", [grad_cam, score_cam])
def test_an_activation_in_place_does_not_overwrite_the_map(method: Callable[..., Tensor], images: Tensor) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3, 2, 1)
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, NUM_CLASSES)
    in_place, apart = (nn.Sequential(convolution, nn.ReLU(inplace=place), *ends).eval() for place in (True, False))
    maps = method(in_place, images, layer="0")
    assert (maps < 0).any() and torch.equal(maps, method(apart, images, layer="0"))


@every_method
def test_a_layer_in_place_does_not_overwrite_the_images(method: Callable[..., Tensor], images: Tensor) -> None:
    network = TinyNet()
    in_place, apart = (nn.Sequential(v2.Normalize([0.5] * 3, [0.5] * 3, place), network) for place in (True, False))
    assert torch.equal(method(in_place, images), method(apart, images))


def test_score_cam_prints_nothing(images: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    score_cam(TinyNet(), images[:1])
    assert capfd.readouterr() == ("", "")


@every_method
def test_classes_are_the_predicted_ones_or_those_asked_for(method: Callable[..., Tensor], images: Tensor) -> None:
    model = aim()
    predicted = model(images).logits.argmax(1)
    assert torch.equal(method(model, images), method(model, images, predicted))
    assert not torch.equal(method(model, images), method(model, images, (predicted + 1) % NUM_CLASSES))


@every_method
def test_shapes_and_kinds(method: Callable[..., Tensor]) -> None:
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, requires_grad=True)
    for model, grid in ((aim(backbone=HeadConvNet().double()), (4, 6)), (TinyNet().double(), (2, 3))):
        attribution = method(model, images)
        assert attribution.shape == (2, *(grid if method in (grad_cam, score_cam) else (64, 96)))
        assert attribution.dtype == torch.float64
        assert not attribution.requires_grad


def test_wrappers_are_looked_through(images: Tensor) -> None:
    for model in (aim(), TinyNet()):
        expected = grad_cam(model, images)
        assert torch.equal(grad_cam(nn.DataParallel(model), images), expected)
        assert torch.equal(grad_cam(torch.compile(model), images), expected)
    model = aim()
    assert LogitsView(nn.DataParallel(torch.compile(model))).model is model


def test_any_layer_can_be_explained(images: Tensor) -> None:
    model = TinyNet().eval()
    by_name = grad_cam(model, images, layer="block1")
    assert by_name.shape == (3, 8, 8)
    assert torch.equal(by_name, grad_cam(model, images, layer=model.block1))
    wrapped = aim()
    by_name = grad_cam(wrapped, images, layer="backbone.block2.2")
    assert by_name.shape == (3, 4, 4)
    assert torch.equal(by_name, grad_cam(LogitsView(wrapped, mask_gradients=False), images, layer="backbone.block2.2"))
    assert not torch.allclose(by_name, grad_cam(LogitsView(wrapped), images, layer="backbone.block2.2"))


# ---- What is not guided ----------------------------------------------------------------------------------------------


class _Activated(TinyNet):
    """One activation of another kind, after guided ones."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def features(self, x: Tensor) -> Tensor:
        return self.activation(super().features(x) - 0.1)


class _OwnFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * 2


class _ReadTwice(TinyNet):
    """A ReLU's input that a shortcut reads, too (Xception, NASNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def features(self, x: Tensor) -> Tensor:
        x = self.block3[0](self.block2(self.block1(self.block0(self.stem(x)))))
        return self.relu(x) - 2 * x


UNGUIDED = {
    "1 x GELU": lambda: _Activated(nn.GELU()),
    "1 x SiLU": lambda: _Activated(F.silu),
    "1 x ReLU6/Hardtanh": lambda: _Activated(nn.ReLU6()),
    "1 x LeakyReLU": lambda: _Activated(nn.LeakyReLU()),
    "1 x PReLU": lambda: _Activated(nn.PReLU()),
    "1 x ReLU called as a function": lambda: _Activated(F.relu),
    r"custom autograd functions \(_OwnFunctionBackward\)": lambda: _Activated(_OwnFunction.apply),
    "1 x ReLU whose input another branch reads": _ReadTwice,
    "2 x GELU": lambda: aim("paper"),
    "7 x ReLU called as a function": lambda: LogitsView(aim()),  # the mask estimator's
}


@pytest.mark.parametrize("finding", UNGUIDED)
@pytest.mark.parametrize("method", [guided_backprop, guided_grad_cam])
def test_what_would_not_be_guided_is_refused_or_said(
    finding: str, method: Callable[..., Tensor], images: Tensor
) -> None:
    model = UNGUIDED[finding]()
    arguments = {"layer": "block2"} if method is guided_grad_cam and isinstance(model, TinyNet) else {}
    with pytest.raises(ValueError, match=rf"{method.__name__} would be guided only in part.*{finding}.*partial=True"):
        method(model, images, **arguments)
    with pytest.warns(UserWarning, match=rf"{method.__name__} is guided only in part.*{finding}") as caught:
        assert method(model, images, partial=True, **arguments).shape == (3, 64, 64)
    assert caught[0].filename == __file__


def test_captum_spoils_a_branch_that_reads_a_relus_input(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it is refused; if this fails, captum has fixed it."""
    model, classes = _ReadTwice().eval(), torch.zeros(3, dtype=torch.long)
    expected = guided_gradient(model, images, classes, monkeypatch).sum(1)
    with pytest.warns(UserWarning, match="another branch reads"):
        attribution = guided_backprop(model, images, classes, partial=True)
    assert not torch.allclose(attribution, expected, atol=0.01 * float(expected.abs().max()))


@pytest.mark.parametrize("partial", [True, False])
def test_a_network_without_relu_is_refused_whatever_is_asked(partial: bool, images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(ValueError, match=r"needs nn.ReLU modules.*Sequential has none there \(1 x GELU\).*Saliency"):
        guided_backprop(model, images, partial=partial)
    linear = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="no activation at all"):
        guided_backprop(linear, images, partial=partial)


def test_gates_and_what_parameters_go_through_are_let_pass(images: Tensor) -> None:
    class Gated(TinyNet):
        def features(self, x: Tensor) -> Tensor:
            x = super().features(x)
            return x * torch.sigmoid(x.mean((2, 3), keepdim=True)) * F.softplus(self.fc.bias.sum())

    assert guided_backprop(Gated(), images).shape == (3, 64, 64)


# ---- The model is left as found --------------------------------------------------------------------------------------


def hooks_of(model: nn.Module) -> int:
    return sum(len(v) for m in model.modules() for name, v in vars(m).items() if "_hooks" in name and v is not None)


@pytest.fixture
def half_trained() -> Iterator[nn.Module]:
    """Mixed modes, gradients and frozen parameters; checked when the test is done."""
    model = aim().train()
    model.backbone.block1.eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
        parameter.grad = torch.full_like(parameter, 2) if index % 3 == 0 else None
    model.backbone.get_submodule("block2.0").register_forward_hook(lambda module, inputs, output: None)
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    hooks = hooks_of(model)
    yield model
    assert hooks_of(model) == hooks
    assert [module.training for module in model.modules()] == modes
    for index, parameter in enumerate(model.parameters()):
        assert parameter.requires_grad == (index % 2 == 0)
        assert parameter.grad is None if index % 3 else bool((parameter.grad == 2).all())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@every_method
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_model_and_images_are_left_as_found(
    method: Callable[..., Tensor], mode: Callable, half_trained: nn.Module
) -> None:
    images = torch.randn(4, 3, 64, 64, requires_grad=True)
    images.grad = torch.ones_like(images)
    original = images.detach().clone()
    with mode():
        attribution = method(half_trained, images, torch.tensor([0, 1, 2, 3]))
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert attribution.abs().sum() > 0
    assert torch.equal(images, original)
    assert torch.equal(images.grad, torch.ones_like(images))


@every_method
def test_a_failing_forward_leaves_no_trace_either(method: Callable[..., Tensor], half_trained: nn.Module) -> None:
    calls = 0

    def fail(module: nn.Module, inputs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("out of memory")

    handle = half_trained.backbone.get_submodule("block3.0").register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            method(half_trained, torch.randn(1, 3, 64, 64))
    finally:
        handle.remove()


# ---- Layers, and what bad input gets ---------------------------------------------------------------------------------


QUICK = {*HAND_WRITTEN, "tv_resnet18", "tv_convnext", "resnet10t"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in BACKBONES
        if name not in ("tv_densenet", "twins")  # they have none: the next test, and maps of tokens
    ],
)
def test_the_layer_found_gives_the_map_that_a_head_would_select_from(
    name: str, backbone_of: Callable[[str], nn.Module]
) -> None:
    model = backbone_of(name)
    images, seen = torch.randn(1, 3, 64, 64), []
    handle = cam_layer_of(model).register_forward_hook(lambda layer, inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    with torch.no_grad():
        final = tap_backbone(model, [3], final=True).backbone(images)[FINAL]
    assert len(seen) == 1
    assert torch.equal(seen[0], final)


def test_no_layer_is_guessed_where_a_function_follows_in_what_cannot_be_traced() -> None:
    """The layer before the function was taken, without a word."""

    class Activated(Branching):
        def features(self, x: Tensor) -> Tensor:
            return F.relu(super().features(x))

    class Scaled(Branching):
        def features(self, x: Tensor) -> Tensor:
            return super().features(x) * 0.5

    with pytest.raises(ValueError, match=r"not the output of a module: the function 'relu' follows 'block3'\. Pass"):
        cam_layer_of(Activated())
    with pytest.raises(ValueError, match=r"the function 'mul' makes another map of that of 'block3'\. Pass"):
        cam_layer_of(Scaled())
    network = Branching()
    assert cam_layer_of(network) is network.block3


def test_no_layer_is_guessed(backbone_of: Callable[[str], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"DenseNet.*'relu' follows 'features.norm5'. Pass layer=.*'features.norm5'"):
        cam_layer_of(backbone_of("tv_densenet"))
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, embed_dim=12, depths=(1,) * 4, num_heads=(1,) * 4, window_size=2
    )
    with pytest.raises(ValueError, match=r"map of SwinTransformer, by 'norm', is laid out as \(N, H, W, C\)"):
        cam_layer_of(swin)
    with pytest.raises(TypeError, match="use LogitsView"):
        cam_layer_of(aim())
    view = LogitsView(aim())
    assert cam_layer_of(view) is view.cam_layer

    class Shared(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def features(self, x: Tensor) -> Tensor:
            return self.act(self.block3(self.act(self.block2(self.act(self.block1(self.block0(self.stem(x))))))))

    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"layer \(ReLU\) is called 3 times in a forward"):
        grad_cam(Shared(), images)
    with pytest.raises(ValueError, match=r"layer \(Module\) is not called.*only the innermost modules"):
        grad_cam(aim(), images, layer="backbone.block2")


def test_layers_that_do_not_fit(images: Tensor) -> None:
    model = TinyNet()
    model.unused = nn.Conv2d(3, 3, 1)
    for layer, error, message in (
        ("block9", ValueError, r"TinyNet has no module 'block9'; its last ones with 4-D output: .*'block3' \(20x2x2\)"),
        (3, TypeError, "layer must be a module or its name, got int"),
        (nn.ReLU(), ValueError, "layer must be a module of the model, got a ReLU that is not part of it"),
        ("unused", ValueError, r"layer \(Conv2d\) is not called in a forward"),
        ("fc", ValueError, r"layer \(Linear\) gives \(1, 7\), not an \(N, D, h, w\) map"),
    ):
        with pytest.raises(error, match=message):
            grad_cam(model, images, layer=layer)


@every_method
def test_bad_input_gets_an_error_of_our_own(method: Callable[..., Tensor], images: Tensor) -> None:
    for model in (aim(), TinyNet()):
        for bad_images, bad_classes, error, message in (
            (images.byte(), None, TypeError, "images must be a floating tensor.*uint8"),
            (images[0], None, ValueError, r"images must be of shape \(N, C, H, W\), N at least 1, got \(3, 64, 64\)"),
            (images, 3, TypeError, r"classes must be an integer tensor of shape \(3,\), got int"),
            (images, torch.zeros(3), TypeError, "got torch.float32"),
            (
                images,
                torch.tensor([1]),
                ValueError,
                r"classes must be of shape \(3,\), one class per .*\(1,\)",
            ),
            (images, torch.tensor([0, 1, 7]), ValueError, r"classes must be in 0..6, got 7"),
        ):
            with pytest.raises(error, match=message):
                method(model, bad_images, bad_classes)
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got str"):
        method("resnet18", images)
    with pytest.raises(ValueError, match=r"model must return logits of shape \(3, K\), got \(3, 8, 16, 16\)"):
        method(nn.Conv2d(3, 8, 4, 4), images)


def test_score_cam_needs_a_batch() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        score_cam(aim(), torch.randn(1, 3, 64, 64), batch_size=0)


@every_method
def test_without_the_libraries_the_extra_is_named(
    method: Callable[..., Tensor], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("captum.attr", "pytorch_grad_cam"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r"captum and grad-cam: pip install \"aimwrap\[attribution\]\""):
        method(aim(), images)


# ---- Every library on the view, as its own users call it -------------------------------------------------------------


@pytest.fixture
def view() -> LogitsView:
    return LogitsView(aim("paper"))


def as_grad_cam_shows_it(attribution: Tensor) -> Tensor:
    return from_0_to_1(attribution.clamp(min=0))


def from_0_to_1(attribution: Tensor) -> Tensor:
    above = attribution - attribution.amin((1, 2), keepdim=True)
    return above / (1e-7 + above.amax((1, 2), keepdim=True))


def test_pytorch_grad_cam_takes_the_view(view: LogitsView, images: Tensor) -> None:
    cam = pytorch_grad_cam.GradCAM(model=view, target_layers=[view.cam_layer])
    shown = cam(input_tensor=images, targets=None)
    cam.activations_and_grads.release()
    resized = F.interpolate(as_grad_cam_shows_it(grad_cam(view, images))[:, None], size=(64, 64), mode="bilinear")
    torch.testing.assert_close(torch.from_numpy(shown), as_grad_cam_shows_it(resized[:, 0]), atol=1e-4, rtol=1e-4)


def test_torchcam_takes_the_view(view: LogitsView, images: Tensor) -> None:
    methods = pytest.importorskip("torchcam.methods")
    own = grad_cam(view, images, torch.full((3,), 2))
    for extractor in (
        methods.GradCAM(view, target_layer=view.cam_layer),
        methods.CAM(view, target_layer="cam_layer", fc_layer="model.classifier"),
        methods.SmoothGradCAMpp(view, target_layer="cam_layer", num_samples=2),
    ):
        with extractor:
            logits = view(images)
            (shown,) = extractor(2, logits)
        assert shown.shape == (3, 4, 4)
        if not isinstance(extractor, methods.SmoothGradCAMpp):
            expected = from_0_to_1(own) if type(extractor) is methods.CAM else as_grad_cam_shows_it(own)
            torch.testing.assert_close(shown, expected, atol=1e-4, rtol=1e-4)


def test_captum_takes_the_view(view: LogitsView, images: Tensor) -> None:
    classes = torch.tensor([0, 1, 2])
    images.requires_grad_()
    cam = attr.LayerGradCam(view, view.cam_layer).attribute(images, classes)
    assert torch.equal(cam[:, 0], grad_cam(view, images, classes))
    pixels = attr.IntegratedGradients(view).attribute(images, target=classes, n_steps=4)
    assert pixels.shape == images.shape
    assert pixels.abs().sum() > 0


def test_integrated_gradients_do_not_add_up_on_aim(images: Tensor) -> None:
    """As the documentation says: on the way from black to the image the masks jump, and no gradient knows of it."""
    classes = torch.tensor([0, 1, 2])

    def relative_gap(model: nn.Module) -> Tensor:
        _, gap = attr.IntegratedGradients(model).attribute(
            images, target=classes, n_steps=64, return_convergence_delta=True
        )
        with torch.no_grad():
            difference = (model(images) - model(torch.zeros_like(images)))[range(3), classes]
        return (gap / difference).abs().mean()

    assert relative_gap(TinyNet().eval()) < 0.1
    for mask_gradients in (True, False):
        assert relative_gap(LogitsView(aim("paper"), mask_gradients=mask_gradients)) > 0.3


def test_quantus_takes_the_view(view: LogitsView, images: Tensor) -> None:
    quantus = pytest.importorskip("quantus")

    def explain(model: nn.Module, inputs: object, targets: object, **arguments: object) -> object:
        attribution = grad_cam(model, torch.as_tensor(inputs), torch.as_tensor(targets)).clamp(min=0)
        return F.interpolate(attribution[:, None], size=inputs.shape[-2:], mode="nearest").numpy()

    boxes = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
    boxes[:, :, :, :32] = True
    classes = view(images).argmax(1)
    metric = quantus.AttributionLocalisation(
        positive_attributions=True, abs=False, normalise=False, disable_warnings=True
    )
    scores = metric(
        model=view, x_batch=images.numpy(), y_batch=classes.numpy(), s_batch=boxes.numpy(), explain_func=explain
    )
    positive = grad_cam(view, images, classes).clamp(min=0)
    expected = positive[:, :, :2].sum((1, 2)) / positive.sum((1, 2))
    torch.testing.assert_close(torch.tensor(scores, dtype=torch.float32), expected, atol=1e-4, rtol=1e-4)


class LogitsOf(nn.Module):
    """As people write it for tools that expect logits."""

    def __init__(self, model: AIM) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).logits
        return logits


@pytest.mark.parametrize("around", [LogitsOf, lambda model: nn.Sequential(LogitsView(model))], ids=["module", "view"])
def test_a_model_with_an_aim_in_it_has_no_last_map_of_its_own(around: Callable[[AIM], nn.Module]) -> None:
    """A layer of the mask estimator was explained."""
    wrapped = around(small_aim([2, 3], num_classes=3)).eval()
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(TypeError, match=r"model has a part, model\.\w+, of the class .*; pass that part itself"):
        cam_layer_of(wrapped, images)
    with pytest.raises(TypeError, match="pass that part itself"):
        grad_cam(wrapped, images)
