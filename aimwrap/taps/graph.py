"""Node names to tapped maps, through torchvision's graph utilities, which only this module uses.

torchvision traces the backbone in train and in eval mode (the two differ for some models), prunes what comes after the
deepest tap, and names nodes. Tracing happens on the shadow, so the user's model keeps its flags and hooks.
:class:`GraphProgram` then runs the two graphs on the user's own parameters. It exists because torchvision's own
host forgets one of the graphs when pickled, and switches a frozen BatchNorm back to training when copied.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import operator
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar, cast
from unittest.mock import patch

import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor, get_graph_node_names

from .copies import is_adapter, joined, python_generators, state_of_generator, unmoved_generators
from .hooks import ACTIVATIONS, MAKE_ANOTHER_MAP
from .probe import CallSite, Writes

T = TypeVar("T")

# Operators with an assignment, and as what fx traces them.
_IN_PLACE_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}

_AUTOCASTS = torch.is_autocast_enabled  # as it is outside of tracing
_TORCHS_OWN = vars(nn.Module()).keys()  # attributes that every module has

# What only looks at a map in another way, or thins it in training.
_LEAVE_THE_MAP = frozenset(
    {"permute", "transpose", "contiguous", "to", "type", "clone", "detach", "view", "reshape", "size", "dim", "getattr"}
    | {"getitem", "float", "half", "dropout", "dropout2d", "feature_dropout", "drop_path", "stochastic_depth"}
)

_BELONG_TO_A_STAGE = ACTIVATIONS | MAKE_ANOTHER_MAP | _LEAVE_THE_MAP

ONE_AT_A_TIME = threading.RLock()  # wraps: tracing replaces what all threads use, and trial runs the random states
MOST_NAMES = 24  # that an error lists
NodePair = tuple[str, str]  # a node's name in the train graph and in the eval graph
Traces = dict[bool, str]  # the text of each trace, by ``training``
_NOT_THE_SAME = (
    "the backbone draws random numbers in its forward that do not depend on its images, or counts its forwards, and a "
    "graph would always repeat the first ones"
)


class GraphError(ValueError):
    """A graph that cannot be made, or a program whose outputs differ from the modules'."""


def _has_own_code(network: nn.Module) -> bool:
    """Whether anything in it is not of torch, torchvision or timm, and so may draw from generators of its own."""
    libraries = ("torch", "torchvision", "timm")
    return any(
        type(part).__module__.split(".")[0] not in libraries or part._forward_hooks or part._forward_pre_hooks
        for part in network.modules()
    )


