"""From targets to a program that computes them, checked: by graph where that works, else by the backbone's own code.

A graph is the first choice: it can be pruned, compiled and exported. It is held against what the modules themselves
give, by shape on fake tensors in both modes, and once by value on the backbone's own parameters. Where it cannot be
traced, does not run or gives something else, hooks on the modules take its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from .backbone import Program, TappedBackbone
from .graph import GraphNames, GraphProgram
from .layout import Layout, Shape, map_shape
from .probe import Place, Probe, tensors_in
from .shadow import quiet_fakes, shadow_of, traceable_shadow_of, twin_of
from .stages import Intermediate, Target
from .whole import LAST, HookProgram, IntermediatesProgram, WholeProgram, watch_for

FINAL = "final map"  # its name beside the stages' maps; no node can have it


@dataclass(frozen=True)
class Extraction:
    """A program and what it gives.

    Attributes:
        program: computes the outputs.
        layouts: how each becomes a map.
        shapes: of the maps, (1, C, H, W), for one of the probed images.
        labels: what to call the nodes.
        order: the outputs' names in the order in which a forward makes them.
        positions: the moment at which it makes each; two outputs may be the same tensor.
    """

    program: Program
    layouts: dict[str, Layout]
    shapes: dict[str, Shape]
    labels: dict[str, str]
    positions: dict[str, int]

    @property
    def order(self) -> list[str]:
        """The outputs' names in the order in which a forward makes them."""
        return sorted(self.positions, key=lambda name: (self.positions[name], name == FINAL))

    def is_behind(self, name: str, other: str) -> bool:
        """Whether one output is made later than another."""
        return self.positions[name] > self.positions[other]


def extract(model: nn.Module, measured: Probe, targets: dict[str, Target], numbered: frozenset[str]) -> Extraction:
    """Find a program for the targets.

    Args:
        model: the backbone; it is only read.
        measured: its probe.
        targets: whose outputs are wanted, by name.
        numbered: those that the user did not name himself: a functional activation right behind them is theirs.

    Raises:
        ValueError: if a target is no map, or neither way of extraction gives it.
    """
    own = {name: target for name, target in targets.items() if isinstance(target, Intermediate)}
    if own:
        return _by_intermediates(model, measured, own)
    places = {name: target for name, target in targets.items() if isinstance(target, Place)}
    are_modules = all(measured.call_at(place) is not None for place in places.values())
    if are_modules and _checkpoints(model):  # a graph would hold what is to be computed anew
        return _by_hooks(model, measured, places, numbered)
    try:
        return _by_graph(model, measured, places, numbered)
    except GraphError as failure:
        if not are_modules:
            raise ValueError(str(failure)) from failure
        try:
            return _by_hooks(model, measured, places, numbered)
        except ValueError as error:
            more = "" if str(error) == str(failure) else f"\nNor can hooks take the graph's place: {error}"
            raise ValueError(f"{failure}{more}") from failure


class GraphError(ValueError):
    """The graph cannot be had, or gives something else than the modules do."""


def _by_graph(model: nn.Module, measured: Probe, places: dict[str, Place], numbered: frozenset[str]) -> Extraction:
    shadow = traceable_shadow_of(model, measured.mode)
    try:
        names = GraphNames(shadow)
    except ValueError as error:
        raise GraphError(str(error)) from error
    resolved = {name: names.resolve(place, following_activation=name in numbered) for name, place in places.items()}
    nodes = {name: pair for name, (pair, _) in resolved.items()}
    labels = {name: label for name, (_, label) in resolved.items()}
    program = GraphProgram.traced(model, shadow, nodes)
    layouts, shapes = _measure(program, measured, labels)
    for name, place in places.items():
        call = measured.call_at(place)
        seen = call.output_shape if call is not None else None
        if seen is not None and len(seen) == 4 and seen != shapes[name]:
            raise GraphError(
                f"stages: tapping {labels[name]!r} through the graph gives {shapes[name]}, but the module gives "
                f"{seen}; name a graph node instead (torchvision's get_graph_node_names lists them)"
            )
    _check_values(model, measured, program, places, labels)
    positions = {name: names.eval.index(pair[1]) for name, pair in nodes.items()}
    return Extraction(program, layouts, shapes, labels, positions)


def _by_hooks(model: nn.Module, measured: Probe, places: dict[str, Place], numbered: frozenset[str]) -> Extraction:
    watches = {name: watch_for(place, measured, name in numbered) for name, place in places.items()}
    program = HookProgram(type(model).__name__, watches)
    program.measure_usage(model, measured.image_shape)
    labels = {
        n: w.place.node if w.activation is None else f"{w.place.node} + {w.activation}" for n, w in watches.items()
    }
    layouts, shapes = _measure(program, measured, labels)
    calls = list(measured.root.calls())
    # Calls are listed as they begin; the innermost one that ends last is where an output is made.
    ends = {id(call): max(calls.index(inner) for inner in call.calls()) for call in calls}
    positions = {}
    for name, watch in watches.items():
        call = measured.call_at(watch.place)
        assert call is not None
        positions[name] = ends[id(call)]
    return Extraction(program, layouts, shapes, labels, positions)


