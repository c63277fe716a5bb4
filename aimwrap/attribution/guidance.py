"""Whether guided backpropagation would be guided: which activations captum's hooks on ``nn.ReLU`` modules reach.

Guided backpropagation (Springenberg et al. 2015) passes only positive gradients at every ReLU. captum does that by
hooks on ``nn.ReLU`` modules. A ReLU called as a function, and every other activation, keeps its plain gradient, and
captum gives no warning. So this searches the gradient's own graph, which shows functions and modules.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from ..taps.equivalence import gradient_nodes
from ..taps.graph import reachable

# Rectifiers other than ReLU, as autograd names them (ReLU6 is a hardtanh). Gates (sigmoid, hardsigmoid, tanh) multiply
# what passes and rectify nothing: they keep their gradient in guided backpropagation too.
_OTHER_RECTIFIERS = {
    "Celu": "CELU", "Elu": "ELU/SELU", "Gelu": "GELU", "Hardswish": "Hardswish", "Hardtanh": "ReLU6/Hardtanh",
    "LeakyRelu": "LeakyReLU", "Mish": "Mish", "PreluKernel": "PReLU", "RreluWithNoise": "RReLU", "Silu": "SiLU",
    "Softplus": "Softplus", "Threshold": "Threshold",
}  # fmt: skip


def guidance_of(model: nn.Module, image: Tensor) -> tuple[int, str]:
    """Run one image (1, C, H, W) and search the graph of its logits.

    Not seen is what autograd does not show: an activation composed of arithmetic (``x * torch.sigmoid(x)``,
    ``x.clamp(min=0)``) or run inside reentrant checkpointing.

    Returns:
        How many ReLUs between the logits and the image hooks on ``nn.ReLU`` modules would guide, and what they would
        miss or change wrongly, in words; empty if all is guided.
    """
    by_modules: set[Node] = set()
    with torch.enable_grad(), ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                hooks.enter_context(module.register_forward_hook(lambda m, _, output: by_modules.add(output.grad_fn)))
        start = image.detach().clone().requires_grad_().clone()
        logits = model(start)
    assert start.grad_fn is not None
    readers = _readers(logits)
    on_the_way = _ahead_of(start.grad_fn, readers)

    relus = {node for node in on_the_way if _kind(node) == "Relu"}
    guided = relus & by_modules
    shared = sum(len(readers[node.next_functions[0]]) > 1 for node in guided)
    missed = Counter(_OTHER_RECTIFIERS[kind] for kind in map(_kind, on_the_way) if kind in _OTHER_RECTIFIERS)
    own = {type(n).__name__ for n in on_the_way if isinstance(n, torch.autograd.function.BackwardCFunction)}
    words = [f"{count} x {name}" for name, count in sorted(missed.items())]
    if relus - by_modules:
        words.append(f"{len(relus - by_modules)} x ReLU called as a function")
    if own:
        words.append(f"custom autograd functions ({', '.join(sorted(own))})")
    if shared:
        words.append(f"{shared} x ReLU whose input another branch reads (captum clips that branch's gradient too)")
    return len(guided), "; ".join(words)


_Output = tuple[Node | None, int]  # one output of a graph node


def _readers(result: Tensor) -> dict[_Output, list[Node]]:
    """The nodes that read each output, over the complete graph of a result."""
    readers: dict[_Output, list[Node]] = {}
    for node in gradient_nodes([result]):
        for source in node.next_functions:
            if source[0] is not None:
                readers.setdefault(source, []).append(node)
    return readers


def _ahead_of(start: Node, readers: dict[_Output, list[Node]]) -> set[Node]:
    """The nodes between ``start`` and the result: parameters' own computations are not among them."""
    by_node: dict[Node | None, list[Node]] = {}
    for (node, _), ahead in readers.items():
        by_node.setdefault(node, []).extend(ahead)
    return reachable([start], lambda node: by_node.get(node, ()))


def _kind(node: Node) -> str:
    return re.sub(r"Backward\d*$", "", node.name())
