"""What a variant is called: the backbone's name, and stages and areas in the paper's notation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .taps import TappedModel


def architecture_of(backbone: nn.Module) -> str:
    """The name under which timm built the model, where it keeps one, else the class's."""
    record = getattr(backbone, "pretrained_cfg", None)
    name = record.get("architecture") if isinstance(record, dict) else None
    source = getattr(backbone, "_orig_mod", backbone)
    return name or type(source).__name__


def notation(tapped: TappedModel, tau: Sequence[float]) -> str:
    """The paper's ``[stage where the top-down path ceases, area]``, by its count, which includes a stem's stage."""
    numbers = [tap.stage for tap in tapped.taps if isinstance(tap.stage, int)]
    deepest = tapped.deepest_stage
    if deepest is not None and len(numbers) == len(tapped.taps) and numbers == [*range(numbers[0], deepest + 1)]:
        where = str(numbers[0] + tapped.paper_stage_offset)
    else:
        where = "+".join(tap.node for tap in tapped.taps)
    areas = tau[:1] if len(set(tau)) == 1 else tau
    return f"[{where}, {', '.join(f'{100 * area:.4g}%' for area in areas)}]"
