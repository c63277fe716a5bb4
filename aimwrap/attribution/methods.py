"""Grad-CAM, Guided Backprop, Guided Grad-CAM and Score-CAM with one signature, computed by captum and grad-cam."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_logits, class_numbers
from .._numerics import both_sides, predicted_classes
from .._wrappers import unwrap
from ..analysis.readout import evaluating
from ..backbones.pooled import calls_of
from ..model import AIM
from ..second_look import SecondLook
from ..taps.probe import logits_in
from .guidance import guidance_of
from .view import LogitsView, chosen_layer


def grad_cam(
    model: nn.Module, images: Tensor, classes: Tensor | None = None, *, layer: nn.Module | str | None = None
) -> Tensor:
    """Grad-CAM: a layer's map, each channel weighted with the mean of the logit's gradient (by captum).

    Reference: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    ICCV 2017.

    Between AIM's fused map and the logits there is only an average and a linear layer. So for AIM this *is* the class
    activation map, and what :func:`aimwrap.explain` calls contributions: exactly 0 outside the merged mask, and with
    the classifier's bias its sum is the logit.

    Args:
        model: an AIM, or any classifier that returns (N, K) logits, also inside ``torch.compile`` or
            ``DistributedDataParallel``. It runs in evaluation mode and is left unchanged. An AIM's masks are held
            while gradients are taken, as :class:`LogitsView` does with ``mask_gradients=False``; pass a view to choose.
            That matters only for a ``layer`` before the masks. Of a :class:`~aimwrap.SecondLook` its second pass is
            explained, on the enlarged cut-outs, so every map is one of the box;
            :func:`aimwrap.second_look.on_the_image` places it.
        images: (N, C, H, W), as the model takes them.
        classes: (N,) the class to explain in each image, such as the true one; the predicted one if None.
        layer: the module whose map is explained, or its name; by default the last map, as :func:`cam_layer_of` finds
            it. It must give (N, D, h, w) maps, and be called once.

    Returns:
        (N, h, w) at the layer's own resolution: signed, where the reference ends with a ReLU (``.clamp(min=0)``), and
        not normalised.

    Raises:
        ImportError: if captum is not installed.
        TypeError: if the model, images, classes or layer are of the wrong type.
        ValueError: if no layer is found or it gives no maps, the model gives no logits, or the classes do not fit; or
            where they are predicted, if the logits of an image are not finite.

    Example:
        >>> import torch, torchvision
        >>> model = torchvision.models.resnet18(num_classes=10)
        >>> grad_cam(model, torch.randn(2, 3, 64, 64)).shape  # doctest: +SKIP
        torch.Size([2, 2, 2])
    """
    captum = _library("captum.attr")
    with _explained(model, images, classes) as (view, inputs, targets):
        hooked = _hooked(view, layer, inputs)
        attribution: Tensor = captum.LayerGradCam(view, hooked).attribute(inputs, targets)
    return attribution.detach()[:, 0]


def guided_backprop(
    model: nn.Module, images: Tensor, classes: Tensor | None = None, *, partial: bool = False
) -> Tensor:
    """Guided backpropagation: the logit's gradient at the pixels, positive parts only at every ReLU (by captum).

    Reference: Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015 workshop.

    captum hooks ``nn.ReLU`` modules and nothing else. A network with other activations (GELU, SiLU, ReLU6, a ReLU
    called as a function) would get its plain gradient, in part or completely, under this name; so it is refused. The
    paper's head is among them: its transforms end in a GELU.

    Arguments and errors as for :func:`grad_cam`. With an AIM's masks held, the gradient does not pass the mask
    estimators. ``partial=True`` accepts a result that is guided only at some activations, with a warning that names the
    others; otherwise that is a ValueError, as is a model in which nothing would be guided.

    Returns:
        (N, H, W) at the images' resolution: signed, the sum over the channels.
    """
    captum = _library("captum.attr")
    with _explained(model, images, classes) as (view, inputs, targets):
        _check_guidance("guided_backprop", view, inputs, partial)
        attribution: Tensor = captum.GuidedBackprop(view).attribute(inputs, targets)
    return attribution.detach().sum(dim=1)


def guided_grad_cam(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    layer: nn.Module | str | None = None,
    partial: bool = False,
) -> Tensor:
    """Guided Grad-CAM: guided backpropagation times the positive part of Grad-CAM, resized to the images (by captum).

    Reference: Selvaraju et al., ICCV 2017, section 3.2; the resizing is bilinear, as there. It reaches up to one of the
    layer's cells beyond an AIM's merged mask. Arguments and errors as for :func:`grad_cam` and :func:`guided_backprop`.

    Returns:
        (N, H, W) at the images' resolution: signed, the sum over the channels.
    """
    captum = _library("captum.attr")
    with _explained(model, images, classes) as (view, inputs, targets):
        _check_guidance("guided_grad_cam", view, inputs, partial)
        explainer = captum.GuidedGradCam(view, _hooked(view, layer, inputs))
        attribution: Tensor = explainer.attribute(inputs, targets, interpolate_mode="bilinear")
    return attribution.detach().sum(dim=1)


def score_cam(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    layer: nn.Module | str | None = None,
    batch_size: int = 16,
) -> Tensor:
    """Score-CAM: a layer's map, each channel weighted by the logit of the image seen through it (by grad-cam).

    Reference: Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR
    workshops 2020.

    No gradients, but D forward passes per image, and memory for D copies of it. An AIM chooses new masks for each of
    the copies; the map is exactly 0 outside the merged mask of the image itself. Arguments and errors as for
    :func:`grad_cam`, with grad-cam instead of captum; ``batch_size`` copies of an image are classified at once.

    Returns:
        (N, h, w) at the layer's own resolution: signed, where the reference ends with a ReLU, and before grad-cam's
        scaling to [0, 1] and resizing.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    library = _library("pytorch_grad_cam")
    target = library.utils.model_targets.ClassifierOutputTarget
    with _explained(model, images, classes) as (view, inputs, targets), torch.no_grad():
        hooked = _hooked(view, layer, inputs)
        explainer = library.ScoreCAM(view, [hooked])
        try:
            explainer.batch_size = batch_size
            with hooked.register_forward_hook(lambda *called: called[-1].clone()):  # an activation may overwrite it
                explainer.activations_and_grads(inputs)
            (maps,) = (activation.numpy() for activation in explainer.activations_and_grads.activations)
        finally:
            explainer.activations_and_grads.release()  # otherwise it would keep every copy's maps until the end
        with contextlib.redirect_stderr(io.StringIO()):  # one progress bar per image
            cams = [
                # Its full call would scale each map to [0, 1] and resize it. One image at a time, for memory.
                explainer.get_cam_image(inputs[i : i + 1], hooked, [target(int(k))], maps[i : i + 1], None)
                for i, k in enumerate(targets)
            ]
    return torch.cat([torch.from_numpy(cam) for cam in cams]).to(images)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError('attribution needs captum and grad-cam: pip install "aimwrap[attribution]"') from error


