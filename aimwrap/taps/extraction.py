"""From targets to a program that computes them: by graph where that works, else by the backbone's own code.

A graph is the first choice: it can be pruned, compiled and exported. It is compared with the
modules themselves (:mod:`.equivalence`). Where it cannot be traced, does not run, gives other values or would lose
something else that the model does, hooks on the modules replace it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from .backbone import Program
from .copies import switched, traceable_shadow_of
from .equivalence import check_training, check_values, fake_runs, measure
from .graph import GraphError, GraphNames, GraphProgram
from .hooks import HookProgram, is_called_otherwise, safe_watch_for
from .layout import Layout, Shape
from .probe import CallSite, Probe
from .stages import Intermediate, Target, map_size
from .usage import LAST, IntermediatesProgram

FINAL = "final map"  # its name among the stages' maps; no node can have it
# Flags of timm, transformers, torchvision and OpenMMLab.
_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing", "memory_efficient", "use_checkpoint", "with_cp")


@dataclass(frozen=True)
class Extraction:
    """A program and what it gives, by the name of the output."""

    program: Program
    layouts: dict[str, Layout]
    shapes: dict[str, Shape]  # of the maps, (1, C, H, W), for one of the probed images
    labels: dict[str, str]  # what to call the nodes
    positions: dict[str, int]  # the order in which it makes them; two outputs may be the same tensor

    @property
    def order(self) -> list[str]:
        """The outputs' names in the order in which a forward makes them."""
        return sorted(self.positions, key=lambda name: (self.positions[name], name == FINAL))


class _Request(NamedTuple):
    """Whose outputs are wanted; ``next_reader`` is the module that consumes each output that the rule found."""

    model: nn.Module
    measured: Probe
    sites: dict[str, CallSite]
    by_number: frozenset[str]
    next_reader: dict[str, CallSite | None]


def extract(
    model: nn.Module,
    measured: Probe,
    targets: dict[str, Target],
    by_number: frozenset[str],
    readers: Mapping[CallSite, CallSite | None],
) -> Extraction:
    """Find a program for the targets, by name of the output.

    ``by_number`` are the targets that the user did not name: a functional activation directly after them is included.
    ``readers`` are the modules that read the outputs found by the rule: all functions between the two are included.

    Raises:
        ValueError: if a target is not a map, or neither a graph nor hooks give it.
    """
    own = {name: target for name, target in targets.items() if isinstance(target, Intermediate)}
    if own:
        return _by_intermediates(model, measured, own)
    sites = {name: target for name, target in targets.items() if isinstance(target, CallSite)}
    next_reader = {name: readers[s] for name, s in sites.items() if name in by_number and s in readers}
    request = _Request(model, measured, sites, by_number, next_reader)
    lost = _what_a_graph_would_lose(model, measured)
    if lost is not None:
        try:
            return _by_hooks(request)
        except ValueError as error:
            warnings.warn(f"{type(model).__name__} is tapped through a graph, without {lost}: {error}", stacklevel=2)
    try:
        return _by_graph(request)
    except (GraphError, RuntimeError) as failure:  # a trace also meets what one before it left in a module
        if any(measured.call_at(site) is None for site in sites.values()):
            raise ValueError(str(failure)) from failure
        try:
            return _by_hooks(request)
        except ValueError as error:
            more = "" if str(error) == str(failure) else f"\nHooks cannot replace the graph: {error}"
            raise ValueError(f"{failure}{more}") from failure


