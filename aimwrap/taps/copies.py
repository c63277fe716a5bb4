"""Copies of a module's structure: with fake tensors, to be run and traced without cost, or with the module's own.

Models that cannot be copied correctly are refused (:func:`unwrapped`).

A shadow's tensors are fake: they have shapes, dtypes and devices, but no memory and no values. Running it moves no
statistics of the original, fires none of its hooks and costs no memory; tracing it (:mod:`.graph`) may switch its
training flags at will. A twin's tensors are the original's, so it computes the same; only its modules are its own.
"""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FunctionType, MethodType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from .._wrappers import unwrap_compiled

_Renew = Callable[[Tensor], Tensor]


class OwnHook:
    """A hook that belongs to how a module works, not one added from outside: copies keep it."""


# torch's older ways to compute weights from other parameters.
_KEPT_HOOKS = (OwnHook, WeightNorm, SpectralNorm, BasePruningMethod)


def shadow_of(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Copy a module's structure, with fake tensors for its tensors and only the hooks that it works by."""
    shadow = _copy_of(module, mode.from_tensor, lambda value: mode.from_tensor(value.detach()))
    for submodule in shadow.modules():
        if isinstance(submodule, nn.modules.batchnorm._NormBase) and submodule.momentum is None:
            submodule.momentum = 0.1  # a cumulative average reads the value of its counter, and fakes have none
    return shadow


def joined(name: str, key: str) -> str:
    """The qualified name of a module's attribute; the root's name is empty."""
    return f"{name}.{key}" if name else key


def switched(module: nn.Module, training: bool) -> nn.Module:
    """Switch a module's mode by its own ``train``, which may return nothing."""
    module.train(training)
    return module


def traceable_shadow_of(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A shadow whose buffers and tensor attributes are parameters.

    Tracing records what is done with parameters and bakes the result of anything done with other tensors in as a
    constant: here one without values, and on the real model one that no longer follows the buffer.
    """
    shadow = shadow_of(module, mode)
    for submodule in shadow.modules():
        tensors = {name: value for name, value in vars(submodule).items() if isinstance(value, Tensor)}
        tensors |= {name: value for name, value in submodule._buffers.items() if value is not None}
        for name, value in tensors.items():
            vars(submodule).pop(name, None)
            submodule._buffers.pop(name, None)
            submodule._parameters[name] = nn.Parameter(value, requires_grad=False)
    return shadow


def is_adapter(module: nn.Module) -> bool:
    """Whether flags of a module say if what it adds to a layer, or puts in its place, is on or merged (LoRA, PEFT)."""
    stands_in = hasattr(module, "original_module") and hasattr(module, "modules_to_save")
    has_layer = stands_in or hasattr(getattr(module, "base_layer", None), "weight")
    return has_layer or hasattr(module, "lora_A") or (hasattr(module, "merged") and hasattr(module, "unmerge"))


def twin_of(
    module: nn.Module, own_buffers: bool = False, own_parameters: bool = False, with_hooks: bool = False
) -> nn.Module:
    """Copy a module's structure around the very same tensors, with its training flags.

    ``own_buffers`` copies the buffers and plain tensor attributes, so that running the twin cannot move the original's;
    ``own_parameters`` the parameters, for forwards that write into them; ``with_hooks`` keeps hooks that were added,
    adapters themselves, so that what they have merged or switched off is so in the twin, too, and the dicts of buffers,
    where ``to()`` puts new ones.
    """

    def kept(value: Tensor) -> Tensor:
        if isinstance(value, nn.Parameter):
            return nn.Parameter(value.detach().clone(), value.requires_grad) if own_parameters else value
        return value.detach().clone() if own_buffers else value

    twin = _copy_of(module, kept, kept, keep_adapters=with_hooks)
    if with_hooks:
        for source, copied in zip(module.modules(), twin.modules(), strict=True):
            copied._buffers = source._buffers
            for attribute, hooks in hooks_of(source).items():
                table = getattr(copied, attribute)
                table.update({key: hook for key, hook in hooks.items() if key not in table})
    return twin


def hooks_of(module: nn.Module) -> dict[str, dict[int, Any]]:
    """Hooks that were added to a module's forward or backward, by the attribute that holds them.

    Those that a module works by, such as the older weight norm's, are left out: every copy has its own.
    """
    found: dict[str, dict[int, Any]] = {}
    for attribute in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        keys = {key for key, hook in vars(module).get(attribute, {}).items() if not isinstance(hook, _KEPT_HOOKS)}
        for holder in (attribute, f"{attribute}_with_kwargs", f"{attribute}_always_called"):
            hooks = {key: value for key, value in vars(module).get(holder, {}).items() if key in keys}
            if hooks:
                found[holder] = hooks
    return found


@contextmanager
def unmoved_generators() -> Iterator[Callable[[], bool]]:
    """Put torch's (the CPU's), Python's and NumPy's generators back when done.

    The function that is yielded says whether one of them has been used so far.
    """
    numpy = sys.modules.get("numpy")  # torchvision brings it; where it is not loaded, it is not used

    def states() -> tuple[Any, ...]:
        return torch.get_rng_state(), random.getstate(), None if numpy is None else numpy.random.get_state()

    def moved() -> bool:
        (chance, dice, draws), (chance_before, dice_before, draws_before) = states(), before
        same = draws is None or (draws[2] == draws_before[2] and (draws[1] == draws_before[1]).all())
        return dice != dice_before or not torch.equal(chance, chance_before) or not same

    before = states()
    try:
        yield moved
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        if numpy is not None:
            numpy.random.set_state(before[2])


def python_generators() -> list[tuple[Any, object]]:
    """Every generator of Python and of NumPy that there is, wherever it is kept, with its state."""
    kinds: tuple[type, ...] = (random.Random,)
    everyones: list[Any] = [random.getstate.__self__]  # type: ignore[attr-defined]  # gc.freeze() may hide it
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"].random
        kinds += (numpy.BitGenerator,)
        everyones.append(numpy.get_state.__self__._bit_generator)
    found = [o for o in gc.get_objects() if issubclass(type(o), kinds) and not isinstance(o, random.SystemRandom)]
    found += [generator for generator in everyones if not any(generator is other for other in found)]
    return [(generator, state_of_generator(generator)) for generator in found]


def state_of_generator(generator: Any) -> object:
    """What changes when a number is drawn from it."""
    return generator.getstate() if isinstance(generator, random.Random) else pickle.dumps(generator.state)


@contextmanager
def quiet_fakes() -> Iterator[None]:
    """Silence logs and warnings of trial runs, and put the random generators back afterwards."""
    with warnings.catch_warnings(), unmoved_generators(), ExitStack() as silenced:
        warnings.simplefilter("ignore")
        for name in ("torch._subclasses.fake_tensor", "torch.utils.flop_counter"):
            silenced.enter_context(patch.object(logging.getLogger(name), "disabled", True))
        yield


def _copy_of(module: nn.Module, registered: _Renew, plain: _Renew, keep_adapters: bool = False) -> nn.Module:
    memo: dict[int, Any] = {id(m): m for m in module.modules() if keep_adapters and m is not module and is_adapter(m)}
    own: list[tuple[dict[int, object], int, object]] = []
    for tensor in (*module.parameters(), *module.buffers()):
        memo[id(tensor)] = registered(tensor)
    modules = set(module.modules())
    for submodule in modules:
        tables = [value for name, value in vars(submodule).items() if "_hooks" in name and isinstance(value, dict)]
        kept = {key for table in tables for key, hook in table.items() if _works_by(hook, modules)}
        for table in tables:
            memo[id(table)] = type(table)()
            own.extend((table, key, hook) for key, hook in table.items() if key in kept)
        for value in vars(submodule).values():
            if isinstance(value, Tensor):
                memo[id(value)] = plain(value)
    prepared = dict(memo)
    try:
        copied: nn.Module = copy.deepcopy(module, memo)
    except Exception:  # activations, locks, open files, handles of data bases
        memo = prepared
        for value in tree_leaves([dict(vars(submodule)) for submodule in modules]):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = plain(value)
        _share_what_cannot_be_copied(module, memo)
        copied = copy.deepcopy(module, memo)
    for hooks, key, hook in own:
        memo[id(hooks)][key] = copy.deepcopy(hook, memo)
    for submodule in copied.modules():
        source = getattr(submodule, "_orig_mod", None)
        if isinstance(source, nn.Module):  # a compiled part: its code is run as it was written
            submodule.forward = source.__call__
    return copied


def _works_by(hook: object, modules: set[nn.Module]) -> bool:
    """Whether a hook is part of how one of the modules works: one by its class, or a method of a module."""
    return isinstance(hook, _KEPT_HOOKS) or (isinstance(hook, MethodType) and hook.__self__ in modules)


def _share_what_cannot_be_copied(module: nn.Module, memo: dict[int, Any]) -> None:
    for submodule in module.modules():
        for name, value in vars(submodule).items():
            if name not in nn.Module().__dict__:
                try:
                    copy.deepcopy(value, dict(memo))
                except Exception as error:  # each kind of object raises its own error
                    if any(isinstance(held, nn.Module) for held in getattr(value, "__dict__", {}).values()):
                        raise ValueError(
                            f"the backbone's attribute {name!r} cannot be copied ({error}) and holds a module, which "
                            f"copies would share; define {type(value).__name__}.__deepcopy__, or pass the module to it"
                        ) from error
                    memo[id(value)] = value


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper, or the model itself: one that can be copied, run and tapped.

    Raises:
        TypeError: if it is not an ``nn.Module``, or one that is scripted or wrapped for several devices.
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
        _refuse(name, module, modules)
    return source


def _refuse(name: str, module: nn.Module, modules: set[nn.Module]) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"the backbone's part {name!r} is a scripted module, which cannot be tapped; use the module "
            "that it was scripted from instead"
        )
    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and is_lazy(tensor):
            raise ValueError(
                f"{joined(name, key)!r} has no shape yet: {type(module).__name__} takes it from the first batch; "
                "run the backbone once, on images as it takes them, before wrapping it"
            )
        if tensor is not None and tensor.is_inference():
            raise ValueError(
                f"{joined(name, key)!r} was made under torch.inference_mode(), so it can never be trained; build the "
                "backbone outside of that"
            )
    for key, value in vars(module).items():
        torchs_own = key == "forward" or key.startswith("_compiled")  # forwards have a refusal of their own
        if isinstance(value, FunctionType) and not torchs_own and any(held in modules for held in _modules_in(value)):
            raise ValueError(
                f"{joined(name, key)!r} is a function that holds on to a module of the backbone, which every copy "
                "would still use; write it as a method, or pass the module to it as an argument"
            )
    forward = vars(module).get("forward")
    if isinstance(forward, FunctionType) and not hasattr(module, "_orig_mod"):  # except what torch.compile wraps
        function = "function" if forward.__name__ == "<lambda>" else forward.__name__
        raise ValueError(
            f"the forward of {f'the part {name!r}' if name else 'the backbone'} was replaced by a function, which "
            f"would run the original's modules in every copy; bind it instead: module.forward = types.MethodType("
            f"{function}, module), with the module as its first argument"
        )


def _modules_in(function: FunctionType) -> Iterator[nn.Module]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # of a cell with nothing in it yet
            if isinstance(cell.cell_contents, nn.Module):
                yield cell.cell_contents
