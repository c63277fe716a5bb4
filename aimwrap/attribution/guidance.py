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
    nodes = gradient_nodes([logits])
    readers = Counter(output for node in nodes for output in node.next_functions)
    ahead: dict[Node | None, list[Node]] = {}
    for node in nodes:
        for source, _ in node.next_functions:
            ahead.setdefault(source, []).append(node)
    # Between the image and the logits: parameters' own computations are not among them.
    on_the_way = reachable([start.grad_fn], lambda node: ahead.get(node, ()))

    relus = {node for node in on_the_way if _kind(node) == "Relu"}
    guided = relus & by_modules
    shared = sum(readers[node.next_functions[0]] > 1 for node in guided)
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


def _kind(node: Node) -> str:
    return re.sub(r"Backward\d*$", "", node.name())
