"""Which parameter is trained at which rate, and which ones decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from .taps import TappedModel

if TYPE_CHECKING:
    from .model import AIM


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


class Cost(NamedTuple):
    """Parameters, and multiply-accumulates for one image in evaluation.

    Attributes:
        parameters: of the wrapped model, the backbone's classifier no longer included.
        macs: of the wrapped model.
        backbone_parameters: of the backbone as it came, classifier included.
        backbone_macs: of the backbone as it came.
        head_parameters: of what wrapping adds: mask estimators, transforms, classifiers.
        head_macs: of what wrapping adds.
        image_size: (H, W) of the image.
    """

    parameters: int
    macs: int
    backbone_parameters: int
    backbone_macs: int
    head_parameters: int
    head_macs: int
    image_size: tuple[int, int]

    def __str__(self) -> str:
        """One line per quantity, for reports."""
        height, width = self.image_size
        more_parameters = self.parameters / self.backbone_parameters - 1
        more_macs = self.macs / self.backbone_macs - 1
        return (
            f"{self.parameters / 1e6:.2f} M parameters, backbone alone {self.backbone_parameters / 1e6:.2f} M "
            f"({more_parameters:+.1%}), head {self.head_parameters / 1e6:.2f} M\n"
            f"{self.macs / 1e9:.2f} GMACs at {height} x {width}, backbone alone {self.backbone_macs / 1e9:.2f} "
            f"({more_macs:+.1%}), head {self.head_macs / 1e9:.2f}"
        )


def misfit(model: AIM, state: Mapping[str, Any]) -> str:
    """Say in the model's own terms what a checkpoint is that does not load."""
    prefix = next((p for p in ("module.", "_orig_mod.") if state and all(key.startswith(p) for key in state)), None)
    if prefix is not None:
        stripped = f"{{k.removeprefix({prefix!r}): v for k, v in state.items()}}"
        return f"every name begins with {prefix!r}; load {stripped} in its place"
    nested = [key for key, value in state.items() if isinstance(value, Mapping)]
    if nested:
        return f"this is a dict around a checkpoint; pass the part that holds the weights, perhaps state[{nested[0]!r}]"
    if state.keys() & model.backbone.state_dict().keys():
        return (
            "this looks like the backbone's own checkpoint; load it with "
            "model.backbone.load_state_dict(state_dict, strict=False)"
        )
    stages = dict.fromkeys(key.split(".")[1] for key in state if key.startswith("mask_estimators."))
    own = list(model.mask_estimators)
    if list(stages) != own:
        has = f"it has {', '.join(stages)}, this model ({model.variant}) has {', '.join(own)}"
        return f"the checkpoint is another variant's: {has}"
    head = "paper" if any(key.startswith("top_down.transforms") for key in state) else "feature-preserving"
    if head != model.head:
        return f"the checkpoint is another variant's: it has the {head} head; build the model with head={head!r}"
    return f"the checkpoint does not fit {model.variant} with {model.num_classes} classes; build the model the same way"


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
