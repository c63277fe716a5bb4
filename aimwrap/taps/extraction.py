"""From targets to a program that computes them, checked: by graph where that works, else by the backbone's own code.

A graph is the first choice: it can be pruned, compiled and exported. It is held against what the modules themselves
give, by shape on fake tensors in both modes, and once by value on the backbone's own parameters. Where it cannot be
traced, does not run or gives something else, hooks on the modules take its place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from .backbone import Program, TappedBackbone
from .graph import GraphNames, GraphProgram
from .layout import Layout, Shape, map_shape
from .probe import Place, Probe, tensors_in
from .shadow import hooks_of, quiet_fakes, shadow_of, traceable_shadow_of, twin_of, unmoved_generators
from .stages import Intermediate, Target
from .whole import LAST, HookProgram, IntermediatesProgram, safe_watch_for, training_of, watch_for

FINAL = "final map"  # its name beside the stages' maps; no node can have it


@dataclass(frozen=True)
class Extraction:
    """A program and what it gives.

    Attributes:
        program: computes the outputs.
        layouts: how each becomes a map.
        shapes: of the maps, (1, C, H, W), for one of the probed images.
        labels: what to call the nodes.
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


Readers = Mapping[Place, Place | None]


def extract(
    model: nn.Module,
    measured: Probe,
    targets: dict[str, Target],
    numbered: frozenset[str],
    readers: Readers | None = None,
) -> Extraction:
    """Find a program for the targets.

    Args:
        model: the backbone; it is only read.
        measured: its probe.
        targets: whose outputs are wanted, by name.
        numbered: those that the user did not name: a functional activation right behind them is theirs.
        readers: for places among the numbered, the place that reads their maps: all functions between are theirs.

    Raises:
        ValueError: if a target is no map, or neither way of extraction gives it.
    """
    own = {name: target for name, target in targets.items() if isinstance(target, Intermediate)}
    if own:
        return _by_intermediates(model, measured, own)
    places = {name: target for name, target in targets.items() if isinstance(target, Place)}
    behind = {name: (readers or {})[p] for name, p in places.items() if name in numbered and p in (readers or {})}
    are_modules = all(measured.call_at(place) is not None for place in places.values())
    lost = _what_a_graph_would_lose(model, measured) if are_modules else None
    if lost is not None:
        try:
            return _by_hooks(model, measured, places, numbered, behind)
        except ValueError as error:
            warnings.warn(f"{type(model).__name__} is tapped through a graph, without {lost}: {error}", stacklevel=2)
    try:
        return _by_graph(model, measured, places, numbered, behind)
    except GraphError as failure:
        if not are_modules:
            raise ValueError(str(failure)) from failure
        try:
            return _by_hooks(model, measured, places, numbered, behind)
        except ValueError as error:
            more = "" if str(error) == str(failure) else f"\nNor can hooks take the graph's place: {error}"
            raise ValueError(f"{failure}{more}") from failure


class GraphError(ValueError):
    """The graph cannot be had, or gives something else than the modules do."""


def _by_graph(
    model: nn.Module,
    measured: Probe,
    places: dict[str, Place],
    numbered: frozenset[str],
    behind: dict[str, Place | None],
) -> Extraction:
    shadow = traceable_shadow_of(model, measured.mode)
    try:
        names = GraphNames(shadow)
    except ValueError as error:
        raise GraphError(str(error)) from error
    resolved = {name: names.resolve(place, following_activation=name in numbered) for name, place in places.items()}
    nodes = {name: pair for name, (pair, _) in resolved.items()}
    labels = {name: label for name, (_, label) in resolved.items()}
    for name, reader in behind.items():
        pair = _last_map_between(names, places[name], reader, model, measured)
        if pair is not None and pair != nodes[name]:
            nodes[name], labels[name] = pair, f"{places[name].node} + {pair[1]}"
    program = GraphProgram.traced(model, shadow, nodes)
    layouts, shapes = _measure(program, measured, labels)
    for name, place in places.items():
        call = measured.call_at(place)
        seen = call.output_shape if call is not None else None
        if seen is not None and len(seen) == 4 and seen != shapes[name] and " + " not in labels[name]:
            raise GraphError(
                f"stages: tapping {labels[name]!r} through the graph gives {shapes[name]}, but the module gives "
                f"{seen}; name a graph node instead (torchvision's get_graph_node_names lists them)"
            )
    told = {name: place for name, place in places.items() if nodes[name] == resolved[name][0]}  # by the module's output
    _check_values(model, measured, program, layouts, labels, told, behind)
    _check_training(model, measured, program, told)
    positions = {name: names.eval.index(pair[1]) for name, pair in nodes.items()}
    return Extraction(program, layouts, shapes, labels, positions)


