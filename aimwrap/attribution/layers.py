"""Which module of a classifier gives the map that it pools: the layer that class activation maps are made of."""

from __future__ import annotations

from torch import Tensor, nn

from ..model import AIM
from ..taps.copies import traceable_shadow_of
from ..taps.graph import GraphNames
from ..taps.probe import CallSite, Probe, probe
from ..taps.stages import find_stages
from .view import LogitsView, without_wrappers

_WAY_OUT = "Pass layer=, a module or its name"


def cam_layer_of(model: nn.Module, example_input: Tensor | None = None) -> nn.Module:
    """Find the module whose output is a classifier's last feature map, before global pooling.

    Args:
        model: a CNN classifier, or a :class:`LogitsView`. It is only read.
        example_input: images (N, C, H, W) as the model takes them, where its own record of them will not do.

    Returns:
        The module, to hook. Its output includes a head convolution (EfficientNet, MobileNet) and the last activation.

    Raises:
        TypeError: if the model is an AIM, whose map is no module's output; its view's ``cam_layer`` is it.
        ValueError: if the model cannot be run, or if no module's output is that map; the message names candidates.

    Example:
        >>> import torchvision
        >>> model = torchvision.models.resnet18()
        >>> cam_layer_of(model) is model.layer4
        True
    """
    model = without_wrappers(model)
    if isinstance(model, LogitsView):
        return model.cam_layer
    if isinstance(model, AIM):
        raise TypeError("an AIM's classified map is no module's output; use LogitsView(model), whose cam_layer it is")
    measured = probe(model, example_input)
    found = find_stages(model, measured)
    name = type(model).__name__
    if found.final is None:
        reason = found.obstacle or "no module gives an (N, C, H, W) map at stride 4 or more"
        raise ValueError(f"{name} has no last feature map to be found: {reason}. {_WAY_OUT}{_candidates(measured)}")
    if not isinstance(found.final, CallSite):
        raise ValueError(f"the last feature map of {name} is no module's output: timm makes it of tokens. {_WAY_OUT}")
    obstacle = _behind(model, measured, found.final)
    if obstacle is not None:
        raise ValueError(
            f"the last feature map of {name} is no module's output: {obstacle}. {_WAY_OUT}, for a map before it"
            f"{_candidates(measured)}; or write the function as a module"
        )
    if any(call.channels_last for call in measured.root.calls() if call.name == found.final.node):
        raise ValueError(
            f"the last feature map of {name}, by {found.final.node!r}, is laid out as (N, H, W, C), which class "
            f"activation maps would misread. {_WAY_OUT}, whose output is (N, C, H, W), or wrap the model in AIM, "
            "which permutes it"
        )
    layer: nn.Module = model.get_submodule(found.final.node)
    return layer


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


def _behind(model: nn.Module, measured: Probe, place: CallSite) -> str | None:
    """What stands between the module's last output and the pooled map, if anything does."""
    if place.calls > 1 and place.call + 1 < place.calls:
        return f"{place.node!r} is called {place.calls} times, and call {place.call + 1} makes it"
    try:
        names = GraphNames(traceable_shadow_of(model, measured.mode))
    except ValueError:
        return None  # what cannot be traced cannot be searched for functions, either
    (_, module_only), _ = names.resolve(place)
    (_, with_function), _ = names.resolve(place, following_activation=True)
    return None if module_only == with_function else f"the function {with_function!r} follows {place.node!r}"


def _candidates(measured: Probe, limit: int = 6) -> str:
    shapes = {
        call.name: call.output_shape
        for call in measured.root.calls()
        if call.name and call.output_shape is not None and len(call.output_shape) == 4 and call.output_shape[2] > 1
    }
    last = list(shapes.items())[-limit:]
    listed = ", ".join(f"{name!r} ({'x'.join(map(str, shape[1:]))})" for name, shape in last)
    return f"; its last ones with 4-D output: {listed}" if listed else ""
