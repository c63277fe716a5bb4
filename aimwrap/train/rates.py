"""The learning rates at a step, as a pure function of it: nothing to save, and nothing to lose."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from .settings import Settings


def rate_factor(step: int, steps_per_epoch: int, settings: Settings) -> float:
    """What every learning rate is multiplied by at an optimiser step.

    It rises linearly over ``warmup_epochs`` and then follows ``schedule``.

    Args:
        step: steps done since the beginning of the run.
        steps_per_epoch: how many an epoch has.
        settings: of the run.

    Returns:
        From 0 to 1.

    >>> settings = Settings(data="cub", root="data/cub", epochs=4, warmup_epochs=1)
    >>> [round(rate_factor(step, 2, settings), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]
    """
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "step":
        return float(settings.step_factor ** (step // steps_per_epoch // settings.step_epochs))
    if settings.schedule == "cosine":
        progress = (step - warmup) / max(1, settings.epochs * steps_per_epoch - warmup)
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Move every group's rate to its own, times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
