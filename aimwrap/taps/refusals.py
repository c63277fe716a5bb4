"""Which models can be tapped at all: those whose copies stand by themselves. The others are told what to change."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .._wrappers import unwrap_compiled
from .copies import joined


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper, or the model itself.

    Args:
        model: what the user passed.

    Returns:
        A module that can be copied, run on the copies' own modules, and tapped.

    Raises:
        TypeError: if it is no ``nn.Module``, or one that is scripted or wrapped for several devices.
        ValueError: if a part of it has no shape yet, or holds on to modules that a copy would share with it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"backbone must be an nn.Module or a model's name, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("backbone is a scripted module, which cannot be tapped; pass the module it was scripted from")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise TypeError(f"backbone is wrapped in {type(model).__name__}; pass its .module, and wrap AIM instead")
    source = unwrap_compiled(model)
    modules = set(source.modules())
    for name, module in source.named_modules():
        _refuse_scripted(name, module)
        _refuse_without_shape(name, module)
        _refuse_functions_that_hold_modules(name, module, modules)
        _refuse_replaced_forward(name, module)
    return source


def _refuse_scripted(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"the backbone's part {name!r} is a scripted module, which cannot be tapped; put the module that it was "
            "scripted from in its place"
        )


def _refuse_without_shape(name: str, module: nn.Module) -> None:
    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and is_lazy(tensor):
            raise ValueError(
                f"{joined(name, key)!r} has no shape yet, as {type(module).__name__} gets its own from the first "
                "batch; run the backbone once, on images as it takes them, before wrapping it"
            )


def _refuse_functions_that_hold_modules(name: str, module: nn.Module, modules: set[nn.Module]) -> None:
    for key, value in vars(module).items():
        torchs_own = key == "forward" or key.startswith("_compiled")  # forwards have a refusal of their own
        if isinstance(value, FunctionType) and not torchs_own and any(held in modules for held in _modules_in(value)):
            raise ValueError(
                f"{joined(name, key)!r} is a function that holds on to a module of the backbone, which every copy "
                "would go on using; write it as a method, or hand the module to it as an argument"
            )


def _refuse_replaced_forward(name: str, module: nn.Module) -> None:
    forward = vars(module).get("forward")
    if isinstance(forward, FunctionType) and not hasattr(module, "_orig_mod"):  # but what torch.compile wraps
        function = "function" if forward.__name__ == "<lambda>" else forward.__name__
        raise ValueError(
            f"the forward of {f'the part {name!r}' if name else 'the backbone'} was replaced by a function, which "
            f"would run the original's modules in every copy; bind it instead: module.forward = types.MethodType("
            f"{function}, module), with the module as its first argument"
        )


def _modules_in(function: FunctionType) -> Iterator[nn.Module]:
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # nothing yet
            continue
        if isinstance(content, nn.Module):
            yield content