def _by_hooks(
    model: nn.Module,
    measured: Probe,
    places: dict[str, Place],
    numbered: frozenset[str],
    behind: dict[str, Place | None],
) -> Extraction:
    watches = {name: safe_watch_for(place, measured, name in numbered) for name, place in places.items()}
    program = HookProgram(type(model).__name__, watches)
    program.measure_usage(model, measured.image_shape)
    labels = {
        n: w.place.node if w.activation is None else f"{w.place.node} + {w.activation}" for n, w in watches.items()
    }
    layouts, shapes = _measure(program, measured, labels)
    _check_values(model, measured, program, layouts, labels, {}, behind)
    calls = list(measured.root.calls())
    # Calls are listed as they begin; the innermost one that ends last is where an output is made.
    ends = {id(call): max(calls.index(inner) for inner in call.calls()) for call in calls}
    positions = {}
    for name, watch in watches.items():
        call = measured.call_at(watch.place)
        assert call is not None
        positions[name] = ends[id(call)]
    return Extraction(program, layouts, shapes, labels, positions)


def _last_map_between(
    names: GraphNames, place: Place, reader: Place | None, model: nn.Module, measured: Probe
) -> tuple[str, str] | None:
    """The last function between a stage and its reader that makes a map of the stage's size; None if there is none."""
    call = measured.call_at(place)
    shape = call.output_shape if call is not None else None
    if shape is None or len(shape) != 4 or shape[2] * shape[3] == 1:
        return None
    called = {other.name for other in measured.root.calls()}
    train, evaluated = names.functions_between(place, reader, called)
    chosen = []
    for mode, candidates in ((True, train), (False, evaluated)):
        if not candidates:
            return None
        pairs = {n: (n if mode else names.train[0], n if not mode else names.eval[0]) for n in candidates}
        program = GraphProgram.traced(model, traceable_shadow_of(model, measured.mode), pairs)
        (outputs,) = _fake_runs(program, measured, mode)
        same = [n for n in candidates if _is_map_of_size(outputs[n], shape[2:], measured)]
        if not same:
            return None
        chosen.append(same[-1])
    return chosen[0], chosen[1]


def _is_map_of_size(output: Any, size: Shape, measured: Probe) -> bool:
    if not isinstance(output, Tensor) or output.ndim != 4:
        return False
    layout = measured.layout(tuple(output.shape))
    return layout is not None and map_shape(tuple(output.shape), layout)[2:] == size


def _by_intermediates(model: nn.Module, measured: Probe, own: dict[str, Intermediate]) -> Extraction:
    program = IntermediatesProgram(type(model).__name__, {name: target.position for name, target in own.items()})
    program.measure_usage(model, measured.image_shape)
    labels = {name: target.node for name, target in own.items()}
    layouts, shapes = _measure(program, measured, labels)
    positions = {name: len(own) * 1000 if t.position == LAST else t.position for name, t in own.items()}
    return Extraction(program, layouts, shapes, labels, positions)


def _measure(program: Program, measured: Probe, labels: dict[str, str]) -> tuple[dict[str, Layout], dict[str, Shape]]:
    """Layouts and shapes from a fake run in evaluation, which a fake run in training has to agree with."""
    outputs, trained = _fake_runs(program, measured, False, True)
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
    for name, output in trained.items():
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        if shape[1:] != tuple(outputs[name].shape)[1:]:
            raise GraphError(
                f"stages: node {labels[name]!r} gives {shape[1:]} in training, but {tuple(outputs[name].shape)[1:]} in "
                "evaluation; name another node"
            )
    return layouts, shapes


