"""What a tensor was computed by: two tensors of one fingerprint are the same function of the same inputs.

Shapes do not tell a stage's last block from the one before. Values would, but cost memory and time for 1,400 models.
So the operations are recorded while a model runs on the meta device: a fingerprint is a hash of the operation that
made the tensor, its other arguments, and its inputs' fingerprints. Operations that only look at memory in another way
(permute, view, slice) pass their input's on, so that layouts do not matter; shapes are compared in addition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SAME_VALUES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "permute",
        "transpose",
        "t",
        "clone",
        "contiguous",
        "alias",
        "detach",
        "expand",
        "slice",
        "unsqueeze",
        "squeeze",
        "_to_copy",
        "unflatten",
        "flatten",
        "narrow",
        "view_as_real",
        "movedim",
        "lift_fresh",
    ]
)
FAR_ENOUGH = 12  # operations to look back for the other's tensor


class Mark:
    """One recorded tensor: its fingerprint, the operation that made it, its inputs, and whether images are in it."""

    def __init__(
        self,
        fingerprint: int,
        operation: str = "",
        inputs: tuple[Mark, ...] = (),
        of_images: bool = False,
    ) -> None:
        self.fingerprint = fingerprint
        self.kernel: tuple[int, ...] = ()  # a convolution's
        self.operation = operation
        self.inputs = inputs
        self.of_images = of_images or any(mark.of_images for mark in inputs)


class Fingerprints(TorchDispatchMode):
    """Records, while it is entered, what is done with the images."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.marks = {id(images): Mark(0, of_images=True)}
        self.kept = [images]  # so that no identity is used twice

    def of(self, tensor: Tensor) -> Mark:
        """A tensor's mark; one that no operation made is known by its shape."""
        if id(tensor) not in self.marks:
            self.kept.append(tensor)
            self.marks[id(tensor)] = Mark(hash(("leaf", tuple(tensor.shape), str(tensor.dtype))))
        return self.marks[id(tensor)]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        inputs = tuple(self.of(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        plain = tuple(str(leaf) for leaf in leaves if not isinstance(leaf, Tensor | torch.device))
        for index, output in enumerate(tree_leaves(result)):
            if isinstance(output, Tensor):
                self.kept.append(output)
                if name in SAME_VALUES and inputs:
                    self.marks[id(output)] = inputs[0]
                else:
                    key = hash((name.rstrip("_"), plain, index, tuple(mark.fingerprint for mark in inputs)))
                    self.marks[id(output)] = Mark(key, name, inputs)
                    if "convolution" in name:
                        self.marks[id(output)].kernel = tuple(args[1].shape[2:])
        return result


def relation(mine: Mark, theirs: Mark) -> str | None:
    """How two tensors are related: "same", by a named convention, or not at all (None)."""
    if mine.fingerprint == theirs.fingerprint:
        return "same"
    between = path(mine, theirs)
    if between is not None and named(between):
        return f"ours behind {named(between)}"
    between = path(theirs, mine)
    if between is not None and named(between):
        return f"timm's behind {named(between)}"
    return None


def path(later: Mark, earlier: Mark) -> list[Mark] | None:
    """The operations between two tensors, where each has parameters for its other inputs: no branches, no residuals."""
    operations = []
    mark = later
    while mark.inputs and not any(other.of_images for other in mark.inputs[1:]) and len(operations) < FAR_ENOUGH:
        operations.append(mark)
        mark = mark.inputs[0]
        if mark.fingerprint == earlier.fingerprint:
            return operations
    return None


def named(operations: list[Mark]) -> str | None:
    """A trailing norm, an activation, a head expansion, a pool, or None for anything else."""
    kinds = [kind_of(mark) for mark in operations]
    if None in kinds or kinds.count("a head expansion") > 1:
        return None
    for kind in ("a head expansion", "a pool", "a norm", "an activation"):
        if kind in kinds:
            return kind
    return None


def kind_of(mark: Mark) -> str | None:
    operation = mark.operation
    if "convolution" in operation:
        return "a head expansion" if mark.kernel == (1, 1) else None
    if "pool" in operation:
        return "a pool"
    if "norm" in operation or operation in ("rsqrt", "var_mean", "mean", "var", "pow"):
        return "a norm"
    if operation.rstrip("_") in ACTIVATIONS:
        return "an activation"
    return "a norm" if operation in ("mul", "add", "sub", "div") else None


ACTIVATIONS = frozenset(
    [
        "relu",
        "silu",
        "gelu",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "elu",
        "sigmoid",
        "tanh",
        "hardsigmoid",
        "clamp",
        "clamp_min",
        "mish",
        "_prelu_kernel",
        "softplus",
        "clone",
        "threshold",
        "celu",
    ]
)
