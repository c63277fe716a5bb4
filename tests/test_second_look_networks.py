"""A second look through another network, or at a smaller cut-out, is this network on these pixels and nothing else."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn
from zoo import HeadConvNet, TinyNet, balanced

from aimwrap import AIM, Preprocessing, SecondLook, explain, verify
from aimwrap.attribution import LogitsView
from aimwrap.second_look import enlarge
from aimwrap.taps import count_macs

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of test_efficientnet; those of test_resnet are all 0.5


@pytest.fixture(scope="module")
def first() -> AIM:
    torch.manual_seed(0)
    model = AIM(timm.create_model("test_resnet", num_classes=3), stages=[2, 3])
    return balanced(model, torch.randn(4, 3, 96, 128)).eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("test_efficientnet", num_classes=7).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 96, 128, generator=torch.Generator().manual_seed(2))


def looking(first: AIM, *arguments: object, **named: object) -> SecondLook:
    torch.manual_seed(3)
    second = SecondLook(first, *arguments, margin=0, **named)
    nn.init.normal_(second.classifier.weight)
    nn.init.normal_(second.classifier.bias)
    return second.eval()


def seen_by(second: SecondLook, images: Tensor) -> Tensor:
    kept, boxes = second(images)[1:3]
    assert 0 < kept.mean() < 1
    return enlarge(torch.where(kept > 0, images, second.fill), boxes, second.size)


def test_another_network_sees_the_same_pixels_normalised_as_it_expects_them(
    first: AIM, network: nn.Module, images: Tensor
) -> None:
    second = looking(first, network, fill=0.25)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        features = network.forward_features((seen_by(second, images) * 0.5 + 0.5 - mean) / std).mean((2, 3))
        torch.testing.assert_close(second(images).logits, second.classifier(features), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(second.features(images), features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preprocessing", [None, Preprocessing((96, 96), MEAN, STD)])
def test_nothing_is_converted_where_that_is_right_or_nothing_is_known(
    preprocessing: Preprocessing | None, first: AIM, network: nn.Module, images: Tensor
) -> None:
    second = looking(copy.deepcopy(first), network)
    second.preprocessing = preprocessing
    with torch.no_grad():
        expected = network.forward_features(seen_by(second, images)).mean((2, 3))
    torch.testing.assert_close(second.features(images), expected, rtol=1e-4, atol=1e-4)


def test_a_smaller_cut_out_keeps_the_image_s_shape_and_is_bilinear(first: AIM) -> None:
    """At half the size every pixel is the mean of four."""
    images = torch.randn(2, 3, 64, 96)
    whole = torch.tensor([[0.0, 0.0, 96.0, 64.0]]).expand(2, -1)
    assert torch.equal(enlarge(images, whole, 64), enlarge(images, whole))
    torch.testing.assert_close(enlarge(images, whole, 32), nn.functional.avg_pool2d(images, 2))
    assert enlarge(images.mT, torch.tensor([[10.0, 0.0, 42.0, 48.0]]).expand(2, -1), 50).shape == (2, 3, 75, 50)


def test_the_second_look_is_the_backbone_on_the_smaller_cut_out(first: AIM, images: Tensor) -> None:
    second = looking(first, size=64)
    shown = seen_by(second, images)
    assert shown.shape == (4, 3, 64, 85)
    with torch.no_grad():
        features = first.forward_backbone(shown)["final map"].mean((2, 3))
        torch.testing.assert_close(second(images).logits, second.classifier(features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "grid"),
    [
        ({"size": 64}, (2, 3)),
        ({"backbone": "test_efficientnet"}, (3, 4)),
        ({"backbone": TinyNet(), "size": 160}, (5, 7)),
    ],
)
def test_it_keeps_every_promise(
    arguments: dict[str, object], grid: tuple[int, int], first: AIM, images: Tensor
) -> None:
    second = looking(first, **arguments)
    output = second(images)
    assert verify(second, images, measure_pixels=False, progress=False).passed
    noise = torch.where(output.kept > 0, images, 1e3 * torch.randn_like(images))
    assert torch.equal(second.logits_of(noise, output.kept, output.boxes), output.logits)
    explanation = explain(second, images)
    assert explanation.contributions.shape == (4, 3, *grid)
    for placed in (explanation.contributions, explanation.on_the_image()):
        sums = placed.sum((2, 3)) + second.classifier.bias
        torch.testing.assert_close(sums, output.logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(LogitsView(second)(images), output.logits)
    assert torch.equal(second.predict(images).logits, output.logits)


def test_only_the_classifier_learns_and_both_networks_stay(first: AIM, images: Tensor) -> None:
    network = TinyNet(dropout=0.5).train()
    before = copy.deepcopy(network.state_dict())
    second = looking(copy.deepcopy(first), network).train()
    logits, again = second(images).logits, second(images).logits
    assert torch.equal(logits, again), "no dropout"
    logits.sum().backward()
    assert second.classifier.weight.grad is not None and all(p.grad is None for p in network.parameters())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert network.training and all(module.training for module in second.modules())
    named = {name for name, _ in [*second.named_parameters(), *second.named_buffers()]}
    assert named - second._ddp_params_and_buffers_to_ignore == {"classifier.weight", "classifier.bias"}


def test_its_cost_is_that_of_its_own_network_at_its_own_size(first: AIM) -> None:
    """Of images of 160 pixels, by which test_resnet was probed."""
    network, alone = HeadConvNet(), first.cost()
    parts = [module for name, module in network.named_children() if name != "fc"]
    parameters = sum(p.numel() for part in parts for p in part.parameters()) + 3 * 40 + 3
    cost = SecondLook(first, network, size=80).cost()
    assert (
        cost.parameters == alone.parameters + parameters and cost.head_parameters == alone.head_parameters + parameters
    )
    assert cost.macs == alone.macs + count_macs(network, (1, 3, 80, 80)) - 7 * 40 + 3 * 40  # without its own classifier
    assert (cost.backbone_macs, cost.backbone_parameters) == (alone.backbone_macs, alone.backbone_parameters)
    assert SecondLook(first).cost().macs == alone.macs + alone.macs - alone.head_macs + 3 * first.classified.channels


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"size": 0}, r"size must be a whole number of pixels, 1 to 10000, or None for the image's own, got 0"),
        ({"size": 96.0}, r"size must be a whole number of pixels, .* got 96.0"),
        ({"size": True}, r"size must be a whole number of pixels, .* got True"),
        ({"size": 31}, r"size must be at least 32, a position of the final map, got 31"),
        ({"backbone": TinyNet(in_channels=1)}, r"backbone must take images of 3 channel\(s\), .* got 1"),
        ({"backbone": "resnt18"}, r"neither timm nor torchvision has a model named 'resnt18'; did you mean"),
        ({"backbone_kwargs": {}}, r"backbone_kwargs builds a backbone given by name; this one is None or already"),
        ({"backbone": nn.Linear(3, 3)}, "Linear"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], says: str, first: AIM) -> None:
    with pytest.raises(ValueError, match=says):
        SecondLook(first, **arguments)
    with pytest.raises(TypeError, match="backbone is an AIM, or has one in it; pass the network that it was made of"):
        SecondLook(first, first)
