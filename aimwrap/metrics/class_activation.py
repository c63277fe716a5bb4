"""Class activation maps: the heatmap of any network that pools and ends in a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor


def class_activation_map(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """How much each position of a pooled map adds to one class (Zhou et al. 2016).

    For any network that averages ``features`` over the positions and ends in a linear layer: the map is the layer's
    weights of the class, applied at every position.

    Args:
        features: (N, D, H, W), the map that is averaged. For AIM, ``forward_masks(...).fused``.
        weight: (K, D), the linear layer's.
        classes: (N,), the class to explain in each image, usually the predicted one.

    Returns:
        (N, H, W), not clamped: negative values speak against the class.

    Raises:
        ValueError: if the shapes do not fit.

    >>> features = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # one image, two channels, 1 x 2 positions
    >>> class_activation_map(features, torch.tensor([[1.0, 0.0], [2.0, -1.0]]), torch.tensor([1]))
    tensor([[[-1.,  4.]]])
    """
    if features.ndim != 4:
        raise ValueError(f"features must be (N, D, H, W), got {tuple(features.shape)}.")
    if weight.ndim != 2 or weight.shape[1] != features.shape[1]:
        raise ValueError(f"weight must be (K, {features.shape[1]}), like features, got {tuple(weight.shape)}.")
    if classes.shape != features.shape[:1]:
        raise ValueError(f"classes must be ({len(features)},), one per image, got {tuple(classes.shape)}.")
    return torch.einsum("nd,ndhw->nhw", weight[classes], features)
