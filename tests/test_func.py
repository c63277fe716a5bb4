"""torch.func goes through a wrapped model in evaluation: gradients by image, batched calls, forward mode."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from aimwrap import AIM

# What torch's own forward mode does at its first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

Wrapped = Callable[..., AIM]
every_model = pytest.mark.parametrize(
    ("name", "head"),
    [
        ("tiny", "paper"),
        ("tiny", "feature-preserving"),
        ("branching", "feature-preserving"),  # tapped by hooks
        *(pytest.param(name, "paper", marks=pytest.mark.slow) for name in ("tv_resnet18", "tv_swin", "convnext_atto")),
    ],
)


def some_images() -> Tensor:
    return torch.randn(3, 3, 64, 64)


def scores(model: AIM, images: Tensor) -> Tensor:
    """One number per image that every output has a part in."""
    output = model(images)
    logits = torch.stack([output.logits, *output.stage_logits.values()]).cos().sum((0, 2))
    return logits + sum(mask.sum((1, 2, 3)) for mask in output.masks.values())


@every_model
def test_calls_can_be_batched(name: str, head: str, wrapped: Wrapped) -> None:
    model, images = wrapped(name, head), some_images()
    output, batched = model(images), vmap(lambda image: model(image[None]))(images)
    torch.testing.assert_close(batched.logits[:, 0], output.logits)
    for stage in model.stages:
        assert torch.equal(batched.masks[stage][:, 0], output.masks[stage])
        torch.testing.assert_close(batched.stage_logits[stage][:, 0], output.stage_logits[stage])


@every_model
def test_gradients_by_image_are_autograds(name: str, head: str, wrapped: Wrapped) -> None:
    model, images = wrapped(name, head), some_images().requires_grad_()
    (expected,) = torch.autograd.grad(scores(model, images).sum(), images)
    got = vmap(grad(lambda image: scores(model, image[None])[0]))(images.detach())
    assert expected.abs().sum() > 0
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


@every_model
def test_gradients_by_parameter_and_image_are_autograds(name: str, head: str, wrapped: Wrapped) -> None:
    model, images = wrapped(name, head), some_images()
    parameters = {n: p for n, p in model.named_parameters() if n.startswith("mask_estimators")}

    def score(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return scores(lambda x: functional_call(model, values, (x,)), image[None])[0]

    got = vmap(grad(score), in_dims=(None, 0))({n: p.detach() for n, p in parameters.items()}, images)
    for index in range(len(images)):
        expected = torch.autograd.grad(scores(model, images[index : index + 1]).sum(), list(parameters.values()))
        largest = max(value.abs().max().item() for value in expected)
        for value, of_all in zip(expected, got.values(), strict=True):
            torch.testing.assert_close(of_all[index], value, rtol=1e-3, atol=5e-4 * largest)


@every_model
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch's own forward mode, on Python 3.14
def test_forward_mode_agrees_with_backward(name: str, head: str, wrapped: Wrapped) -> None:
    model, images = wrapped(name, head), some_images()
    direction = torch.randn_like(images)
    _, moved = jvp(lambda x: scores(model, x), (images,), (direction,))
    leaf = images.requires_grad_()
    (gradient,) = torch.autograd.grad(scores(model, leaf).sum(), leaf)
    expected = (gradient * direction).sum((1, 2, 3))
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
