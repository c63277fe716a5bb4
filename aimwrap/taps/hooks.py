"""Tapped outputs by hooks on the modules of the backbone's own code."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .copies import OwnHook, hooks_of, quiet_fakes, switched, twin_of
from .probe import CallSite, Key, Probe, tensors_in
from .usage import OwnCodeProgram

# A functional activation that directly follows a stage belongs to it (DenseNet's relu after norm5).
# Activations that are modules are found by name.
ACTIVATIONS = frozenset(
    {"relu", "relu_", "gelu", "silu", "hardswish", "leaky_relu", "elu", "relu6", "mish", "selu", "celu", "softplus"}
    | {"hardtanh", "tanh"}
)
MAKE_ANOTHER_MAP = frozenset(
    {"add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "truediv", "itruediv", "cat", "concat"}
)
_READS_ONLY = frozenset({"__get__", "dim", "size", "is_contiguous"})


class Activation(NamedTuple):
    """A function of ``torch.nn.functional`` with its arguments after the input, except ``inplace``."""

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, value: Tensor) -> Tensor:
        """Apply it."""
        result: Tensor = getattr(F, self.name)(value, *self.arguments, **dict(self.keywords))
        return result


class Watch(NamedTuple):
    """The output that a hook waits for."""

    place: CallSite
    key: Key | None = None  # where in the output the map is; None if the output is the map
    activation: Activation | None = None  # the function that directly follows and belongs to it
    overwritten: bool = False  # whether something later overwrites it in place, so that it has to be copied


class HookProgram(OwnCodeProgram):
    """Tapped outputs by hooks on modules; the forward ends as soon as the last one has been seen.

    The hooks and their results are plain objects inside the twin, so that copies and pickles get their own.
    """

    wanted: Mapping[str, Watch]

    def prepared(self, twin: nn.Module) -> nn.Module:
        """Put the hooks on."""
        self.catch = _Catch(self.wanted)
        for node in {watch.place.node for watch in self.wanted.values()}:
            twin.get_submodule(node).register_forward_hook(_Hook(self.catch, node))
        return twin

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the twin until every output has been seen."""
        # Not a call where it would be the same: torch.export would look for the twin among the host's modules.
        run = self.source if is_called_otherwise(self.source) else self.source.forward
        found, gradients, dtype = self.catch.start(), torch.is_grad_enabled(), torch.get_default_dtype()
        try:
            with suppress(Seen):
                run(images)
        finally:
            self.catch.end()
            if torch.is_grad_enabled() is not gradients:  # it ended before the forward's own set_grad_enabled(True)
                torch.set_grad_enabled(gradients)
            if torch.get_default_dtype() is not dtype:
                torch.set_default_dtype(dtype)
        missing = [watch.place.node for name, watch in self.wanted.items() if name not in found]
        if missing:
            raise RuntimeError(f"the backbone's forward did not call {missing}; wrap it in the mode that it is used in")
        for name, watch in self.wanted.items():
            if found[name].is_inference() and not torch.is_inference_mode_enabled():  # the forward's own
                found[name] = found[name].clone()  # the head could not be trained on it
            if watch.activation is not None:
                found[name] = watch.activation(found[name])
        return found


def is_called_otherwise(module: nn.Module) -> bool:
    """Whether calling a module does more than running its forward."""
    call = type(module).__call__
    return bool(hooks_of(module)) or not str(call.__module__).startswith("torch")


class Seen(BaseException):
    """Every output has been seen. Not an Exception, so that no handler in a forward stops it."""