class GraphNames:
    """The names of a backbone's graph nodes in train and in eval mode, and what users may call them.

    Raises:
        GraphError: if the backbone cannot be traced.
    """

    def __init__(self, shadow: nn.Module) -> None:
        self.traces: Traces = {}
        drawn_from = python_generators() if _has_own_code(shadow) else []
        try:
            with warnings.catch_warnings(), unmoved_generators(), _noting_assignments(self.traces):
                warnings.simplefilter("ignore")  # that the two graphs differ is why both are kept
                self.train, self.eval = get_graph_node_names(shadow, _tracer_options(shadow))
                if any(state_of_generator(generator) != state for generator, state in drawn_from):
                    raise GraphError(_NOT_THE_SAME)
        except GraphError:
            raise
        except Exception as error:  # a user's forward may raise anything under tracing
            raise GraphError(
                f"the backbone {type(shadow).__name__} cannot be traced by torchvision's graph utilities "
                f"(tried with timm's untraced modules and functions): {type(error).__name__}: {error}\n"
                "This is usually control flow that depends on sizes or values. Move it into its own submodule and "
                "register that with timm.models.register_notrace_module(TheClass), which keeps it in one piece."
            ) from error

    def resolve(self, place: CallSite, following_activation: bool = False) -> tuple[NodePair, str]:
        """Find the last graph node of a module's call, or the node of exactly that name, in both modes.

        Raises:
            GraphError: if there is none in either mode.
        """
        train = self._last_of(self.train, place, following_activation)
        evaluated = self._last_of(self.eval, place, following_activation)
        name = place.node if place.calls < 2 else evaluated
        inside = _is_under(evaluated, place.node, repeated=True)
        return (train, evaluated), name if inside else f"{name} + {evaluated}"

    def functions_between(
        self, training: bool, place: CallSite, reader: CallSite | None, called: set[str]
    ) -> list[str]:
        """The functions, in train or in eval mode, that run between a module and the next at its level."""
        names = self.train if training else self.eval
        begin = names.index(self._last_of(names, place, False)) + 1
        if reader is None:  # heads follow: only what directly follows belongs to the stage
            own = itertools.takewhile(lambda name: _function_of(name) in _BELONG_TO_A_STAGE, names[begin:])
            end = begin + len(list(own))
        else:
            repeated = reader.calls > 1
            positions = [i for i, name in enumerate(names) if _is_under(name, reader.node, repeated)]
            first = positions[len(positions) // reader.calls * reader.call] if positions and repeated else None
            end = first if first is not None else min((i for i in positions if i >= begin), default=begin)
        return [name for name in names[begin:end] if _is_function_after(name, place.node, called)]

    def _last_of(self, names: list[str], place: CallSite, following_activation: bool) -> str:
        repeated = place.calls > 1
        positions = [i for i, name in enumerate(names) if _is_under(name, place.node, repeated)]
        if not positions:
            known = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in self.eval))  # two levels of names
            more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
            raise GraphError(
                f"the backbone has no node {place.node!r}; it has {', '.join(known[:MOST_NAMES])}{more}. "
                "torchvision.models.feature_extraction.get_graph_node_names(backbone) lists every node"
            )
        position = positions[-1]
        if repeated and len(positions) % place.calls == 0:
            position = positions[len(positions) // place.calls * (place.call + 1) - 1]
        if following_activation and position + 1 < len(names):
            follower = names[position + 1]
            if _function_of(follower) in ACTIVATIONS and "." not in follower:
                position += 1
        return names[position]


class GraphProgram:
    """Tapped outputs by two graphs, by ``training``, as Python functions that return their nodes' values by node name.

    They are rebuilt from plain data when pickled or copied: torch would pickle a graph's code and trace that again,
    which opens what had to be kept in one piece. ``constants`` are tensors that a forward itself makes.
    """

    def __init__(
        self, nodes: dict[str, NodePair], graphs: dict[bool, fx.Graph], constants: dict[str, Tensor] | None = None
    ) -> None:
        self.nodes = nodes
        self.graphs = graphs
        self.constants = constants or {}
        self.forwards = {training: _python_function(graph) for training, graph in graphs.items()}
        self.frozen: tuple[str, ...] = ()

    def freeze(self, names: tuple[str, ...]) -> None:
        """In training, compute these outputs, and what they depend on, as in evaluation; none of them undoes it."""
        self.frozen = names
        train = _with_evaluated(self.graphs, self.nodes, names) if names else self.graphs[True]
        self.forwards[True] = _python_function(train)

    @staticmethod
    def traced(model: nn.Module, shadow: nn.Module, nodes: dict[str, NodePair], traces: Traces) -> GraphProgram:
        """Trace a backbone up to the deepest of the nodes; ``traces`` are those of its :class:`GraphNames`."""
        with warnings.catch_warnings(), _noting_assignments(traces):
            warnings.simplefilter("ignore")
            # Two names may mean one node (a stage that is also the final map); torchvision takes each node once.
            extractor = create_feature_extractor(
                shadow,
                train_return_nodes={train: train for train, _ in nodes.values()},
                eval_return_nodes={evaluated: evaluated for _, evaluated in nodes.values()},
                tracer_kwargs=_tracer_options(shadow),
            )
        graphs = {True: extractor.train_graph, False: extractor.eval_graph}
        for graph in graphs.values():
            _work_in_place_again(graph, shadow)
            _renew_constants(graph, model, shadow)
            _protect_taps(graph, shadow)
        # Tensors that the forward itself makes are found on what was traced, not on the user's model.
        constants = {target: extractor.get_buffer(target) for target in _targets(graphs) if not _has(model, target)}
        return GraphProgram(dict(nodes), graphs, constants)

    def settled(self, host: nn.Module, model: nn.Module) -> GraphProgram:
        """Share with the host each module, parameter, buffer or tensor of the model that the graphs name."""
        for target in _targets(self.graphs):
            self._adopt(host, model, target)
        return self

    def run(self, host: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """The tapped outputs by name, as the backbone lays them out."""
        maps = self.forwards[host.training](host, images)
        return {name: maps[pair[0] if host.training else pair[1]] for name, pair in self.nodes.items()}

    def repeated(self, name: str, value: Tensor) -> Tensor:
        """Apply to another value the function that makes an output in evaluation, with the arguments it has there."""
        node = _tapped_nodes(self.graphs[False])[self.nodes[name][1]]
        if node.target == "clone":  # what protects it from being overwritten
            node = node.all_input_nodes[0]
        keywords = {key: value for key, value in node.kwargs.items() if key not in ("input", "inplace")}
        function = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
        result: Tensor = function(value, *node.args[1:], **keywords)
        return result

    def loses_context(self, model: nn.Module) -> bool:
        """Whether the forward has or asks for autocast, or keeps gradients from parameters; images have none."""
        for graph in self.graphs.values():
            noted = [node for node in graph.nodes if "own autocast" in node.meta]
            before = [f"{n.target}." for n in _ancestors(noted, stop=set()) if n.op in ("call_module", "get_attr")]
            names = (f"{name}." for name, _ in model.named_parameters(remove_duplicate=False))
            if any(n.meta["own autocast"] for n in noted) or any(name.startswith(tuple(before)) for name in names):
                return True
        return False

    def train(self, mode: bool) -> None:
        """Nothing to do: models with a custom ``train`` are not traced."""

    def names_up_to(self, name: str) -> set[str]:
        """Names of the modules and tensors that a tapped output depends on, in either mode."""
        found: set[str] = set()
        for training, graph in self.graphs.items():
            output = _tapped_nodes(graph)[self.nodes[name][0 if training else 1]]
            needed = _ancestors([output], stop=set())
            found |= {str(node.target) for node in needed if node.op in ("call_module", "get_attr")}
        return found

    def _adopt(self, host: nn.Module, model: nn.Module, target: str) -> None:
        *path, name = target.split(".")
        source = model
        for part in path:
            source = getattr(source, part)
            if part not in host._modules:
                container = nn.Module()
                container.training = source.training
                host.add_module(part, container)
            host = host.get_submodule(part)
        if name == "training":
            return  # every module has it
        value = self.constants[target] if target in self.constants else getattr(source, name)
        if isinstance(value, nn.Module):
            host.add_module(name, value)
        elif isinstance(value, nn.Parameter):
            host.register_parameter(name, value)
        elif name in source._buffers and host._buffers.keys() <= source._buffers.keys():
            host._buffers = source._buffers  # to() puts new buffers there, for both
            host._non_persistent_buffers_set = set(source._non_persistent_buffers_set)
        else:
            host._buffers = dict(host._buffers)  # the model has none of this name
            saved = name in source._buffers and name not in source._non_persistent_buffers_set
            host.register_buffer(name, value, persistent=saved)

    def __reduce__(self) -> tuple[Any, ...]:
        packed = {training: _pack(graph) for training, graph in self.graphs.items()}
        return _unpack_program, (self.nodes, packed, self.frozen)


def _with_evaluated(graphs: dict[bool, fx.Graph], nodes: dict[str, NodePair], frozen: tuple[str, ...]) -> fx.Graph:
    """The train graph, with frozen outputs and all others before them taken from the eval graph.

    Modules are switched by their flags; functions such as drop path's were traced with the mode that they ran in.
    """
    outputs = {training: _tapped_nodes(graph) for training, graph in graphs.items()}
    upstream = _ancestors([outputs[True][nodes[name][0]] for name in frozen], stop=set())
    pairs = [(outputs[True][train], outputs[False][evaluated]) for train, evaluated in nodes.values()]
    # Also what was saved from being overwritten: the layers after it continue from there.
    pairs += [(a.all_input_nodes[0], b.all_input_nodes[0]) for a, b in pairs if "clone" == a.target == b.target]
    replaced = {train: evaluated for train, evaluated in pairs if train in upstream}
    made = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}

    def copy(graph: fx.Graph, needed: set[fx.Node]) -> None:
        for node in graph.nodes:
            if node in replaced:
                copies[node] = copies[replaced[node]]
            elif node.op == "placeholder" and made.nodes:
                copies[node] = next(iter(made.nodes))
            elif node.op == "placeholder" or node in needed:
                copies[node] = made.node_copy(node, lambda argument: copies[argument])

    copy(graphs[False], _ancestors(list(replaced.values()), stop=set()))
    copy(graphs[True], _ancestors([_output_of(graphs[True])], stop=set(replaced)))
    return made


def _output_of(graph: fx.Graph) -> fx.Node:
    output: fx.Node = next(node for node in graph.nodes if node.op == "output")
    return output


def _tapped_nodes(graph: fx.Graph) -> dict[str, fx.Node]:
    """The nodes that a graph returns, by name."""
    return cast("dict[str, fx.Node]", _output_of(graph).args[0])


def _ancestors(nodes: list[fx.Node], stop: set[fx.Node]) -> set[fx.Node]:
    """Nodes and all that they depend on, without what comes before the ``stop`` nodes."""
    return reachable(nodes, lambda node: () if node in stop else node.all_input_nodes)


def reachable(starts: Iterable[T], following: Callable[[T], Iterable[T]]) -> set[T]:
    """The starts, what follows each, what follows that, and so on."""
    found: set[T] = set()
    waiting = list(starts)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting.extend(following(one))
    return found


def _targets(graphs: dict[bool, fx.Graph]) -> list[str]:
    nodes = [node for graph in graphs.values() for node in graph.nodes]
    return list(dict.fromkeys(str(node.target) for node in nodes if node.op in ("call_module", "get_attr")))


def _has(module: nn.Module, target: str) -> bool:
    for part in target.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


class _Reference(str):
    """A graph node inside another node's arguments, by name."""


class _Function(str):
    """The place of a function, for those that pickle does not find by themselves (torch.nn.functional's max_pool2d)."""


def _unpack_program(nodes: dict[str, NodePair], packed: dict[bool, list[Any]], frozen: tuple[str, ...]) -> GraphProgram:
    program = GraphProgram(nodes, {training: _unpack(graph) for training, graph in packed.items()})
    program.freeze(frozen)
    return program


def _pack(graph: fx.Graph) -> list[tuple[Any, ...]]:
    def by_name(argument: Any) -> Any:
        return fx.map_arg(argument, lambda node: _Reference(node.name))

    return [(n.op, _by_place(n.target), by_name(n.args), by_name(n.kwargs), n.name) for n in graph.nodes]


def _unpack(packed: list[tuple[Any, ...]]) -> fx.Graph:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def by_node(argument: Any) -> Any:
        return fx.node.map_aggregate(argument, lambda leaf: nodes[leaf] if isinstance(leaf, _Reference) else leaf)

    for op, target, args, kwargs, name in packed:
        if isinstance(target, _Function):
            module, _, function = target.rpartition(":")
            target = getattr(importlib.import_module(module), function)
        nodes[name] = graph.create_node(op, target, by_node(args), by_node(kwargs), name)
    return graph


def _by_place(target: Any) -> Any:
    module, name = getattr(target, "__module__", None), getattr(target, "__name__", None)
    if module is None or name is None or getattr(sys.modules.get(module), name, None) is not target:
        return target  # a module's or method's name, or a builtin, which pickle knows how to find
    return _Function(f"{module}:{name}")


def _python_function(graph: fx.Graph) -> Callable[..., dict[str, Tensor]]:
    code = graph.python_code("self")
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<tapped backbone>", "exec"), namespace)
    function: Callable[..., dict[str, Tensor]] = namespace["forward"]
    return function


def _contexts() -> tuple[bool, bool, tuple[int, ...]]:
    """What is set that fx does not write down: whether gradients are on, inference mode is, and autocasts."""
    torch.autocast_increment_nesting()
    casts = torch.autocast_decrement_nesting(), *map(_AUTOCASTS, ("cpu", "cuda"))
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), casts


