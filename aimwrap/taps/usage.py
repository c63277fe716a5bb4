"""Programs that run the backbone's own code, and which parts of the backbone their outputs use.

For backbones that cannot be traced (:mod:`.hooks`), or that return intermediates themselves. The program runs on a copy
of the modules with the same parameters (:func:`.copies.twin_of`), so the user's model is not changed. Modules and
parameters that the tapped outputs do not use are removed from the copy: an optimiser does not see them, and
DistributedDataParallel does not wait for their gradients.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .copies import is_adapter, joined, quiet_fakes, shadow_of, switched, twin_of
from .layout import Shape
from .probe import fake_images

LAST = -1  # the index of the final features of forward_intermediates among the intermediates


class Usage(NamedTuple):
    """What a program's outputs depend on, in either mode, by name."""

    entered: set[str]  # modules that are called
    used: set[str]  # parameters
    reached: set[str]  # those among them that a gradient reaches
    cut_off: set[str]  # outputs that carry no gradient in training
    finished: set[str]  # modules whose calls had ended when the last output was seen
    image_shape: Shape  # that it was measured with


class OwnCodeProgram:
    """Tapped outputs by the backbone's own code on a twin of it; :meth:`outputs` differs among subclasses.

    Attributes:
        wanted: by the name of each output, where the subclass finds it.
        source: the twin, once settled on a host, with which it shares its dicts of modules, parameters and buffers.
        usage: what the outputs depend on, once measured.
    """

    source: nn.Module

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self.wanted = wanted
        self.usage: Usage | None = None

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the twin and return the tapped outputs by name."""
        raise NotImplementedError

    def prepared(self, twin: nn.Module) -> nn.Module:
        """Make the twin ready to be run by :meth:`outputs`."""
        return twin

    def only(self, *names: str) -> OwnCodeProgram:
        """A program, not settled anywhere, for some of the outputs."""
        return type(self)({name: self.wanted[name] for name in names})

    def settled(self, host: nn.Module, model: nn.Module) -> OwnCodeProgram:
        """Give the host the parts of a twin of the model that the outputs depend on."""
        program = self.only(*self.wanted)
        program.usage = self.usage
        program.source = program.prepared(twin_of(model, with_hooks=True))
        if self.usage is not None:
            _take_out_unused(program.source, self.usage)
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            host.__dict__[shared] = program.source.__dict__[shared]
        return program

    def run(self, host: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """The tapped outputs by name, as the backbone lays them out."""
        self.source.training = host.training
        return self.outputs(images.clone())  # which its code may overwrite

    def train(self, mode: bool) -> None:
        """Let the model's own ``train`` decide which of its modules follow."""
        self.source.train(mode)

    def names_up_to(self, name: str) -> set[str]:
        """Names of the modules and tensors that a tapped output depends on, in either mode."""
        assert self.usage is not None
        usage = _usage_of(self.only(name), self.source, self.usage.image_shape)
        later = self.usage.entered - usage.entered
        layers = {n for n in usage.entered if not any(True for _ in self.source.get_submodule(n).children())}
        done = {n for n in usage.finished if not any(other.startswith(f"{n}.") for other in later)}
        return usage.used | layers | done

    def freeze(self, names: tuple[str, ...]) -> None:
        """Nothing to do: the model's own code asks the frozen modules' own flags."""

    def measure_usage(self, model: nn.Module, image_shape: Shape) -> None:
        """Find out on a shadow, in both modes, what the outputs depend on."""
        self.usage = _usage_of(self, model, image_shape)
        if self.usage.cut_off:
            warnings.warn(
                f"no gradient leaves the maps of {sorted(self.usage.cut_off)} in training, so what makes them will not "
                f"be trained: {type(model).__name__} computes them under torch.no_grad(), or by reentrant gradient "
                "checkpointing, for which pass use_reentrant=False",
                stacklevel=2,
            )


class IntermediatesProgram(OwnCodeProgram):
    """Tapped outputs by timm's ``forward_intermediates``, which reshapes tokens to maps.

    For each name of an output ``wanted`` has its index among the intermediates, or :data:`LAST`.
    """

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the twin's ``forward_intermediates``."""
        indices = sorted({index for index in self.wanted.values() if index != LAST})
        final, maps = call_intermediates(self.source, images, indices, with_final=LAST in self.wanted.values())
        return {n: final if i == LAST else maps[indices.index(i)] for n, i in self.wanted.items()}


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