def _fake_runs(program: Program, measured: Probe, *modes: bool) -> list[dict[str, Any]]:
    """The outputs on fake tensors, in evaluation (False) or in training (True), each as asked for."""
    host = TappedBackbone(shadow_of(measured.shadow, measured.mode), program, {})
    runs = []
    for training in modes:
        host.train(training)
        try:
            with torch.no_grad(), quiet_fakes(), measured.mode:
                runs.append(host._aimwrap_program.run(host, measured.fake_images(batch_size=2 if training else 1)))
        except Exception as error:  # whatever a stranger's forward raises
            raise GraphError(
                f"the backbone's {'training' if training else 'evaluation'} graph does not run: "
                f"{type(error).__name__}: {error}"
            ) from error
    return runs


def _check_values(
    model: nn.Module,
    measured: Probe,
    program: Program,
    layouts: dict[str, Layout],
    labels: dict[str, str],
    told: dict[str, Place],
    behind: dict[str, Place | None],
) -> None:
    """Hold the outputs against the model's own forward, once, on the backbone's parameters and made-up images.

    Args:
        model: the backbone; it is only read.
        measured: its probe.
        program: computes the outputs.
        layouts: how each becomes a map.
        labels: what to call their nodes.
        told: whose output a module's own tells.
        behind: the place that reads each map that a number stands for.

    Raises:
        GraphError: if an output is not what its module returns.
        ValueError: if the next module reads another map of that size: the number would be a branch, not the trunk.
    """
    modules = {name: place for name, place in told.items() if measured.call_at(place) is not None}
    readers = {name: reader for name, reader in behind.items() if reader is not None}
    tensors = [*model.parameters(), *model.buffers()]
    if not (modules or readers) or any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in tensors):
        return
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    images = torch.rand(measured.image_shape, generator=torch.Generator().manual_seed(0)).to(like)
    twin = twin_of(model, own_buffers=True).eval()
    host = TappedBackbone(twin, program, layouts).eval()
    try:
        with torch.no_grad(), _same_draws(like.device):
            returned, received = _own_maps(twin, modules, readers, images)
    except Exception as error:  # it has run on fake tensors of this shape
        raise ValueError(
            f"the backbone {type(model).__name__} does not run on real images {measured.image_shape} although it "
            f"has on fake ones: {type(error).__name__}: {error}\nIf it keeps tensors outside of its modules, in a "
            "dict or by functools.lru_cache, they are fake ones now: clear them, and run the backbone once on real "
            "images of this shape before wrapping it"
        ) from error
    with torch.no_grad(), _same_draws(like.device):
        given = host._aimwrap_program.run(host, images)
    for name, value in returned.items():
        activation = labels[name].partition(" + ")[2]
        reference = value if not activation else _activated(value, activation)
        if not _alike(reference.float(), given[name].float()):
            raise GraphError(
                f"stages: tapping {labels[name]!r} through the graph gives other values than the module does; "
                "name a graph node instead (torchvision's get_graph_node_names lists them)"
            )
    for name, value in received.items():
        layout = measured.layout(tuple(value.shape))
        read = layout.to_map(value, images) if layout is not None and value.ndim == 4 else None
        made = layouts[name].to_map(given[name], images)
        if read is not None and read.shape[2:] == made.shape[2:] and not _alike(read.float(), made.float()):
            raise ValueError(
                f"stage {name!r} was taken to be {labels[name]!r}, but {readers[name].node!r} reads another map: a "
                "branch or a function stands between them. Name the module, or the node of the graph, whose map it "
                "reads (torchvision's get_graph_node_names lists them)"
            )


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    """The same random numbers every time, and none of the user's."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []), unmoved_generators():
        torch.manual_seed(0)
        yield


def _own_maps(
    twin: nn.Module, modules: dict[str, Place], readers: dict[str, Place], images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What modules return, where it is one map, and what readers receive, in one run of the model's own forward."""
    returned: dict[str, Tensor] = {}
    received: dict[str, Tensor] = {}

    def keep(into: dict[str, Tensor], places: dict[str, Place], node: str, calls: list[None], value: Any) -> None:
        maps = [value] if isinstance(value, Tensor) else [t for t in tensors_in(value).values() if t.ndim == 4]
        for name, place in places.items():
            if place.node == node and (place.calls == 0 or place.call == len(calls)) and len(maps) == 1:
                into[name] = maps[0].clone()
        calls.append(None)

    for node in {place.node for place in modules.values()}:
        returns = partial(keep, returned, modules, node, [])
        twin.get_submodule(node).register_forward_hook(lambda m, a, output, returns=returns: returns(output))
    for node in {place.node for place in readers.values()}:
        receives = partial(keep, received, readers, node, [])
        twin.get_submodule(node).register_forward_pre_hook(
            lambda m, a, receives=receives: receives(a[0] if a and isinstance(a[0], Tensor) else ())
        )
    twin(images)
    return returned, received