@contextlib.contextmanager
def _explained(model: nn.Module, images: Tensor, classes: Tensor | None) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """The classifier in evaluation mode, inputs that take a gradient, and their classes; afterwards all as before."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    inner = unwrap(model)
    second = inner.model if isinstance(inner, LogitsView) else inner
    view = LogitsView(inner, mask_gradients=False) if isinstance(inner, AIM) else inner
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating tensor of shape (N, C, H, W), got {came}")
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images must be of shape (N, C, H, W), N at least 1, got {tuple(images.shape)}")
    if isinstance(second, SecondLook):
        images, view = second.cut_out(images, *second.look(images)[1:3]), LogitsView(second)
        view.on_cut_outs = True  # with maps on one grid, to multiply them with
        if isinstance(inner, LogitsView):
            view.cam_layer = inner.cam_layer  # which the user may have passed as the layer
    with evaluating(view), torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU activations", UserWarning)  # captum
        inputs = images.detach().clone().requires_grad_()
        if (logits := logits_in(view(inputs[:1].clone()))) is not None:
            check_logits(logits, "model", "Sigmoid|Softmax|LogSoftmax")
        copied = view.register_forward_pre_hook(lambda _, given: given[0].clone())  # which the model may overwrite
        with copied, view.register_forward_hook(lambda *called: _both_sides_in(called[-1])):
            with torch.no_grad():
                targets = _targets(classes, view(inputs), len(images))
            yield view, inputs, targets


def _both_sides_in(output: object) -> object:
    logits = logits_in(output)
    return output if logits is None or logits.ndim != 2 else both_sides(logits, 1)


def _targets(classes: Tensor | None, logits: object, images: int) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != images:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"model must return logits of shape ({images}, K), got {came}; wrap it in a module that picks them out"
        )
    if classes is None:
        classes = predicted_classes(logits)
        if (none := classes < 0).any():
            which = none.nonzero()[:, 0].tolist()
            raise ValueError(f"the logits of images {which} are not finite, and predict no class; leave them out")
    return class_numbers(classes, images, logits.shape[1], logits.device)


def _hooked(view: nn.Module, layer: nn.Module | str | None, inputs: Tensor) -> nn.Module:
    """The layer to hook, which gives one map per forward."""
    chosen = chosen_layer(view, layer, inputs[:1])
    with torch.no_grad(), calls_of([chosen]) as calls:
        view(inputs[:1])
    outputs, kind = [output for _, output in calls[chosen]], type(chosen).__name__
    if not outputs:
        raise ValueError(
            f"layer ({kind}) is not called in a forward; choose another. Of an AIM's backbone, only the innermost "
            "modules are called, not the blocks around them"
        )
    if len(outputs) > 1:
        raise ValueError(
            f"layer ({kind}) is called {len(outputs)} times in a forward, so it does not give one map; choose a module "
            "that is called once"
        )
    if not isinstance(outputs[0], Tensor) or outputs[0].ndim != 4:
        came = tuple(outputs[0].shape) if isinstance(outputs[0], Tensor) else type(outputs[0]).__name__
        raise ValueError(f"layer ({kind}) gives {came}, not an (N, D, h, w) map; choose another")
    return chosen


def _check_guidance(function: str, view: nn.Module, inputs: Tensor, partial: bool) -> None:
    guided, missed = guidance_of(view, inputs[:1])
    if guided == 0:
        raise ValueError(
            f"{function} needs nn.ReLU modules, which captum hooks, between the images and the logits; "
            f"{type(view).__name__} has none there ({missed or 'no activation at all'}), so the result would be the "
            "plain gradient. Use grad_cam or score_cam, or captum.attr.Saliency for that gradient under its own name"
        )
    if not missed:
        return
    finding = (
        f"captum guides nn.ReLU modules only: {guided} of them between the images and the logits, but not {missed}"
    )
    if not partial:
        raise ValueError(
            f"{function} would be guided only in part. {finding}. Use grad_cam or score_cam, which need no ReLU, "
            "or pass partial=True to accept it"
        )
    warnings.warn(f"{function} is guided only in part. {finding}", stacklevel=3)
