"""Tapped outputs by the backbone's own code, for backbones that cannot be traced or know their own intermediates.

The backbone's structure is copied around its own parameters (:func:`.shadow.twin_of`), so that nothing of it is
touched, and its own forward runs on the copy. What the tapped outputs do not depend on is taken out of the copy: an
optimiser does not see it, and DistributedDataParallel does not wait for its gradients.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .backbone import Program
from .copies import OwnHook, hooks_of, joined, quiet_fakes, shadow_of, switched, twin_of
from .layout import Shape
from .probe import Key, Place, Probe, fake_images, state_of, tensors_in

LAST = -1  # the index of forward_intermediates' final features among the intermediates

# A functional activation right behind a stage belongs to it (DenseNet's relu after norm5); modules are seen by name.
ACTIVATIONS = frozenset(
    {"relu", "relu_", "gelu", "silu", "hardswish", "leaky_relu", "elu", "relu6", "mish", "selu", "celu", "softplus"}
    | {"hardtanh", "tanh"}
)
MAKE_ANOTHER_MAP = frozenset(
    {"add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "truediv", "itruediv", "cat", "concat"}
)
_READS_ONLY = frozenset({"__get__", "dim", "size", "is_contiguous"})


class Usage(NamedTuple):
    """What a program's outputs depend on, in either mode.

    Attributes:
        entered: names of the modules that are called.
        used: names of the parameters that are used.
        reached: names of those among them that a gradient reaches.
        cut_off: names of the outputs that carry no gradient in training.
        finished: names of the modules whose calls had ended when the last output was seen.
    """

    entered: set[str]
    used: set[str]
    reached: set[str]
    cut_off: set[str]
    finished: set[str]


class WholeProgram:
    """Tapped outputs by the backbone's own code on a twin of it; :meth:`outputs` is what subclasses differ in.

    Attributes:
        architecture: the backbone's class.
        source: the twin, once settled on a host, with which it shares its dicts of modules, parameters and buffers.
        usage: what the outputs depend on, once measured.
        image_shape: of the images it was measured with.
    """

    source: nn.Module

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self.usage: Usage | None = None
        self.image_shape: Shape | None = None

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the twin and return the tapped outputs by name."""
        raise NotImplementedError

    def prepared(self, twin: nn.Module) -> nn.Module:
        """Make the twin ready to be run by :meth:`outputs`."""
        return twin

    @property
    def names(self) -> list[str]:
        """Of the outputs."""
        raise NotImplementedError

    def only(self, *names: str) -> WholeProgram:
        """A program, not settled anywhere, for some of the outputs."""
        raise NotImplementedError

    def settled(self, host: nn.Module, model: nn.Module) -> WholeProgram:
        """Give the host the parts of a twin of the model that the outputs depend on."""
        program = self.only(*self.names)
        program.usage, program.image_shape = self.usage, self.image_shape
        program.source = program.prepared(twin_of(model, with_hooks=True))
        if self.usage is not None:
            _take_out_unused(program.source, self.usage)
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            host.__dict__[shared] = program.source.__dict__[shared]
        return program

    def run(self, host: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """The tapped outputs by name, as the backbone lays them out."""
        self.source.training = host.training
        return self.outputs(images)

    def train(self, mode: bool) -> None:
        """Let the model's own ``train`` decide which of its modules follow."""
        self.source.train(mode)

    def names_up_to(self, name: str) -> set[str]:
        """Names of the modules and tensors that a tapped output depends on, in either mode."""
        assert self.image_shape is not None
        usage = _usage_of(self.only(name), self.source, self.image_shape)
        later = (self.usage.entered if self.usage is not None else set()) - usage.entered
        layers = {n for n in usage.entered if not any(True for _ in self.source.get_submodule(n).children())}
        done = {n for n in usage.finished if not any(other.startswith(f"{n}.") for other in later)}
        return usage.used | layers | done

    def freeze(self, names: tuple[str, ...]) -> None:
        """Nothing to do: the model's own code asks the frozen modules' own flags."""

    def measure_usage(self, model: nn.Module, image_shape: Shape) -> None:
        """Find out on a shadow, in both modes, what the outputs depend on.

        Args:
            model: the backbone; it is only read.
            image_shape: (N, C, H, W) of images as it takes them.
        """
        self.usage, self.image_shape = _usage_of(self, model, image_shape), image_shape
        if self.usage.cut_off:
            warnings.warn(
                f"no gradient leaves the maps of {sorted(self.usage.cut_off)} in training, so what makes them will not "
                f"be trained: {self.architecture} computes them under torch.no_grad(), or by reentrant gradient "
                "checkpointing, for which pass use_reentrant=False",
                stacklevel=2,
            )


class Removed(nn.Module):
    """In place of a part of the backbone that the tapped outputs did not need when it was wrapped."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Refuse to be run.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "this forward takes a way through the backbone that it did not take when it was wrapped, which may depend "
            "on the images' size; wrap the backbone with example_input= of this size"
        )


class Activation(NamedTuple):
    """A function of ``torch.nn.functional`` with what it is given beside its input.

    Attributes:
        name: of the function.
        arguments: those behind the input.
        keywords: but for ``inplace``.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, value: Tensor) -> Tensor:
        """Apply it."""
        result: Tensor = getattr(F, self.name)(value, *self.arguments, **dict(self.keywords))
        return result