def _check_training(model: nn.Module, measured: Probe, program: GraphProgram, places: dict[str, Place]) -> None:
    """Hold what training the graph would do against what training the model's own code does, on fake tensors.

    Tracing drops what it does not see: ``torch.no_grad()``, updates of buffers, the backward of one's own functions.

    Raises:
        GraphError: if gradients reach other parameters, other buffers move, or a backward of the model's own is lost.
    """
    modules = {name: place for name, place in places.items() if measured.call_at(place) is not None}
    if not modules:
        return
    hooks = HookProgram("", {name: watch_for(place, measured) for name, place in modules.items()})
    own = training_of(hooks, model, measured.image_shape)
    traced = training_of(program, model, measured.image_shape, list(modules))
    if own is None or traced is None:
        return  # it cannot be trained on fake tensors, so nothing can be said
    differing = own.reached ^ traced.reached
    if differing:
        raise GraphError(f"gradients through the graph do not reach what the model's do: {sorted(differing)[:4]}")
    lost = own.updated - traced.updated  # the graph may go on to deeper maps than these
    if lost:
        raise GraphError(f"the graph does not update what the model updates in training: {sorted(lost)[:4]}")
    if own.custom_backward:
        raise GraphError(f"the model has a backward of its own, {own.custom_backward}, which a graph would lose")


def _alike(value: Tensor, other: Tensor) -> bool:
    """Equal but for the order of sums; broken weights' infinities and NaNs count as equal, too."""
    scale = value.abs().nan_to_num(0, 0).amax().item() if value.numel() else 0.0
    return value.shape == other.shape and torch.allclose(value, other, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)


def _activated(value: Tensor, node: str) -> Tensor:
    function: Callable[[Tensor], Tensor] = getattr(F, node.rpartition(".")[2].rstrip("0123456789_"))
    return function(value)


def _what_a_graph_would_lose(model: nn.Module, measured: Probe) -> str | None:
    """What the model does beside computing its maps, or None."""
    if _checkpoints(model):
        return "its gradient checkpointing"
    if _has_hooks_inside(model):
        return "the hooks on its modules"
    if _switches_itself(measured):
        return "its own train()"
    return None


def _checkpoints(model: nn.Module) -> bool:
    """Whether gradient checkpointing is on, by the flags of timm and of Hugging Face's transformers.

    A graph would keep what is to be computed anew.
    """
    flags = ("grad_checkpointing", "gradient_checkpointing", "memory_efficient")
    return any(getattr(module, flag, False) is True for module in model.modules() for flag in flags)


def _has_hooks_inside(model: nn.Module) -> bool:
    """Whether somebody put hooks on modules of which a graph would be left with the inside only."""
    return any(hooks_of(module) for module in model.modules() if any(True for _ in module.children()))


def _switches_itself(measured: Probe) -> bool:
    """Whether the model's own ``train`` leaves modules as they are, as where a frozen BatchNorm is written so."""
    flags = [(m.training, mode) for mode in (True, False) for m in measured.shadow.train(mode).modules()]
    return any(flag is not mode for flag, mode in flags)
