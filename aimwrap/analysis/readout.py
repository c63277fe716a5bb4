"""Read a model's decision: the AIM inside a wrapper, evaluation mode for one run, and the shares of a linear layer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from .._numerics import both_sides, wide_dtype, without_autocast
from ..model import AIM
from ..top_down import Pooling, pooling_weights

Kind = TypeVar("Kind", bound=nn.Module)

_SWITCHING = threading.Lock()
_runs: dict[nn.Module, int] = {}  # how many runs, of all threads, hold a module of a training model in evaluation mode


def shares(linear: nn.Linear, part: Tensor, mask: Tensor, pooling: Pooling, classes: Tensor | None = None) -> Tensor:
    """How much each position of a part (N, D, H, W) of the classified map adds to the logits (eq. 5, before its sum).

    ``mask`` (N, 1, H, W) says which positions the map is averaged over. (N, K, H, W), float32 at least, for K class
    numbers, or for all classes.
    """
    with without_autocast(part):
        weight = (linear.weight if classes is None else both_sides(linear.weight, 0)[classes]).to(wide_dtype(part))
        # einsum's result has strides that tie an export's image size to its batch size.
        per_position = torch.matmul(weight, part.to(weight.dtype).flatten(2)).unflatten(2, part.shape[2:])
        contributions: Tensor = per_position * pooling_weights(mask, pooling).to(weight.dtype)
        return contributions


def unwrap(model: nn.Module) -> AIM:
    """The AIM inside a model, as :func:`inside` finds it.

    Raises:
        TypeError: if there is none.
    """
    aim = inside(model, AIM)
    if aim is None:
        raise TypeError(f"model must be an AIM, got {type(model).__name__}; {_way_out(model)}")
    return aim


def inside(model: nn.Module, kind: type[Kind]) -> Kind | None:
    """The module of a kind inside ``torch.compile``'s and the data-parallel wrappers, or in an attribute ``model``."""
    inner: object = model
    while not isinstance(inner, kind):
        names = ("_orig_mod", "module", "model")  # torch.compile, data parallel, LogitsView and Lightning modules
        held = (getattr(inner, name, None) for name in names)
        wrapped = next((module for module in held if isinstance(module, nn.Module)), None)
        if wrapped is None:
            return None
        inner = wrapped
    return inner


def linear_classifier(model: nn.Module) -> nn.Linear:
    """The final classifier.

    Raises:
        TypeError: if it is not a linear layer.
    """
    if not isinstance(model.classifier, nn.Linear) or type(model.classifier).forward is not nn.Linear.forward:
        raise TypeError(
            f"model.classifier must be one nn.Linear, got {type(model.classifier).__name__}: after anything else a "
            "logit is not a sum over positions, and has no exact explanation"
        )
    return model.classifier


def bias_of(linear: nn.Linear) -> Tensor:
    """What a classifier adds to each logit whatever it sees, (K,)."""
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Run in evaluation mode, then give every module back the mode that it had.

    Threads may share a model: what one of them switched goes back to training when the last has ended. Where all of it
    is in evaluation mode already nothing is written. A RuntimeError says that another thread began to train it.
    """
    if torch.compiler.is_compiling() and not any(module.training for module in model.modules()):
        return nullcontext()  # a lock cannot be compiled, and a compiled graph keeps its mode
    return _switched(model)


@contextmanager
def _switched(model: nn.Module) -> Iterator[None]:
    with _SWITCHING:
        switched = [module for module in model.modules() if module.training or module in _runs]
        _runs.update((module, _runs.get(module, 0) + 1) for module in switched)
        if any(module.training for module in switched):
            model.eval()
        held = [module for module in model.modules() if not module.training]
    try:
        yield
        if any(module.training for module in held):
            raise RuntimeError("model was switched to training while it was explained; explain copy.deepcopy(model)")
    finally:
        with _SWITCHING:
            for module in switched:
                _runs[module] -= 1
                if not _runs[module]:
                    del _runs[module]
                    module.training = True


def _way_out(model: object) -> str:
    parts = model.named_modules() if isinstance(model, nn.Module) else ()
    held = next((name for name, part in parts if isinstance(part, AIM)), None)
    return "wrap the backbone: AIM(backbone, stages=[2, 3])" if held is None else f"pass the one in it, model.{held}"
