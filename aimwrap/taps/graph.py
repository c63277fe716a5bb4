"""Node names to tapped maps, through torchvision's graph utilities, which are used here and nowhere else.

torchvision traces the backbone in train and in eval mode (the two differ for some models), prunes what lies behind the
deepest tap, and names nodes. Tracing happens on the shadow, so the user's model keeps its flags and hooks.
:class:`TappedBackbone` then hosts the two graphs on the user's own parameters. It exists because torchvision's own
host forgets one of the graphs when pickled, and switches a frozen BatchNorm back to training when copied.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any

from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

# A functional activation right behind a stage belongs to it (DenseNet's relu after norm5); modules are seen by name.
_FUNCTIONAL_ACTIVATIONS = frozenset({"relu", "relu_", "gelu", "silu", "hardswish", "leaky_relu", "elu", "relu6"})

NodePair = tuple[str, str]  # a node's name in the train graph and in the eval graph


class GraphNames:
    """The names of a backbone's graph nodes in train and in eval mode, and what users may call them.

    Args:
        shadow: the backbone's shadow (:func:`aimwrap.taps.probe.shadow_of`); its training flags are switched.

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
                "This is usually control flow that depends on values. Move it into a submodule of its own and "
                "register that with timm.models.register_notrace_module(TheClass), which keeps it in one piece."
            ) from error

    def resolve(self, node: str, following_activation: bool = False) -> tuple[NodePair, str]:
        """Find the last graph node of a module, or the very node of that name, in both modes.

        Args:
            node: a module's or a graph node's qualified name.
            following_activation: step on to a functional activation that directly follows.

        Returns:
            The exact node names in train and in eval mode, and the name to show: the module's, or the activation's.

        Raises:
            ValueError: if there is none in either mode.
        """
        train = self._last_under(self.train, node, following_activation)
        evaluated = self._last_under(self.eval, node, following_activation)
        inside = evaluated == node or evaluated.startswith(node + ".")
        return (train, evaluated), node if inside else f"{node} + {evaluated}"

    def _last_under(self, names: list[str], node: str, following_activation: bool) -> str:
        positions = [i for i, name in enumerate(names) if name == node or name.startswith(node + ".")]
        if not positions:
            raise ValueError(
                f"the backbone has no node {node!r}; it has {_abridged(_module_names(self.eval))}. "
                "torchvision.models.feature_extraction.get_graph_node_names(backbone) lists every node"
            )
        position = positions[-1]
        if following_activation and position + 1 < len(names):
            follower = names[position + 1]
            if follower.rstrip("_0123456789") in _FUNCTIONAL_ACTIVATIONS or follower in _FUNCTIONAL_ACTIVATIONS:
                position += 1
        return names[position]


class TappedBackbone(nn.Module):
    """A backbone that stops at its deepest tap and returns the tapped maps.

    Its parameters are the backbone's own, under their own names, so the backbone's checkpoints load into it. What lies
    behind the deepest tap is gone: it is neither run nor trained. It follows ``train()`` and ``eval()``, also after
    ``deepcopy`` and ``pickle``.

    Args:
        model: the backbone whose parameters are shared.
        shadow: its shadow, which is traced.
        nodes: for each name of a map, its exact node in the train and in the eval graph.
    """

    def __init__(self, model: nn.Module, shadow: nn.Module, nodes: dict[str, NodePair]) -> None:
        super().__init__()
        self.architecture = type(model).__name__
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Two names may mean one node (a stage that is also the final map); torchvision takes each node once.
            extractor = create_feature_extractor(
                shadow,
                train_return_nodes={train: train for train, _ in nodes.values()},
                eval_return_nodes={evaluated: evaluated for _, evaluated in nodes.values()},
                tracer_kwargs=_tracer_options(),
            )
        self._graphs = {True: extractor.train_graph, False: extractor.eval_graph}
        self._nodes = dict(nodes)
        for node in chain(extractor.train_graph.nodes, extractor.eval_graph.nodes):
            if node.op in ("call_module", "get_attr"):
                self._adopt(model, shadow, node.target)
        self.training = model.training
        self._compile()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Run the backbone up to its deepest tap.

        Args:
            images: (N, C, H, W).

        Returns:
            The tapped maps by name, each (N, C_l, H_l, W_l).
        """
        maps = self._forwards[self.training](self, images)
        return {name: maps[train if self.training else evaluated] for name, (train, evaluated) in self._nodes.items()}

    def _adopt(self, model: nn.Module, shadow: nn.Module, target: str) -> None:
        """Share one module, parameter or buffer of the backbone under its own name."""
        *path, name = target.split(".")
        source: nn.Module = model
        host: nn.Module = self
        for part in path:
            source = getattr(source, part)
            if not hasattr(host, part):
                container = nn.Module()
                container.training = source.training
                host.add_module(part, container)
            host = getattr(host, part)
        # A tensor that the forward itself makes is found on what was traced, not on the user's model.
        value = getattr(source, name) if hasattr(source, name) else getattr(shadow, name)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            host.register_buffer(name, value, persistent=name not in source._non_persistent_buffers_set)
        else:
            setattr(host, name, value)

    def _compile(self) -> None:
        self._forwards = {training: _python_function(graph) for training, graph in self._graphs.items()}

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_forwards"}
        return state | {"_graphs": {training: _pack(graph) for training, graph in self._graphs.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        graphs = {training: _unpack(packed) for training, packed in state["_graphs"].items()}
        super().__setstate__(state | {"_graphs": graphs})
        self._compile()

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return f"{type(self).__name__}({self.architecture} up to its deepest tap, {parameters / 1e6:.2f} M parameters)"


def _tracer_options() -> dict[str, Any]:
    """Keep in one piece what timm knows not to be traceable (its same-padding convolutions branch on sizes)."""
    return {"leaf_modules": get_notrace_modules(), "autowrap_functions": get_notrace_functions()}


def _python_function(graph: fx.Graph) -> Callable[..., dict[str, Tensor]]:
    code = graph.python_code("self")
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<tapped backbone>", "exec"), namespace)
    function: Callable[..., dict[str, Tensor]] = namespace["forward"]
    return function


class _Reference(str):
    """A graph node inside another node's arguments, by name."""


def _pack(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """A graph as plain data: torch would pickle its code and trace that anew, losing what was kept in one piece."""

    def by_name(argument: Any) -> Any:
        return fx.map_arg(argument, lambda node: _Reference(node.name))

    return [(n.op, n.target, by_name(n.args), by_name(n.kwargs), n.name) for n in graph.nodes]


def _unpack(packed: list[tuple[Any, ...]]) -> fx.Graph:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def by_node(argument: Any) -> Any:
        return fx.node.map_aggregate(argument, lambda leaf: nodes[leaf] if isinstance(leaf, _Reference) else leaf)

    for op, target, args, kwargs, name in packed:
        nodes[name] = graph.create_node(op, target, by_node(args), by_node(kwargs), name)
    return graph


def _module_names(names: list[str]) -> list[str]:
    """The first two levels of the names, in order, once each."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))


def _abridged(names: list[str], limit: int = 24) -> str:
    shown = ", ".join(names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