class Watch(NamedTuple):
    """Which output a hook waits for.

    Attributes:
        place: the module and the call of it.
        key: where in the output the map is, or None if the output is the map.
        activation: the function that directly follows and belongs to it, or None.
        overwritten: whether something later overwrites it in place, so that it has to be copied.
    """

    place: Place
    key: Key | None = None
    activation: Activation | None = None
    overwritten: bool = False


class HookProgram(WholeProgram):
    """Tapped outputs by hooks on modules; the forward ends as soon as the last one has been seen.

    Hooks, and what they fill, are plain objects inside the twin, so that copies and pickles get their own.
    """

    def __init__(self, architecture: str, watches: dict[str, Watch]) -> None:
        super().__init__(architecture)
        self.watches = watches
        self.catch = _Catch(watches)

    @property
    def names(self) -> list[str]:
        """Of the outputs."""
        return list(self.watches)

    def only(self, *names: str) -> HookProgram:
        """A program, not settled anywhere, for some of the outputs."""
        return HookProgram(self.architecture, {name: self.watches[name] for name in names})

    def prepared(self, twin: nn.Module) -> nn.Module:
        """Put the hooks on."""
        for node in {watch.place.node for watch in self.watches.values()}:
            twin.get_submodule(node).register_forward_hook(_Hook(self.catch, node))
        return twin

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the twin until every output has been seen."""
        # Not a call where it would be the same: torch.export would look for the twin among the host's modules.
        run = self.source if is_called_otherwise(self.source) else self.source.forward
        found = self.catch.start().found
        try:
            with suppress(Seen):
                run(images)
        finally:
            self.catch.end()
        missing = [self.watches[name].place.node for name in self.watches if name not in found]
        if missing:
            raise RuntimeError(f"the backbone's forward did not call {missing}; wrap it in the mode that it is used in")
        for name, watch in self.watches.items():
            if watch.activation is not None:
                found[name] = watch.activation(found[name])
        return found


def is_called_otherwise(module: nn.Module) -> bool:
    """Whether calling a module does more than running its forward."""
    call = type(module).__call__
    return bool(hooks_of(module)) or not str(call.__module__).startswith("torch")


class Seen(BaseException):
    """Everything that was waited for has been seen. Not an Exception, so that no forward's own handler stops it."""


class _Run(NamedTuple):
    """One forward: how often each module was called, and what was found."""

    calls: dict[str, int]
    found: dict[str, Tensor]


