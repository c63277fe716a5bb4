"""Take a model out of what PyTorch wraps around it."""

from __future__ import annotations

from torch import nn


def unwrap_compiled(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``'s wrapper, or the model itself."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``'s and the data-parallel wrappers, where hooks reach its layers."""
    inner = unwrap_compiled(model)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    return model if inner is model else unwrap(inner)
