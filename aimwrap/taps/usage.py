"""A program that runs the backbone's own code, and which parts of the backbone its outputs use.

For backbones that cannot be traced, or that return intermediates themselves. The program runs on a copy of the modules
with the same parameters (:func:`.copies.twin_of`), so the user's model is not changed. Modules and parameters that the
tapped outputs do not use are removed from the copy: an optimiser does not see them, and DistributedDataParallel does
not wait for their gradients.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .copies import joined, quiet_fakes, shadow_of, switched, twin_of
from .layout import Shape
from .probe import fake_images


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


class OwnCodeProgram:
    """Tapped outputs by the backbone's own code on a twin of it; :meth:`outputs` differs among subclasses.

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

    def only(self, *names: str) -> OwnCodeProgram:
        """A program, not settled anywhere, for some of the outputs."""
        raise NotImplementedError

    def settled(self, host: nn.Module, model: nn.Module) -> OwnCodeProgram:
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
        """Find out on a shadow, in both modes, what the outputs depend on."""
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
            "this forward uses a part of the backbone that it did not use when it was wrapped, which may depend "
            "on the images' size; wrap the backbone with example_input= of this size"
        )


def _usage_of(program: OwnCodeProgram, model: nn.Module, image_shape: Shape) -> Usage:
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
        # Training may depend on values that fakes do not have; then only evaluation counts.
        whatever = suppress(DataDependentOutputException) if training else nullcontext()
        with whatever, torch.enable_grad(), quiet_fakes(), mode:
            with _Uses(parameters, usage.used):
                outputs = run.outputs(fake_images(run.source, mode, (2, *image_shape[1:])))
            usage.reached.update(_reached(list(outputs.values()), parameters, usage.entered))
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


def _reached(outputs: list[Tensor], parameters: dict[str, nn.Parameter], entered: set[str]) -> set[str]:
    """The parameters that a gradient from the outputs reaches, or those of what was called where none can be taken."""
    try:
        return gradients_reach(outputs, parameters)
    except RuntimeError:  # no gradient, or an operation without one
        return {name for name in parameters if name.rpartition(".")[0] in entered | {""}}


def gradients_reach(outputs: list[Tensor], parameters: dict[str, nn.Parameter]) -> set[str]:
    """The names of the parameters that a gradient from the outputs reaches."""
    total = torch.stack([output.float().sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _take_out_unused(twin: nn.Module, usage: Usage) -> None:
    """Remove parameters that no output depends on, and modules that are left without any.

    Those that are used, but never reached by a gradient, become buffers, so that nothing waits for their gradients.
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