class _Catch:
    """What the hooks of one twin fill during one forward; several threads may each have one under way.

    Attributes:
        watches: what to wait for.
        runs: by thread. Between forwards there is none: what stayed would keep a graph's memory alive.
    """

    def __init__(self, watches: dict[str, Watch]) -> None:
        self.watches = watches
        self.runs: dict[int, _Run] = {}

    def start(self) -> _Run:
        run = self.runs[_thread()] = _Run({}, {})
        return run

    def end(self) -> None:
        self.runs.pop(_thread(), None)

    def see(self, node: str, output: Any) -> None:
        run = self.runs.get(_thread())
        if run is None:  # not in a forward of ours, such as where checkpointing repeats a part of it
            return
        call = run.calls.get(node, 0)
        run.calls[node] = call + 1
        for name, watch in self.watches.items():
            if watch.place.node == node and watch.place.call == call:
                tensor = output if watch.key is None else tensors_in(output)[watch.key]
                run.found[name] = tensor.clone() if watch.overwritten else tensor
        if len(run.found) == len(self.watches):
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


class IntermediatesProgram(WholeProgram):
    """Tapped outputs by timm's ``forward_intermediates``, which reshapes tokens to maps.

    Args:
        architecture: the backbone's class.
        indices: for each name of an output, its index among the intermediates, or :data:`LAST` for the final features.
    """

    def __init__(self, architecture: str, indices: dict[str, int]) -> None:
        super().__init__(architecture)
        self.indices = indices

    @property
    def names(self) -> list[str]:
        """Of the outputs."""
        return list(self.indices)

    def only(self, *names: str) -> IntermediatesProgram:
        """A program, not settled anywhere, for some of the outputs."""
        return IntermediatesProgram(self.architecture, {name: self.indices[name] for name in names})

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the twin's ``forward_intermediates``."""
        wanted = sorted({index for index in self.indices.values() if index != LAST})
        final, maps = call_intermediates(self.source, images, wanted, with_final=LAST in self.indices.values())
        return {n: final if i == LAST else maps[wanted.index(i)] for n, i in self.indices.items()}


def call_intermediates(
    model: nn.Module, images: Tensor, indices: list[int] | None, with_final: bool
) -> tuple[Any, list[Tensor]]:
    """Call a timm model's ``forward_intermediates``, whose arguments vary a little among models.

    Returns:
        The final features, None unless asked for, and the intermediates as (N, C, H, W) maps.
    """
    asked = {
        "indices": 1 if indices == [] else indices,  # none of the maps, but these models want at least one
        "output_fmt": "NCHW",
        "stop_early": True,
        "intermediates_only": not with_final,
    }
    function: Callable[..., Any] = getattr(model, "forward_intermediates")  # noqa: B009  (not every module has one)
    known = inspect.signature(function).parameters
    result = function(images, **{key: value for key, value in asked.items() if key in known})
    if not with_final and "intermediates_only" in known:
        return None, list(result)
    final, maps = result
    return final if with_final else None, list(maps)


def watch_for(place: Place, measured: Probe) -> Watch:
    """How to catch a module's output by a hook, whatever comes behind it.

    Args:
        place: whose output; a module's.
        measured: the probe of the backbone.

    Raises:
        ValueError: if no module of that name is called, or its output holds no map or several.
    """
    call = measured.call_at(place)
    if call is None:
        raise ValueError(f"the backbone calls no module {place.node!r}")
    if call.output_shape is None and call.only_map is None:
        raise ValueError(
            f"{place.node!r} returns a {call.container or 'value'} with {call.contained or 'no tensor'}; name a module "
            "inside it that returns one map"
        )
    if place.calls < 1:
        same = sum(other.name == place.node for other in measured.root.calls())
        place = Place(place.node, same - 1, same)
    return Watch(place, None if call.output_shape is not None else call.only_map)