def _by_intermediates(model: nn.Module, measured: Probe, own: dict[str, Intermediate]) -> Extraction:
    program = IntermediatesProgram(type(model).__name__, {name: target.position for name, target in own.items()})
    program.measure_usage(model, measured.image_shape)
    labels = {name: target.node for name, target in own.items()}
    layouts, shapes = _measure(program, measured, labels)
    positions = {name: len(own) * 1000 if t.position == LAST else t.position for name, t in own.items()}
    return Extraction(program, layouts, shapes, labels, positions)


def _measure(program: Program, measured: Probe, labels: dict[str, str]) -> tuple[dict[str, Layout], dict[str, Shape]]:
    """Layouts and shapes from a fake run in evaluation, which a fake run in training has to agree with."""
    outputs = _fake_run(program, measured, training=False)
    layouts: dict[str, Layout] = {}
    for name, output in outputs.items():
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        layout = measured.layout(shape) if shape is not None else None
        if layout is None:
            came = type(output).__name__ if shape is None else shape
            raise GraphError(
                f"stages: node {labels[name]!r} gives {came}, not a (N, C, H, W) map or its tokens; name another node"
            )
        layouts[name] = layout
    shapes = {name: map_shape(tuple(outputs[name].shape), layouts[name]) for name in outputs}
    trained = _fake_run(program, measured, training=True)
    for name, output in trained.items():
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        if shape[1:] != tuple(outputs[name].shape)[1:]:
            raise GraphError(
                f"stages: node {labels[name]!r} gives {shape[1:]} in training, but {tuple(outputs[name].shape)[1:]} in "
                "evaluation; name another node"
            )
    return layouts, shapes


def _fake_run(program: Program, measured: Probe, training: bool) -> dict[str, Any]:
    shadow = shadow_of(measured.shadow, measured.mode).train(training)
    host = TappedBackbone(shadow, program, {}).train(training)
    images = measured.fake_images(batch_size=2 if training else 1)
    try:
        with torch.no_grad(), quiet_fakes(), measured.mode:
            return host._aimwrap_program.run(host, images)
    except Exception as error:
        raise GraphError(
            f"the backbone's {'training' if training else 'evaluation'} graph does not run: "
            f"{type(error).__name__}: {error}"
        ) from error


def _check_values(
    model: nn.Module, measured: Probe, program: Program, places: dict[str, Place], labels: dict[str, str]
) -> None:
    """Hold the graph's maps against the modules' own, once, on the backbone's parameters and made-up images."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in tensors):
        return
    compared = {name: place for name, place in places.items() if measured.call_at(place) is not None}
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    images = torch.rand(measured.image_shape, generator=torch.Generator().manual_seed(0)).to(like)
    twin = twin_of(model, own_buffers=True).eval()
    expected = _outputs_of_modules(twin, compared, images)
    host = TappedBackbone(twin, program, {}).eval()
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        given = host._aimwrap_program.run(host, images)
    for name, reference in expected.items():
        activation = labels[name].partition(" + ")[2]
        value = reference if not activation else _activated(reference, activation)
        if not _alike(value.float(), given[name].float()):
            raise GraphError(
                f"stages: tapping {labels[name]!r} through the graph gives other values than the module does; "
                "name a graph node instead (torchvision's get_graph_node_names lists them)"
            )


def _alike(value: Tensor, other: Tensor) -> bool:
    """Equal but for the order of sums; broken weights' infinities and NaNs count as equal, too."""
    scale = value.abs().nan_to_num(0, 0).amax().item() if value.numel() else 0.0
    return value.shape == other.shape and torch.allclose(value, other, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)


def _activated(value: Tensor, node: str) -> Tensor:
    function: Callable[[Tensor], Tensor] = getattr(F, node.rstrip("0123456789_"))
    return function(value)


def _outputs_of_modules(twin: nn.Module, places: dict[str, Place], images: Tensor) -> dict[str, Tensor]:
    """What the modules return in the model's own forward; nothing where they return no single map."""
    found: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def keep(node: str, output: Any) -> None:
        call = calls.get(node, 0)
        calls[node] = call + 1
        for name, place in places.items():
            if place.node == node and (place.calls == 0 or place.call == call):
                maps = (
                    [output] if isinstance(output, Tensor) else [t for t in tensors_in(output).values() if t.ndim == 4]
                )
                if len(maps) == 1:
                    found[name] = maps[0].clone()

    for node in {place.node for place in places.values()}:
        twin.get_submodule(node).register_forward_hook(lambda m, a, output, node=node: keep(node, output))
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        twin(images)
    return found


def _checkpoints(model: nn.Module) -> bool:
    """Whether gradient checkpointing is on, by the flags of timm and of Hugging Face's transformers."""
    flags = ("grad_checkpointing", "gradient_checkpointing", "memory_efficient")
    return any(getattr(module, flag, False) is True for module in model.modules() for flag in flags)


__all__ = ["FINAL", "Extraction", "WholeProgram", "extract"]
