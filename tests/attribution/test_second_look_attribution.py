"""Attribution of a second look: on its cut-outs, against straight code; and the view, with gradients at the pixels."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import TinyNet, aim, lively

from aimwrap import SecondLook, explain
from aimwrap.attribution import LogitsView, cam_layer_of, grad_cam, guided_backprop, guided_grad_cam, score_cam
from aimwrap.second_look import on_the_image

pytest.importorskip("captum.attr")
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")

CLASSES = torch.tensor([0, 3, 6])


@pytest.fixture
def second() -> SecondLook:
    torch.manual_seed(0)
    model = SecondLook(lively(aim("feature-preserving", backbone=TinyNet())), margin=0, least=0.2)
    nn.init.normal_(model.classifier.weight)
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def cut_outs_of(second: SecondLook, images: Tensor) -> Tensor:
    output = second(images)
    assert 0 < output.kept.mean() < 1
    return second.cut_out(images, output.kept, output.boxes)


def on_cut_outs(second: SecondLook) -> nn.Module:
    """The second pass as a plain network."""
    backbone = TinyNet()
    backbone.load_state_dict(second.first.backbone.state_dict(), strict=False)  # has no classifier
    backbone.fc = second.classifier
    return backbone.eval()


@pytest.mark.parametrize("training", [True, False])
def test_the_view_returns_the_second_looks_logits_and_its_final_map(
    training: bool, second: SecondLook, images: Tensor
) -> None:
    second.train(training)
    view, seen = LogitsView(second), []
    assert cam_layer_of(view) is view.cam_layer and view.training == training
    view.cam_layer.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    assert torch.equal(view(images), second(images).logits)
    assert len(seen) == 1 and torch.equal(seen[0], second.look(images)[0])
    assert all(module.training == training for module in second.modules())


def test_grad_cam_is_what_explain_gives_and_is_placed_by_the_caller(second: SecondLook, images: Tensor) -> None:
    output, cam = second(images), grad_cam(second, images, CLASSES)
    torch.testing.assert_close(cam, explain(second, images).contributions[range(3), CLASSES])
    assert torch.equal(cam, grad_cam(LogitsView(second), images, CLASSES))
    placed = on_the_image(cam, output.kept, output.boxes)
    assert placed.shape == (3, 64, 96) and placed[output.kept[:, 0] == 0].count_nonzero() == 0
    predicted = output.logits.argmax(1)
    assert torch.equal(grad_cam(second, images), grad_cam(second, images, predicted))


@pytest.mark.parametrize("method", [grad_cam, score_cam, guided_backprop, guided_grad_cam])
def test_every_map_is_that_of_the_second_pass_on_its_cut_outs(
    method: Callable[..., Tensor], second: SecondLook, images: Tensor
) -> None:
    expected = method(on_cut_outs(second), cut_outs_of(second, images), CLASSES)
    for model in (second, LogitsView(second), nn.DataParallel(second.train())):
        torch.testing.assert_close(method(model, images, CLASSES), expected)
    with torch.inference_mode():
        torch.testing.assert_close(method(second, images, CLASSES), expected)
    assert all(parameter.grad is None for parameter in second.parameters())


def test_a_layer_of_the_backbone_is_that_of_the_second_pass(second: SecondLook, images: Tensor) -> None:
    expected = grad_cam(on_cut_outs(second), cut_outs_of(second, images), CLASSES, layer="block2")
    torch.testing.assert_close(grad_cam(second, images, CLASSES, layer="first.backbone.block2.2"), expected)


def test_pixels_get_a_gradient_with_the_masks_held(second: SecondLook, images: Tensor) -> None:
    output, pixels = second(images), images.clone().requires_grad_()
    LogitsView(second)(pixels)[range(3), CLASSES].sum().backward()
    assert pixels.grad[(output.kept == 0).expand_as(pixels)].count_nonzero() == 0
    with torch.no_grad():
        step = 1e-3 * torch.where(output.kept > 0, torch.randn_like(images), 0.0)
        moved = [second.double().logits_of(image, output.kept, output.boxes)[range(3), CLASSES]
                 for image in ((images + step).double(), (images - step).double())]  # fmt: skip
    torch.testing.assert_close(
        (pixels.grad * step).sum((1, 2, 3)), ((moved[0] - moved[1]) / 2).float(), rtol=0.02, atol=1e-5
    )


def test_grad_cam_of_another_library_works_on_a_first_look_that_is_frozen(second: SecondLook, images: Tensor) -> None:
    view = LogitsView(second.requires_grad_(False))
    with pytorch_grad_cam.GradCAM(model=view, target_layers=[view.cam_layer]) as cam:
        heatmaps = torch.from_numpy(cam(input_tensor=images, targets=None))
    ours = grad_cam(second, images).clamp(min=0)
    ours = (ours - ours.amin((1, 2), keepdim=True)) / ours.amax((1, 2), keepdim=True)
    assert heatmaps.shape == (3, 64, 96)
    assert (
        F.cosine_similarity(
            heatmaps.flatten(1), F.interpolate(ours[:, None], (64, 96), mode="bilinear").flatten(1)
        ).min()
        > 0.99
    )


def test_a_second_look_has_no_layer_of_its_own_to_hook(second: SecondLook) -> None:
    with pytest.raises(TypeError, match=r"the classified map of SecondLook is not the output.*LogitsView\(model\)"):
        cam_layer_of(second)


@pytest.mark.filterwarnings("ignore")  # torch advises against tracing
def test_the_view_can_be_traced(second: SecondLook, images: Tensor) -> None:
    view = LogitsView(second.requires_grad_(False))
    assert torch.equal(torch.jit.trace(view, images, check_trace=False)(images), view(images))