def safe_watch_for(place: Place, measured: Probe, following_activation: bool) -> Watch:
    """How to catch a module's output by a hook, and keep it from what comes behind it.

    Args:
        place: whose output; a module's.
        measured: the probe of the backbone.
        following_activation: whether a functional activation that directly follows belongs to it.

    Raises:
        ValueError: as :func:`watch_for`, and if a function that belongs to the output makes another map of it.
    """
    watch = watch_for(place, measured)
    # Dropout, for one, overwrites in training only; functions are looked for in evaluation.
    function, overwritten = _followed(watch, measured, training=False)
    overwritten = overwritten or _followed(watch, measured, training=True)[1]
    if following_activation and function.name.strip("_") in MAKE_ANOTHER_MAP:
        raise ValueError(
            f"the function {function.name!r} makes another map of that of {place.node!r}, and only a graph could tap "
            "it; write it as a module, or name the modules that are to be tapped"
        )
    activation = function._replace(name=function.name.rstrip("_"))
    belongs = following_activation and function.name in ACTIVATIONS
    return watch._replace(activation=activation if belongs else None, overwritten=overwritten)


def _followed(watch: Watch, measured: Probe, training: bool) -> tuple[Activation, bool]:
    """The first function that is given an output, "" if none is, and whether the output is later overwritten."""
    twin = switched(twin_of(measured.shadow), training)
    place, key = watch.place, watch.key
    calls: list[None] = []
    caught: list[Tensor] = []
    versions: list[int] = []
    functions: list[Activation] = []

    def catch(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if len(calls) == place.call:
            caught.append(output if key is None else tensors_in(output)[key])
            versions.append(caught[0]._version)
        calls.append(None)

    class Follow(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(function, "__name__", "")
            if caught and any(leaf is caught[0] for leaf in tree_leaves(args)) and name not in _READS_ONLY:
                keywords = tuple((k, v) for k, v in (kwargs or {}).items() if k not in ("input", "inplace"))
                functions.append(Activation(name, tuple(args[1:]), keywords))
            return function(*args, **(kwargs or {}))

    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if caught and any(leaf is caught[0] for leaf in tree_leaves(arguments)):
            functions.append(Activation(""))  # what functions inside of it do is its own

    for module in twin.modules():
        module.register_forward_pre_hook(enter)
    twin.get_submodule(place.node).register_forward_hook(catch)
    whatever = suppress(Exception) if training else nullcontext()  # whether it can be trained is for others to say
    with whatever, torch.no_grad(), quiet_fakes(), measured.mode, Follow():
        twin(measured.fake_images(batch_size=2))
    return functions[0] if functions else Activation(""), bool(caught) and caught[0]._version != versions[0]


def _usage_of(program: WholeProgram, model: nn.Module, image_shape: Shape) -> Usage:
    usage = Usage(set(), set(), set(), set(), set())
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for training in (True, False):
        run = program.only(*program.names)
        run.source = switched(run.prepared(shadow_of(model, mode)), training)
        parameters = {n: p for n, p in run.source.named_parameters(remove_duplicate=False) if p.is_floating_point()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for name, module in run.source.named_modules(remove_duplicate=False):  # under all of its names
            if name:
                module.register_forward_pre_hook(lambda module, arguments, name=name: usage.entered.add(name))
                module.register_forward_hook(lambda module, arguments, out, name=name: usage.finished.add(name))
        # Training may depend on values that fakes do not have; what evaluation depends on has to do then.
        whatever = suppress(DataDependentOutputException) if training else nullcontext()
        with whatever, torch.enable_grad(), quiet_fakes(), mode:
            with _Uses(parameters, usage.used):
                outputs = run.outputs(fake_images(run.source, mode, (2, *image_shape[1:])))
            usage.reached.update(_reached(list(outputs.values()), parameters, usage.entered))
            lost = {name for name, output in outputs.items() if not output.requires_grad}
            usage.cut_off.update(lost if training and parameters else ())
    return usage


class _Uses(TorchFunctionMode):
    """Notes which parameters any function is given, also where no gradient will reach them, or that are looked at."""

    def __init__(self, parameters: dict[str, nn.Parameter], used: set[str]) -> None:
        super().__init__()
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self.used = used

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument in tree_leaves((args, kwargs or {})):
            if id(argument) in self.names:
                self.used.add(self.names[id(argument)])
        return function(*args, **(kwargs or {}))


class Training(NamedTuple):
    """What one step of training would touch.

    Attributes:
        reached: names of the parameters that a gradient reaches.
        held: names of the parameters that the program uses.
        updated: names of the buffers and parameters that the forward changes.
        custom_backward: the class of a backward written in Python, or None.
    """

    reached: set[str]
    held: set[str]
    updated: set[str]
    custom_backward: str | None


def training_of(
    program: Program, model: nn.Module, image_shape: Shape, names: list[str] | None = None
) -> Training | None:
    """Run a program in training, with gradients, on a shadow of the model; None where that is not possible.

    Args:
        program: computes the outputs; it is settled on a host of its own.
        model: the backbone; it is only read.
        image_shape: (N, C, H, W) of images as it takes them.
        names: of the outputs that count; all if None.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    shadow = switched(shadow_of(model, mode), True).requires_grad_(False)
    parameters = {n: p for n, p in shadow.named_parameters(remove_duplicate=False) if p.is_floating_point()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    tensors = {**dict(shadow.named_buffers(remove_duplicate=False)), **parameters}
    before = {name: state_of(tensor) for name, tensor in tensors.items()}
    host = nn.Module()
    host.training = True
    try:
        with torch.enable_grad(), quiet_fakes(), mode:
            settled = program.settled(host, shadow)
            outputs = settled.run(host, fake_images(shadow, mode, (2, *image_shape[1:])))
            wanted = [output for name, output in outputs.items() if names is None or name in names]
            custom = next((c for c in map(_custom_backward, wanted) if c is not None), None)
            reached = _gradients_reach(wanted, parameters)
    except Exception:  # an operation without fake values or without a gradient
        return None
    updated = {name for name, tensor in tensors.items() if state_of(tensor) != before[name]}
    held = {name for name, parameter in host.named_parameters(remove_duplicate=False) if name in parameters}
    return Training(reached, held, updated, custom)


def _custom_backward(output: Tensor) -> str | None:
    waiting, seen = [output.grad_fn], set()
    while waiting:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if isinstance(function, torch.autograd.function.BackwardCFunction):
            return type(function).__name__.removesuffix("Backward")
        waiting.extend(following for following, _ in function.next_functions)
    return None


def _reached(outputs: list[Tensor], parameters: dict[str, nn.Parameter], entered: set[str]) -> set[str]:
    """The parameters that a gradient from the outputs reaches, or those of what was called where none can be taken."""
    try:
        return _gradients_reach(outputs, parameters)
    except RuntimeError:  # no gradient, or an operation without one
        return {name for name in parameters if name.rpartition(".")[0] in entered | {""}}


def _gradients_reach(outputs: list[Tensor], parameters: dict[str, nn.Parameter]) -> set[str]:
    total = torch.stack([output.float().sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _take_out_unused(twin: nn.Module, usage: Usage) -> None:
    """Remove parameters that no output depends on, and modules that are left without any.

    Those that are used, but never reached by a gradient, become buffers, so that nobody waits for their gradients.
    """
    kept = {name[:end] for name in usage.entered | usage.used | usage.reached for end in (*_dots(name), len(name))}
    for name, module in list(twin.named_modules(remove_duplicate=False)):
        for key, parameter in list(module._parameters.items()):
            full = joined(name, key)
            if parameter is not None and parameter.is_floating_point() and full not in usage.reached:
                module._parameters[key] = None
                if full in usage.used:  # without a gradient: it is read, and not trained
                    del module._parameters[key]
                    module.register_buffer(key, parameter.detach())
        for key, child in list(module._modules.items()):
            listed = isinstance(child, nn.ModuleList | nn.ModuleDict)  # may be looked through; what it holds goes
            if child is not None and not listed and joined(name, key) not in kept and _has_parameters(child):
                module._modules[key] = Removed()


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _dots(name: str) -> list[int]:
    return [position for position, letter in enumerate(name) if letter == "."]
