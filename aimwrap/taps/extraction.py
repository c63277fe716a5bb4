"""From targets to a program that computes them: by graph where that works, else by the backbone's own code.

A graph is the first choice: it can be pruned, compiled and exported. It is held against what the modules themselves
give (:mod:`.checks`). Where it cannot be traced, does not run, gives something else or would lose something that the
model does beside computing, hooks on the modules take its place.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .backbone import Program
from .copies import switched, traceable_shadow_of
from .equivalence import GraphError, check_training, check_values, fake_runs, measure
from .graph import GraphNames, GraphProgram
from .hooks import HookProgram, is_called_otherwise, safe_watch_for
from .intermediates import LAST, IntermediatesProgram
from .layout import Layout, Shape, map_shape
from .probe import CallSite, Probe
from .stages import Intermediate, Target

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


Readers = Mapping[CallSite, CallSite | None]


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
    places = {name: target for name, target in targets.items() if isinstance(target, CallSite)}
    behind = {name: (readers or {})[p] for name, p in places.items() if name in numbered and p in (readers or {})}
    are_modules = all(measured.call_at(place) is not None for place in places.values())
    lost = _what_a_graph_would_lose(model, measured)
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


def _by_graph(
    model: nn.Module,
    measured: Probe,
    places: dict[str, CallSite],
    numbered: frozenset[str],
    behind: dict[str, CallSite | None],
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
    layouts, shapes = measure(program, measured, labels)
    for name, place in places.items():
        call = measured.call_at(place)
        seen = call.output_shape if call is not None else None
        if seen is not None and len(seen) == 4 and seen != shapes[name] and " + " not in labels[name]:
            raise GraphError(
                f"stages: tapping {labels[name]!r} through the graph gives {shapes[name]}, but the module gives "
                f"{seen}; name a graph node instead (torchvision's get_graph_node_names lists them)"
            )
    told = {name: place for name, place in places.items() if nodes[name] == resolved[name][0]}  # by the module's output
    check_values(model, measured, program, layouts, labels, told, behind)
    check_training(model, measured, program, told)
    positions = {name: names.eval.index(pair[1]) for name, pair in nodes.items()}
    return Extraction(program, layouts, shapes, labels, positions)


def _by_hooks(
    model: nn.Module,
    measured: Probe,
    places: dict[str, CallSite],
    numbered: frozenset[str],
    behind: dict[str, CallSite | None],
) -> Extraction:
    watches = {name: safe_watch_for(place, measured, name in numbered) for name, place in places.items()}
    program = HookProgram(type(model).__name__, watches)
    program.measure_usage(model, measured.image_shape)
    labels = {
        n: w.place.node if w.activation is None else f"{w.place.node} + {w.activation.name}" for n, w in watches.items()
    }
    layouts, shapes = measure(program, measured, labels)
    check_values(model, measured, program, layouts, labels, {}, behind)
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
    names: GraphNames, place: CallSite, reader: CallSite | None, model: nn.Module, measured: Probe
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
        (outputs,) = fake_runs(program, measured, mode)
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
    layouts, shapes = measure(program, measured, labels)
    positions = {name: len(own) * 1000 if t.position == LAST else t.position for name, t in own.items()}
    return Extraction(program, layouts, shapes, labels, positions)


def _what_a_graph_would_lose(model: nn.Module, measured: Probe) -> str | None:
    """What the model does beside computing its maps, or None."""
    if _checkpoints(model):
        return "its gradient checkpointing"
    if any(is_called_otherwise(module) for module in model.modules() if any(True for _ in module.children())):
        return "the hooks on its modules, or a __call__ of their own"  # it would be left with their inside
    if _has_generators(model):
        return "random numbers of its own"  # the first would stand for all
    if _switches_itself(measured):
        return "its own train()"  # as where a BatchNorm is kept frozen so
    return None


def _checkpoints(model: nn.Module) -> bool:
    """Whether gradient checkpointing is on, by the flags of timm, transformers, torchvision and OpenMMLab.

    A graph would keep what is to be computed anew.
    """
    flags = ("grad_checkpointing", "gradient_checkpointing", "memory_efficient", "use_checkpoint", "with_cp")
    return any(getattr(module, flag, False) is True for module in model.modules() for flag in flags)


def _has_generators(model: nn.Module) -> bool:
    kinds = {"Random", "Generator", "RandomState"}  # of Python; of torch and NumPy; of NumPy
    values = (value for module in model.modules() for value in vars(module).values())
    return any(type(value).__name__ in kinds for value in values)


def _switches_itself(measured: Probe) -> bool:
    """Whether the model's own ``train`` leaves modules as they are."""
    modes = (True, False)  # evaluation last: the shadow goes on being used
    flags = [(m.training, mode) for mode in modes for m in switched(measured.shadow, mode).modules()]
    return any(flag is not mode for flag, mode in flags)
