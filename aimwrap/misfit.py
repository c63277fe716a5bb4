"""A checkpoint that does not load, in the model's own terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import AIM


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