class _Mode(int):
    """A module's ``training`` while it is traced: as a function's argument it becomes a node, not a constant."""

    module: str

    def __fx_create_arg__(self, tracer: fx.Tracer) -> fx.Node:
        return tracer.create_node("get_attr", joined(self.module, "training"), (), {})


def _text_of(graph: fx.Graph, root: nn.Module) -> str:
    """Everything that a graph does, with the values of its constants."""
    targets = [str(node.target) for node in graph.nodes if node.op == "get_attr" and "_constant" in node.target]
    values = [value for target in targets if isinstance(value := getattr(root, target, None), Tensor)]
    real = [value.tolist() for value in values if not (isinstance(value, FakeTensor) or value.is_meta)]
    return re.sub(r"(_tensor_constant)\d+", r"\1", f"{graph} {real}")  # each trace numbers its own


@contextmanager
def _noting_assignments(traces: Traces) -> Iterator[None]:
    """Have nodes note contexts that they are in, and ``x += y``, for which fx writes ``x = x + y``.

    What a forward does that no node can hold is refused by a :class:`GraphError`; so is what differs from an earlier
    trace in the same mode, of which there is always one.
    Meanwhile fx replaces the call of every module: one thread at a time traces, and others' forwards go on.
    """
    thread = threading.get_ident()
    asked: list[Any] = []  # whether autocast is on, since the last step
    states: dict[nn.Module, dict[str, Any]] = {}  # before the forward that is being traced

    def refuse_changed(name: str, module: nn.Module) -> None:
        for key, value in _plain_state(module).items():
            if states.get(module, {}).get(key, value) != value:
                raise GraphError(f"the backbone changes {joined(name, key)!r} in its forward, which a graph would not")

    def trace(tracer: NodePathTracer, root: nn.Module, *arguments: Any, **keywords: Any) -> fx.Graph:
        states.update((module, _plain_state(module)) for module in root.modules())
        modes = {name: module for name, module in root.named_modules() if module.training}
        for name, module in modes.items():
            module.training = _Mode(True)
            module.training.module = name
        mode, same = bool(root.training), False
        with Writes(root) as writes:
            for _ in range(1 if mode in traces else 2):
                tracer.node_to_qualname.clear()
                graph: fx.Graph = super(NodePathTracer, tracer).trace(root, *arguments, **keywords)
                text = _text_of(graph, root)
                same = traces.setdefault(mode, text) == text
        for name, module in root.named_modules():
            refuse_changed(name, module)
        for module in modes.values():
            module.training = True
        if writes.draws or not same:
            raise GraphError(_NOT_THE_SAME)
        if writes.any():
            raise GraphError("the backbone writes into its parameters or buffers, which a graph would not")
        return graph

    def call_module(tracer: NodePathTracer, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return forward(*args, **kwargs)
        refuse_changed(tracer.path_of_module(module), module)  # it may be changed back after the call
        return own(tracer, module, forward, args, kwargs)

    def set_attribute(proxy: fx.Proxy, name: str, value: Any) -> None:
        if hasattr(Tensor, name):
            raise GraphError(f"the backbone sets a tensor's {name!r} in its forward, which a graph would not")
        object.__setattr__(proxy, name, value)

    def eliminate_dead_code(graph: fx.Graph, *arguments: Any, **keywords: Any) -> bool:
        if threading.get_ident() == thread:
            _refuse_lost_writes(graph)
        return eliminate(graph, *arguments, **keywords)

    def noting(in_place: Callable[..., Any], traced_as: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
        def assign(x: fx.Proxy, y: Any) -> fx.Proxy:
            result: fx.Proxy = traced_as(x, y)
            result.node.meta["assigned by"] = in_place
            return result

        return assign

    def create_proxy(tracer: fx.Tracer, *arguments: Any, **keywords: Any) -> fx.Proxy:
        proxy = super(fx.Tracer, tracer).create_proxy(*arguments, **keywords)
        inside = _contexts()
        if inside != outside or asked:
            proxy.node.meta["own autocast"] = inside[2] != outside[2] or bool(asked)
            asked.clear()
        return proxy

    def asks(*device: str) -> bool:  # a graph would keep the answer of now
        if threading.get_ident() == thread and not sys._getframe(1).f_globals.get("__name__", "").startswith("torch."):
            asked.append(device)
        return _AUTOCASTS(*device)

    operators = [(fx.Proxy, f"__{place.__name__}__", noting(place, as_)) for place, as_ in _IN_PLACE_OPERATORS.items()]
    calls: list[tuple[Any, str, Callable[..., Any]]]
    calls = [(fx.Tracer, "create_proxy", create_proxy), (NodePathTracer, "call_module", call_module)]
    calls += [(NodePathTracer, "trace", trace), (fx.Proxy, "__setattr__", set_attribute), *operators]
    calls += [(fx.Graph, "eliminate_dead_code", eliminate_dead_code), (torch, "is_autocast_enabled", asks)]
    with ONE_AT_A_TIME, torch.inference_mode(False), torch.enable_grad(), ExitStack() as replaced:
        own, outside, eliminate = NodePathTracer.call_module, _contexts(), fx.Graph.eliminate_dead_code
        for owner, name, function in calls:
            replaced.enter_context(patch.object(owner, name, function, create=True))
        yield


def _work_in_place_again(graph: fx.Graph, shadow: nn.Module) -> None:
    """Let ``x += y`` overwrite x as the model itself does, where x is a module's fresh output: never the images."""
    for node in graph.nodes:
        in_place = node.meta.get("assigned by")
        if in_place is not None and node.args[0].op == "call_module" and not _may_alias(node.args[0], shadow):
            node.target = in_place


def _refuse_lost_writes(graph: fx.Graph) -> None:
    """Refuse to drop a call that works in place, and whose result is not used, where what it overwrites may be."""
    needed, modules = _ancestors([_output_of(graph)], stop=set()), cast("nn.Module", graph.owning_module)
    for node in itertools.dropwhile(lambda n: n.op == "output" or n not in needed, reversed(graph.nodes)):
        if node not in needed and ("assigned by" in node.meta or _works_in_place(node, modules)):
            written = node.all_input_nodes[: None if "out" in node.kwargs else 1]
            memory = reachable(written, lambda n: n.all_input_nodes if _may_alias(n, modules) else ())
            if any(n in needed or n.op in ("placeholder", "get_attr") for n in memory):
                raise GraphError(f"a graph would lose the call {node.name!r}, which works in place and is not used")


def _renew_constants(graph: fx.Graph, model: nn.Module, shadow: nn.Module) -> None:
    """Let each run overwrite a copy of the images, and of a tensor that the forward makes: the graph holds only one."""
    constants: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "placeholder" or (node.op == "get_attr" and not _has(model, str(node.target))):
            constants.setdefault(str(node.target), []).append(node)
    for nodes in constants.values():
        if any(_is_overwritten(node, shadow) for node in nodes):
            with graph.inserting_after(nodes[0]):
                copy = graph.call_method("clone", (nodes[0],))
            for node in nodes:
                for user in [user for user in node.users if user is not copy]:
                    user.replace_input_with(node, copy)


def _protect_taps(graph: fx.Graph, shadow: nn.Module) -> None:
    """Clone a tapped map that a later node overwrites in place (the sum before a ResNet block's last ReLU)."""
    output = _output_of(graph)
    for tapped in output.all_input_nodes:
        if _is_overwritten(tapped, shadow):
            with graph.inserting_after(tapped):
                output.replace_input_with(tapped, graph.call_method("clone", (tapped,)))


def _is_overwritten(node: fx.Node, shadow: nn.Module) -> bool:
    """Whether a node's tensor is changed in place, directly or after nodes that may return the same memory."""
    memory = reachable([node], lambda n: [user for user in n.users if _may_alias(user, shadow)])
    return any(_works_in_place(user, shadow) for each in memory for user in each.users)


def _may_alias(node: fx.Node, shadow: nn.Module) -> bool:
    """Whether a node may return its input's own memory: views, and modules that do nothing in evaluation."""
    if node.op == "call_module":
        return not any(True for _ in shadow.get_submodule(str(node.target)).parameters())
    return node.op in ("call_method", "call_function")


def _works_in_place(node: fx.Node, shadow: nn.Module) -> bool:
    if node.op == "call_module":
        module = shadow.get_submodule(str(node.target))
        return bool(getattr(module, "inplace", hasattr(module, "transforms")))  # what torchvision's containers hold may
    name = str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))
    says_so = name.endswith("_") and not name.endswith("__")  # x.relu_(), F.relu_(x)
    given = dict(node.kwargs)
    with suppress(TypeError, ValueError):  # operators and builtins have no signature
        given = inspect.signature(cast("Any", node.target)).bind(*node.args, **node.kwargs).arguments
    return says_so or node.target in _IN_PLACE_OPERATORS or bool(given.get("inplace")) or "out" in node.kwargs


