"""Node names to tapped maps, through torchvision's graph utilities, which are used here and nowhere else.

torchvision traces the backbone in train and in eval mode (the two differ for some models), prunes what lies behind the
deepest tap, and names nodes. Tracing happens on the shadow, so the user's model keeps its flags and hooks.
:class:`TappedBackbone` then hosts the two graphs on the user's own parameters. It exists because torchvision's own
host forgets one of the graphs when pickled, and switches a frozen BatchNorm back to training when copied.
"""

from __future__ import annotations

import operator
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from .probe import Place

# A functional activation right behind a stage belongs to it (DenseNet's relu after norm5); modules are seen by name.
_FUNCTIONAL_ACTIVATIONS = frozenset({"relu", "relu_", "gelu", "silu", "hardswish", "leaky_relu", "elu", "relu6"})
_IN_PLACE_OPERATORS = frozenset({operator.iadd, operator.isub, operator.imul, operator.itruediv})

NodePair = tuple[str, str]  # a node's name in the train graph and in the eval graph


class GraphNames:
    """The names of a backbone's graph nodes in train and in eval mode, and what users may call them.

    Args:
        shadow: the backbone's traceable shadow; its training flags are switched.

    Raises:
        ValueError: if the backbone cannot be traced.
    """

    def __init__(self, shadow: nn.Module) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the two graphs differ is why both are kept
                self.train, self.eval = get_graph_node_names(shadow, _tracer_options())
        except Exception as error:  # a stranger's forward under tracing raises whatever it likes
            raise ValueError(
                f"the backbone {type(shadow).__name__} cannot be traced by torchvision's graph utilities "
                f"(tried with timm's untraced modules and functions): {type(error).__name__}: {error}\n"
                "This is usually control flow that depends on sizes or values. Move it into a submodule of its own and "
                "register that with timm.models.register_notrace_module(TheClass), which keeps it in one piece."
            ) from error

    def resolve(self, place: Place, following_activation: bool = False) -> tuple[NodePair, str]:
        """Find the last graph node of a module's call, or the very node of that name, in both modes.

        Args:
            place: the module or graph node.
            following_activation: step on to a functional activation that directly follows.

        Returns:
            The exact node names in train and in eval mode, and the name to show: the module's, or the activation's.

        Raises:
            ValueError: if there is none in either mode.
        """
        train = self._last_of(self.train, place, following_activation)
        evaluated = self._last_of(self.eval, place, following_activation)
        name = place.node if place.calls < 2 else evaluated
        inside = _is_under(evaluated, place.node, repeated=True)
        return (train, evaluated), name if inside else f"{name} + {evaluated}"

    def _last_of(self, names: list[str], place: Place, following_activation: bool) -> str:
        repeated = place.calls > 1
        positions = [i for i, name in enumerate(names) if _is_under(name, place.node, repeated)]
        if not positions:
            raise ValueError(
                f"the backbone has no node {place.node!r}; it has {_abridged(_module_names(self.eval))}. "
                "torchvision.models.feature_extraction.get_graph_node_names(backbone) lists every node"
            )
        position = positions[-1]
        if repeated and len(positions) % place.calls == 0:
            position = positions[len(positions) // place.calls * (place.call + 1) - 1]
        if following_activation and position + 1 < len(names):
            follower = names[position + 1]
            if re.sub(r"_\d+$", "", follower) in _FUNCTIONAL_ACTIVATIONS:
                position += 1
        return names[position]


class TappedBackbone(nn.Module):
    """A backbone that stops at its deepest tap and returns the tapped maps.

    Its parameters are the backbone's own, under their own names, so the backbone's checkpoints load into it. What lies
    behind the deepest tap is gone: it is neither run nor trained. It follows ``train()`` and ``eval()``, also after
    ``deepcopy`` and ``pickle``.

    Args:
        model: the backbone whose parameters are shared.
        shadow: its traceable shadow.
        nodes: for each name of a map, its exact node in the train and in the eval graph.
        channels_last: names of the maps whose nodes give (N, H, W, C); they are permuted.
    """

    def __init__(
        self,
        model: nn.Module,
        shadow: nn.Module,
        nodes: dict[str, NodePair],
        channels_last: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Two names may mean one node (a stage that is also the final map); torchvision takes each node once.
            extractor = create_feature_extractor(
                shadow,
                train_return_nodes={train: train for train, _ in nodes.values()},
                eval_return_nodes={evaluated: evaluated for _, evaluated in nodes.values()},
                tracer_kwargs=_tracer_options(),
            )
        graphs = {True: extractor.train_graph, False: extractor.eval_graph}
        for graph in graphs.values():
            _protect_taps(graph, shadow)
            for node in graph.nodes:
                if node.op in ("call_module", "get_attr"):
                    self._adopt(model, extractor, node.target)
        self.training = model.training
        # Attributes whose names no submodule of a backbone will have.
        self._aimwrap_program = _Program(type(model).__name__, dict(nodes), channels_last, graphs)
        self._aimwrap_frozen: frozenset[str] = frozenset()  # modules that train() leaves in evaluation mode

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Run the backbone up to its deepest tap.

        Args:
            images: (N, C, H, W).

        Returns:
            The tapped maps by name, each (N, C_l, H_l, W_l).
        """
        program = self._aimwrap_program
        maps = program.forwards[self.training](self, images)
        tapped = {name: maps[pair[0] if self.training else pair[1]] for name, pair in program.nodes.items()}
        return {name: x.permute(0, 3, 1, 2) if name in program.channels_last else x for name, x in tapped.items()}

    def freeze(self, up_to: str | None = None) -> None:
        """Stop training everything, or what one map depends on; such modules stay in evaluation mode.

        Args:
            up_to: name of a map, or None for the whole backbone.
        """
        modules = dict(self.named_modules(remove_duplicate=False))
        parameters = dict(self.named_parameters(remove_duplicate=False))
        names = {""} if up_to is None else self._names_up_to(up_to)
        for name in names & modules.keys():
            modules[name].requires_grad_(False)
        for name in names & parameters.keys():
            parameters[name].requires_grad_(False)
        self._aimwrap_frozen |= names & modules.keys()
        self._hold_frozen()

    def freeze_statistics(self) -> None:
        """Keep norms with running statistics in evaluation mode; their weights go on training."""
        norms = {name for name, m in self.named_modules() if getattr(m, "running_mean", None) is not None}
        self._aimwrap_frozen |= norms
        self._hold_frozen()

    def unfreeze(self) -> None:
        """Train everything again, from the next :meth:`train` on."""
        self.requires_grad_(True)
        self._aimwrap_frozen = frozenset()

    def train(self, mode: bool = True) -> TappedBackbone:
        """Switch to training or evaluation mode, as ``nn.Module.train`` does, but for what is frozen."""
        super().train(mode)
        self._hold_frozen()
        return self

    def _hold_frozen(self) -> None:
        for name in self._aimwrap_frozen:
            for module in self.get_submodule(name).modules():
                module.training = False

    def _names_up_to(self, name: str) -> set[str]:
        """Names of the modules and tensors that a map depends on, in either mode."""
        found: set[str] = set()
        for training, graph in self._aimwrap_program.graphs.items():
            output = next(node for node in graph.nodes if node.op == "output")
            waiting = [output.args[0][self._aimwrap_program.nodes[name][0 if training else 1]]]
            seen: set[fx.Node] = set()
            while waiting:
                node = waiting.pop()
                if node not in seen:
                    seen.add(node)
                    waiting.extend(node.all_input_nodes)
            found |= {str(node.target) for node in seen if node.op in ("call_module", "get_attr")}
        return found

    def _adopt(self, model: nn.Module, extractor: nn.Module, target: str) -> None:
        """Share one module, parameter, buffer or tensor of the backbone under its own name."""
        *path, name = target.split(".")
        source: nn.Module = model
        host: nn.Module = self
        for part in path:
            source = getattr(source, part)
            if part not in host._modules:
                container = nn.Module()
                container.training = source.training
                host.add_module(part, container)
            host = host.get_submodule(part)
        # A tensor that the forward itself makes is found on what was traced, not on the user's model.
        value = getattr(source, name) if hasattr(source, name) else extractor.get_buffer(target)
        if isinstance(value, nn.Module):
            host.add_module(name, value)
        elif isinstance(value, nn.Parameter):
            host.register_parameter(name, value)
        else:
            saved = name in source._buffers and name not in source._non_persistent_buffers_set
            host.register_buffer(name, value, persistent=saved)

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        source = self._aimwrap_program.architecture
        return f"{type(self).__name__}({source} up to its deepest tap, {parameters / 1e6:.2f} M parameters)"


class _Program:
    """What a tapped backbone runs: two graphs as Python functions, rebuilt from plain data when pickled or copied.

    torch would pickle a graph's code and trace that anew, which opens what had to be kept in one piece.
    """

    def __init__(
        self,
        architecture: str,
        nodes: dict[str, NodePair],
        channels_last: frozenset[str],
        graphs: dict[bool, fx.Graph],
    ) -> None:
        self.architecture = architecture
        self.nodes = nodes
        self.channels_last = channels_last
        self.graphs = graphs
        self.forwards = {training: _python_function(graph) for training, graph in graphs.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        packed = {training: _pack(graph) for training, graph in self.graphs.items()}
        return _unpack_program, (self.architecture, self.nodes, self.channels_last, packed)


class _Reference(str):
    """A graph node inside another node's arguments, by name."""


class _Function(NamedTuple):
    """A function by its place, for those that pickle does not find by themselves (torch.nn.functional's max_pool2d)."""

    module: str
    name: str


def _unpack_program(
    architecture: str, nodes: dict[str, NodePair], channels_last: frozenset[str], packed: dict[bool, list[Any]]
) -> _Program:
    graphs = {training: _unpack(graph) for training, graph in packed.items()}
    return _Program(architecture, nodes, channels_last, graphs)


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
            __import__(target.module)
            target = getattr(sys.modules[target.module], target.name)
        nodes[name] = graph.create_node(op, target, by_node(args), by_node(kwargs), name)
    return graph


def _by_place(target: Any) -> Any:
    module, name = getattr(target, "__module__", None), getattr(target, "__name__", None)
    if module is None or name is None or getattr(sys.modules.get(module), name, None) is not target:
        return target  # a module's or method's name, or a builtin, which pickle knows how to find
    return _Function(module, name)


def _python_function(graph: fx.Graph) -> Callable[..., dict[str, Tensor]]:
    code = graph.python_code("self")
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<tapped backbone>", "exec"), namespace)
    function: Callable[..., dict[str, Tensor]] = namespace["forward"]
    return function


def _protect_taps(graph: fx.Graph, shadow: nn.Module) -> None:
    """Clone a tapped map that a later node overwrites in place (the sum before a ResNet block's last ReLU)."""
    output = next(node for node in graph.nodes if node.op == "output")
    for tapped in output.all_input_nodes:
        if _is_overwritten(tapped, shadow):
            with graph.inserting_after(tapped):
                clone = graph.call_method("clone", (tapped,))
            output.replace_input_with(tapped, clone)


def _is_overwritten(node: fx.Node, shadow: nn.Module) -> bool:
    """Whether a node's tensor is changed in place, directly or behind nodes that may hand the same memory on."""
    users = list(node.users)
    return any(_works_in_place(u, shadow) or (_may_alias(u, shadow) and _is_overwritten(u, shadow)) for u in users)


def _may_alias(node: fx.Node, shadow: nn.Module) -> bool:
    """Whether a node may return its input's own memory: views, and modules that do nothing in evaluation."""
    if node.op == "call_module":
        return not any(True for _ in shadow.get_submodule(str(node.target)).parameters())
    return node.op == "call_method" or (node.op == "call_function" and not node.kwargs.get("inplace", False))


def _works_in_place(node: fx.Node, shadow: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(shadow.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return node.target in _IN_PLACE_OPERATORS or bool(node.kwargs.get("inplace", False))


def _tracer_options() -> dict[str, Any]:
    """Keep in one piece what timm knows not to be traceable (its same-padding convolutions branch on sizes)."""
    return {"leaf_modules": get_notrace_modules(), "autowrap_functions": get_notrace_functions()}


def _is_under(name: str, node: str, repeated: bool) -> bool:
    """Whether a graph node belongs to a module; those of a leaf's second and later calls are ``leaf_1`` and so on."""
    numbered = repeated and re.fullmatch(re.escape(node) + r"_\d+", name) is not None
    return name == node or name.startswith(node + ".") or numbered


def _module_names(names: list[str]) -> list[str]:
    """The first two levels of the names, in order, once each."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))


def _abridged(names: list[str], limit: int = 24) -> str:
    shown = ", ".join(names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