class _Catch:
    """What the hooks of one twin fill during one forward; several threads may run one at a time each."""

    def __init__(self, watches: Mapping[str, Watch]) -> None:
        self.watches = watches
        # By thread, how often each module was called and what was found. Between forwards there is none: a result that
        # stayed would keep a graph's memory alive.
        self.runs: dict[int, tuple[dict[str, int], dict[str, Tensor]]] = {}

    def start(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        self.runs[_thread()] = {}, found
        return found

    def end(self) -> None:
        self.runs.pop(_thread(), None)

    def see(self, node: str, output: Any) -> None:
        run = self.runs.get(_thread())
        if run is None:  # not in a forward of ours, such as where checkpointing repeats a part of it
            return
        calls, found = run
        call = calls.get(node, 0)
        calls[node] = call + 1
        for name, watch in self.watches.items():
            if watch.place.node == node and watch.place.call == call:
                tensor = output if watch.key is None else tensors_in(output)[watch.key]
                found[name] = tensor.clone() if watch.overwritten else tensor
        if len(found) == len(self.watches):
            raise Seen


def _thread() -> int:
    return 0 if torch.compiler.is_compiling() else threading.get_ident()  # a compiler cannot trace the latter


class _Hook(OwnHook):
    """A module's hook, which knows the module's name."""

    def __init__(self, catch: _Catch, node: str) -> None:
        self.catch = catch
        self.node = node

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self.catch.see(self.node, output)


def watch_for(place: CallSite, measured: Probe) -> Watch:
    """How to catch a module's output by a hook.

    Raises:
        ValueError: if no module of that name is called, or its output holds no map or several.
    """
    call = measured.call_at(place)
    if call is None:
        raise ValueError(f"the backbone calls no module {place.node!r}")
    if not call.output_shape and call.only_map is None:
        raise ValueError(
            f"{place.node!r} returns a {call.container or 'value'} with {call.contained or 'no tensor'}; name a module "
            "inside it that returns one map"
        )
    return Watch(measured.place(call), None if call.output_shape else call.only_map)


def safe_watch_for(place: CallSite, measured: Probe, following_activation: bool) -> Watch:
    """How to catch a module's output by a hook, and keep later layers from overwriting it.

    Raises:
        ValueError: as :func:`watch_for`, and if a function that belongs to the output makes another map of it.
    """
    watch = watch_for(place, measured)
    # Dropout, for one, overwrites in training only; functions are looked for in evaluation.
    function, overwritten = _followed(watch, measured, training=False)
    overwritten = overwritten or _followed(watch, measured, training=True)[1]
    if following_activation and function.name.strip("_") in MAKE_ANOTHER_MAP:
        raise ValueError(
            f"the function {function.name!r} makes another map of that of {place.node!r}, and hooks "
            "cannot tap it; write the function as a module, or name the modules to tap"
        )
    activation = function._replace(name=function.name.rstrip("_"))
    belongs = following_activation and function.name in ACTIVATIONS
    return watch._replace(activation=activation if belongs else None, overwritten=overwritten)


def _followed(watch: Watch, measured: Probe, training: bool) -> tuple[Activation, bool]:
    """The first function that is given an output, "" if none is, and whether the output is later overwritten."""
    twin = switched(twin_of(measured.shadow), training)
    caught: list[Tensor] = []
    versions: list[int] = []
    functions: list[Activation] = []

    def catch(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        made = output if watch.key is None else tensors_in(output)[watch.key]
        versions.append(-1 if made.is_inference() else made._version)  # inference tensors have none
        caught.append(made)  # from now on, what is done with it is noted

    class Follow(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(function, "__name__", "")
            if caught and any(leaf is caught[0] for leaf in tree_leaves(args)) and name not in _READS_ONLY:
                keywords = tuple((k, v) for k, v in (kwargs or {}).items() if k not in ("input", "inplace"))
                functions.append(Activation(name, tuple(args[1:]), keywords))
            return function(*args, **(kwargs or {}))

    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if caught and any(leaf is caught[0] for leaf in tree_leaves(arguments)):
            functions.append(Activation(""))  # functions inside of it belong to it

    for module in twin.modules():
        module.register_forward_pre_hook(enter)
    twin.get_submodule(watch.place.node).register_forward_hook(watch.place.hook(catch))
    whatever = suppress(Exception) if training else nullcontext()  # others check whether it can be trained
    with whatever, torch.no_grad(), quiet_fakes(), measured.mode, Follow():
        twin(measured.fake_images(batch_size=2))
    overwritten = bool(caught) and (caught[0].is_inference() or caught[0]._version != versions[0])
    return functions[0] if functions else Activation(""), overwritten