def _plain_state(module: nn.Module) -> dict[str, list[Any]]:
    """Numbers, flags and strings that a module stores, also within others, and which hooks and tensors it has."""
    found = {key: getattr(value, "__dict__", value) for key, value in vars(module).items() if key not in _TORCHS_OWN}
    found["training"] = bool(module.training)
    found["hooks"] = [len(value) for key, value in vars(module).items() if key.endswith("_hooks")]
    found["tensors"] = [id(value) for value in (*module._parameters.values(), *module._buffers.values())]
    plain = {k: [v for v in tree_leaves(value) if isinstance(v, int | float | str)] for k, value in found.items()}
    return {key: values for key, values in plain.items() if values}


def _tracer_options(shadow: nn.Module) -> dict[str, Any]:
    """Keep in one piece what timm knows not to be traceable (its same-padding convolutions branch on sizes), and more.

    What is kept whole asks its own flags, also those that change later; the graph would hold the answers that it got.
    """
    whole = {type(m) for m in shadow.modules() if getattr(m, "running_mean", None) is not None or is_adapter(m)}
    whole |= {type(m) for m in shadow.modules() if type(m).__module__.startswith("torchvision.transforms")}
    whole |= {type(m) for m in shadow.modules() if hasattr(m, "drop_prob") and next(m.children(), None) is None}
    return {"leaf_modules": [*get_notrace_modules(), *whole], "autowrap_functions": get_notrace_functions()}


def _function_of(name: str) -> str:
    """What a node calls: the last part of its name, without its number."""
    return re.sub(r"_\d+$", "", name.rpartition(".")[2])


def _is_function_after(name: str, module: str, called: set[str]) -> bool:
    """Whether a node is a function that the caller of a module runs, and one that makes another map."""
    path, function = name.rpartition(".")[0], _function_of(name)
    same_level = not path or module.startswith(path + ".")
    is_module = name in called or (f"{path}.{function}" if path else function) in called
    return same_level and not is_module and function.rstrip("_") not in _LEAVE_THE_MAP


def _is_under(name: str, node: str, repeated: bool) -> bool:
    """Whether a graph node belongs to a module; those of a leaf's second and later calls are ``leaf_1`` and so on."""
    numbered = repeated and re.fullmatch(re.escape(node) + r"_\d+", name) is not None
    return name == node or name.startswith(node + ".") or numbered
