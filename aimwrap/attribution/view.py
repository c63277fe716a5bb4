"""AIM as a plain classifier with a module to hook, and the module to hook in other classifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._wrappers import unwrap
from ..analysis.readout import evaluating
from ..model import AIM
from ..second_look import SecondLook
from ..taps.copies import traceable_shadow_of
from ..taps.graph import GraphError, GraphNames
from ..taps.hooks import safe_watch_for
from ..taps.probe import CallSite, Probe, probe
from ..taps.stages import find_stages
from ..top_down import pool

_WAY_OUT = "Pass layer=, a module or its name"


class LogitsView(nn.Module):
    """Show AIM, or a second look, as a plain classifier: images in, logits out, and a layer for libraries to hook.

    It shares the model, parameters and mode included, and adds nothing to it: ``view.eval()`` is ``model.eval()``. Its
    logits are the model's own, to the bit.

    Args:
        model: what to show, also inside ``torch.compile`` or ``DistributedDataParallel``.
        mask_gradients: whether gradients also run through the masks, on the straight-through path that they are trained
            on. The masks are steps, whose own gradient is zero: False holds them, and what remains is the derivative of
            the logits proper. Logits, and everything up to ``cam_layer``, do not depend on it. The masks of a second
            look are held in any case.

    Attributes:
        cam_layer: the module whose output is the map that the final classifier averages, (N, D, H, W), zero outside
            the merged mask. Of a second look it is the map of the enlarged box, and so is every CAM:
            :func:`aimwrap.second_look.on_the_image` places it.

    Raises:
        TypeError: if the model is neither.

    Example:
        >>> import torch, torchvision
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3]).eval()
        >>> view, images = LogitsView(model), torch.randn(2, 3, 64, 64)
        >>> torch.allclose(view(images), model(images).logits, atol=1e-5)
        True
        >>> handle = view.cam_layer.register_forward_hook(lambda layer, inputs, output: print(tuple(output.shape)))
        >>> _ = view(images)
        (2, 512, 4, 4)
    """

    def __init__(self, model: nn.Module, *, mask_gradients: bool = True) -> None:
        super().__init__()
        inner = unwrap(model)
        if not isinstance(inner, AIM | SecondLook):
            raise TypeError(
                f"model must be an AIM or a SecondLook, got {type(model).__name__}; a plain classifier needs no view, "
                "and cam_layer_of finds its layer"
            )
        self.model = inner
        self.mask_gradients = mask_gradients
        self.cam_layer = nn.Identity()
        self.on_cut_outs = False  # whether images are what SecondLook.cut_out gives
        self.training = self.cam_layer.training = inner.training

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: (N, C, H, W), as the model takes them.

        Returns:
            Logits, (N, K).
        """
        if isinstance(self.model, SecondLook):
            if not self.on_cut_outs:
                images = self.model.cut_out(images, *self.model.look(images)[1:3])
            with evaluating(self.model):
                pooled = self._hooked(self.model.final_map(images)).mean((2, 3))
        else:
            maps = self.model.forward_backbone(images)
            masks = None
            if not self.mask_gradients:
                with torch.no_grad():
                    masks = self.model.forward_masks(maps).masks
            features = self.model.forward_masks(maps, masks)
            pooled = pool(self._hooked(features.fused), features.merged_mask, self.model.pooling)
        logits: Tensor = self.model.classifier(pooled)
        return logits

    def _hooked(self, fused: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not fused.requires_grad:
            fused = fused.detach().requires_grad_()  # as libraries need it where all before it is frozen
        hooked: Tensor = self.cam_layer(fused)
        return hooked

    def extra_repr(self) -> str:
        """Whether gradients run through the masks."""
        return f"mask_gradients={self.mask_gradients}"


def cam_layer_of(model: nn.Module, example_input: Tensor | None = None) -> nn.Module:
    """Find the module whose output is a classifier's last feature map, before global pooling.

    Args:
        model: a CNN classifier, or a :class:`LogitsView`. It is only read.
        example_input: images (N, C, H, W) as the model takes them, where its own record of them is not enough.

    Returns:
        The module, to hook. Its output includes a head convolution (EfficientNet, MobileNet) and the last activation.

    Raises:
        TypeError: if the model is an AIM, whose map is not the output of a module; use the ``cam_layer`` of its view.
        ValueError: if the model cannot be run, or if no module's output is that map; the message names candidates.

    Example:
        >>> import torchvision
        >>> model = torchvision.models.resnet18()
        >>> cam_layer_of(model) is model.layer4
        True
    """
    model = unwrap(model)
    if isinstance(model, LogitsView):
        return model.cam_layer
    if isinstance(model, AIM | SecondLook):
        name = type(model).__name__
        raise TypeError(f"the classified map of {name} is not the output of a module; use LogitsView(model).cam_layer")
    held = next((name for name, part in model.named_modules() if isinstance(part, AIM | SecondLook | LogitsView)), None)
    if held is not None:  # the last map that is the output of a module is one of its mask estimators'
        raise TypeError(
            f"model has a part, model.{held}, of the class {type(model.get_submodule(held)).__name__}, whose "
            "classified map is not a module's output; pass that part itself to grad_cam and its neighbours"
        )
    measured = probe(model, example_input)
    found = find_stages(model, measured)
    name = type(model).__name__
    if found.final is None:
        reason = found.obstacle or "no module gives an (N, C, H, W) map at stride 4 or more"
        raise ValueError(
            f"{name} has no last feature map that can be found: {reason}. {_WAY_OUT}{_candidates(measured)}"
        )
    if not isinstance(found.final, CallSite):
        raise ValueError(
            f"the last feature map of {name} is not the output of a module: timm makes it from tokens. {_WAY_OUT}"
        )
    obstacle = _step_after(model, measured, found.final)
    if obstacle is not None:
        raise ValueError(
            f"the last feature map of {name} is not the output of a module: {obstacle}. {_WAY_OUT}, for a map before it"
            f"{_candidates(measured)}; or write the function as a module"
        )
    if any(call.channels_last for call in measured.root.calls() if call.name == found.final.node):
        raise ValueError(
            f"the last feature map of {name}, by {found.final.node!r}, is laid out as (N, H, W, C), which class "
            f"activation maps would misread. {_WAY_OUT}, whose output is (N, C, H, W), or wrap the model in AIM, "
            "which permutes it"
        )
    return model.get_submodule(found.final.node)


def chosen_layer(model: nn.Module, layer: nn.Module | str | None, example_input: Tensor) -> nn.Module:
    """The layer that a user named or gave, or the one found."""
    if layer is None:
        return cam_layer_of(model, example_input)
    if isinstance(layer, str):
        modules: dict[str, nn.Module] = dict(model.named_modules())
        if isinstance(model, LogitsView):
            modules |= dict(model.model.named_modules())  # the user knows these names
        if layer not in modules:
            raise ValueError(
                f"layer: {type(model).__name__} has no module {layer!r}{_candidates(probe(model, example_input))}"
            )
        return modules[layer]
    if not isinstance(layer, nn.Module):
        raise TypeError(f"layer must be a module or its name, got {type(layer).__name__}")
    if not any(layer is module for module in model.modules()):
        raise ValueError(f"layer must be a module of the model, got a {type(layer).__name__} that is not part of it")
    return layer


def _step_after(model: nn.Module, measured: Probe, place: CallSite) -> str | None:
    """The step between the module's last output and the pooled map, if there is one."""
    if place.calls > 1 and place.call + 1 < place.calls:
        return f"{place.node!r} is called {place.calls} times, and call {place.call + 1} makes it"
    try:
        names = GraphNames(traceable_shadow_of(model, measured.mode))
    except GraphError:
        try:
            function = safe_watch_for(place, measured, following_activation=True).activation
        except ValueError as error:
            return str(error).partition(", and hooks")[0]
        return None if function is None else f"the function {function.name!r} follows {place.node!r}"
    (_, module_only), _ = names.resolve(place)
    (_, with_function), _ = names.resolve(place, following_activation=True)
    return None if module_only == with_function else f"the function {with_function!r} follows {place.node!r}"


def _candidates(measured: Probe, limit: int = 6) -> str:
    shapes = {
        call.name: call.output_shape
        for call in measured.root.calls()
        if call.name and len(call.output_shape) == 4 and call.output_shape[2] > 1
    }
    last = list(shapes.items())[-limit:]
    listed = ", ".join(f"{name!r} ({'x'.join(map(str, shape[1:]))})" for name, shape in last)
    return f"; its last ones with 4-D output: {listed}" if listed else ""