def _by_graph(request: _Request) -> Extraction:
    model, measured, sites = request.model, request.measured, request.sites
    shadow = traceable_shadow_of(model, measured.mode)
    names = GraphNames(shadow)
    resolved = {
        name: names.resolve(site, following_activation=name in request.by_number) for name, site in sites.items()
    }
    nodes = {name: pair for name, (pair, _) in resolved.items()}
    labels = {name: label for name, (_, label) in resolved.items()}
    for name, reader in request.next_reader.items():
        pair = _last_map_between(names, sites[name], reader, model, measured)
        if pair is not None and pair != nodes[name]:
            nodes[name], labels[name] = pair, f"{sites[name].node} + {pair[1]}"
    program = GraphProgram.traced(model, shadow, nodes, names.traces)
    if program.loses_context(model):
        raise GraphError(
            f"the backbone {type(model).__name__} computes its maps under torch.no_grad(), inference_mode() or "
            "autocast(), which a graph would lose; name modules, and their own code is run"
        )
    layouts, shapes = measure(program, measured, labels)
    called = {name: call for name, site in sites.items() if (call := measured.call_at(site)) is not None}
    for name, call in called.items():
        seen = call.output_shape
        if len(seen) == 4 and seen != shapes[name] and " + " not in labels[name]:
            raise GraphError(
                f"stages: tapping {labels[name]!r} through the graph gives {shapes[name]}, but the module gives "
                f"{seen}; name a graph node instead (torchvision's get_graph_node_names lists them)"
            )
    module_outputs = {name: sites[name] for name in called if nodes[name] == resolved[name][0]}
    check_values(model, measured, program, layouts, labels, module_outputs, request.next_reader)
    check_training(measured, program, module_outputs)
    positions = {name: names.eval.index(pair[1]) for name, pair in nodes.items()}
    return Extraction(program, layouts, shapes, labels, positions)


def _by_hooks(request: _Request) -> Extraction:
    model, measured, sites = request.model, request.measured, request.sites
    watches = {name: safe_watch_for(site, measured, name in request.by_number) for name, site in sites.items()}
    program = HookProgram(watches)
    program.measure_usage(model, measured.image_shape)
    labels = {
        n: w.place.node if w.activation is None else f"{w.place.node} + {w.activation.name}" for n, w in watches.items()
    }
    layouts, shapes = measure(program, measured, labels)
    check_values(model, measured, program, layouts, labels, {}, request.next_reader)
    calls, positions = list(measured.root.calls()), {}
    for name, watch in watches.items():
        call = measured.call_at(watch.place)
        assert call is not None
        # Calls are listed as they begin; the innermost one that ends last is where an output is made.
        positions[name] = max(calls.index(inner) for inner in call.calls())
    return Extraction(program, layouts, shapes, labels, positions)


def _last_map_between(
    names: GraphNames, place: CallSite, reader: CallSite | None, model: nn.Module, measured: Probe
) -> tuple[str, str] | None:
    """The last function between a stage and its reader that makes a map of the stage's size; None if there is none."""
    call = measured.call_at(place)
    shape = call.output_shape if call is not None else ()
    if len(shape) != 4 or shape[2] * shape[3] == 1:
        return None
    called = {other.name for other in measured.root.calls()}
    chosen = []
    for mode in (True, False):
        candidates = names.functions_between(mode, place, reader, called)
        if not candidates:
            return None
        pairs = {n: (n if mode else names.train[0], n if not mode else names.eval[0]) for n in candidates}
        program = GraphProgram.traced(model, traceable_shadow_of(model, measured.mode), pairs, names.traces)
        (outputs,) = fake_runs(program, measured, mode)
        maps = [n for n in candidates if getattr(outputs[n], "ndim", 0) == 4]
        same = [n for n in maps if map_size(outputs[n], measured) == shape[2:]]
        if not same:
            return None
        chosen.append(same[-1])
    return chosen[0], chosen[1]


def _by_intermediates(model: nn.Module, measured: Probe, own: dict[str, Intermediate]) -> Extraction:
    program = IntermediatesProgram({name: target.position for name, target in own.items()})
    program.measure_usage(model, measured.image_shape)
    labels = {name: target.node for name, target in own.items()}
    layouts, shapes = measure(program, measured, labels)
    positions = {name: len(own) * 1000 if t.position == LAST else t.position for name, t in own.items()}
    return Extraction(program, layouts, shapes, labels, positions)


def _what_a_graph_would_lose(model: nn.Module, measured: Probe) -> str | None:
    """What the model does in addition to computing its maps, or None."""
    modules = list(model.modules())
    if any(getattr(module, flag, False) is True for module in modules for flag in _CHECKPOINTING):
        return "its gradient checkpointing"  # it would store what is to be computed again
    if any(is_called_otherwise(module) for module in modules if any(True for _ in module.children())):
        return "the hooks on its modules, or a custom __call__"  # it would call only their forward
    modes = (True, False)  # evaluation last: the shadow goes on being used
    flags = [(m.training, mode) for mode in modes for m in switched(measured.shadow, mode).modules()]
    if any(flag is not mode for flag, mode in flags):
        return "its own train()"  # for example, to keep BatchNorm frozen
    return None