class Removed(nn.Module):
    """In place of a part of the backbone that the tapped outputs did not need when it was wrapped."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Refuse to be run, by a RuntimeError."""
        raise RuntimeError(
            "this forward uses a part of the backbone that it did not use when it was wrapped, which may depend "
            "on the images' size; wrap the backbone with example_input= of this size"
        )


def _usage_of(program: OwnCodeProgram, model: nn.Module, image_shape: Shape) -> Usage:
    usage = Usage(set(), set(), set(), set(), set(), image_shape)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for training in (True, False):
        run, shadow = program.only(*program.wanted), shadow_of(model, mode)
        for name, module in shadow.named_modules(remove_duplicate=False):  # under all of its names
            if name:
                module.register_forward_pre_hook(lambda module, arguments, name=name: usage.entered.add(name))
                module.register_forward_hook(lambda module, arguments, out, name=name: usage.finished.add(name))
        run.source = switched(run.prepared(shadow), training)  # its hooks come after these: the last one ends the run
        parameters = {n: p for n, p in run.source.named_parameters(remove_duplicate=False) if p.is_floating_point()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        # Training may depend on values that fakes do not have; then only evaluation counts.
        whatever = suppress(DataDependentOutputException) if training else nullcontext()
        with whatever, torch.enable_grad(), quiet_fakes(), mode:
            with _Uses(parameters, usage.used):
                outputs = run.outputs(fake_images(run.source, mode, (2, *image_shape[1:])))
            try:
                usage.reached.update(gradients_reach(list(outputs.values()), parameters))
            except RuntimeError:  # no gradient, or an operation without one: take the parameters of what was called
                called = usage.entered | {""}
                usage.reached.update(name for name in parameters if name.rpartition(".")[0] in called)
            lost = {name for name, output in outputs.items() if not output.requires_grad}
            usage.cut_off.update(lost if training and parameters else ())
    return usage


class _Uses(TorchFunctionMode):
    """Notes which parameters any function is given, also where no gradient will reach them."""

    def __init__(self, parameters: dict[str, nn.Parameter], used: set[str]) -> None:
        super().__init__()
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self.used = used

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument in tree_leaves((args, kwargs or {})):
            if id(argument) in self.names:
                self.used.add(self.names[id(argument)])
        return function(*args, **(kwargs or {}))


def gradients_reach(outputs: list[Tensor], parameters: dict[str, nn.Parameter]) -> set[str]:
    """The names of the parameters that a gradient from the outputs reaches."""
    total = torch.stack([output.float().sum() for output in outputs]).sum()
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}  # by the forward
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    return {name for name, gradient in zip(trained, gradients, strict=True) if gradient is not None}


def _take_out_unused(twin: nn.Module, usage: Usage) -> None:
    """Remove parameters that no output depends on, and modules that are left without any.

    Those that are used, but never reached by a gradient, become buffers, so that nothing waits for their gradients.
    """
    needed = usage.entered | usage.used | usage.reached
    kept = {".".join(name.split(".")[:end]) for name in needed for end in range(1, name.count(".") + 2)}
    own = {part for module in twin.modules() if module is not twin and is_adapter(module) for part in module.modules()}
    for name, module in [pair for pair in twin.named_modules(remove_duplicate=False) if pair[1] not in own]:
        for key, parameter in list(module._parameters.items()):
            full = joined(name, key)
            if parameter is not None and parameter.is_floating_point() and full not in usage.reached:
                module._parameters[key] = None
                if full in usage.used:  # without a gradient: it is read, and not trained
                    del module._parameters[key]
                    module._buffers = dict(module._buffers)  # the model has none of this name
                    module.register_buffer(key, parameter.detach())
        for key, child in list(module._modules.items()):
            if child is None or isinstance(child, nn.ModuleList | nn.ModuleDict):
                continue  # lists may be looked through; what they hold goes
            if joined(name, key) not in kept and any(True for _ in child.parameters()):
                module._modules[key] = Removed()
