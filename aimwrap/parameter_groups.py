"""Which parameter is trained at which rate, and which ones decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def part_of_aim(name: str) -> str:
    """Where a parameter belongs, by its first name: ``backbone``, ``masks``, and everything else is ``head``."""
    return {"backbone": "backbone", "mask_estimators": "masks"}.get(name.split(".")[0], "head")


def parameter_groups(
    model: nn.Module,
    lr: float,
    head_lr: float | None = None,
    mask_lr: float | None = None,
    part_of: Callable[[str], str] = part_of_aim,
) -> list[dict[str, Any]]:
    """See :meth:`aimwrap.AIM.parameter_groups`.

    Args:
        model: the model.
        lr: learning rate of the backbone.
        head_lr: of everything else.
        mask_lr: of the mask estimators.
        part_of: from a parameter's name to its part, one of AIM's.

    Returns:
        The groups that have parameters.

    Raises:
        ValueError: if a rate is negative, or nothing is trainable.
    """
    head_lr = lr if head_lr is None else head_lr
    rates = {"backbone": lr, "head": head_lr, "masks": head_lr if mask_lr is None else mask_lr}
    for name, rate in rates.items():
        if not rate >= 0:
            raise ValueError(f"learning rates must not be negative, got {rate} for the {name}")
    groups: dict[str, dict[str, Any]] = {}
    for part, rate in rates.items():
        groups[part] = {"name": part, "params": [], "lr": rate}
        groups[f"{part}, no decay"] = {"name": f"{part}, no decay", "params": [], "lr": rate, "weight_decay": 0.0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            decays = parameter.ndim > 1 and part != "masks"
            groups[part if decays else f"{part}, no decay"]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ValueError("no parameter is trainable; model.unfreeze_backbone() or requires_grad_(True) changes that")
    return filled
