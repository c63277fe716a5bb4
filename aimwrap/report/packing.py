"""Masks and contributions as short texts: what thousands of images' overlays must be to fit into one page."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def packed_mask(mask: Tensor) -> str:
    """A mask as base64 of its bits, row by row, the most significant bit of a byte first.

    Args:
        mask: (h, w), on where it is above one half.

    >>> packed_mask(torch.tensor([[1.0, 0.0, 1.0]])), base64.b64decode("oA==") == bytes([0b10100000])
    ('oA==', True)
    """
    return _text(np.packbits(mask.flatten().cpu().numpy() > 0.5))


def packed_contributions(contributions: Tensor) -> dict[str, Any]:
    """Signed values as base64 of 8-bit integers, of which 127 stands for ``scale``; 0 stays exactly 0.

    Args:
        contributions: (h, w), finite.

    >>> packed_contributions(torch.tensor([[2.0, -1.0, 0.0]]))
    {'scale': 2.0, 'values': 'f8AA'}
    """
    values = contributions.double().cpu()
    scale = float(f"{values.abs().max().item():.4g}")
    if scale == 0 or not math.isfinite(scale):
        return {"scale": 0.0, "values": _text(np.zeros(values.numel(), np.int8))}
    return {"scale": scale, "values": _text((values / scale * 127).round().clamp(-127, 127).to(torch.int8).numpy())}


def _text(values: Any) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
