"""The first measures, as pure functions on tensors: where a model looks, and how it does on the hardest group."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["class_activation_map", "energy_pointing_game", "group_accuracies", "worst_group_accuracy"]


def energy_pointing_game(
    attribution: Tensor, object_mask: Tensor, *, threshold: float = 0.5, zero_energy: float = float("nan")
) -> Tensor:
    """Share of an attribution's positive energy that falls on the object.

    Score-CAM (Wang et al. 2020, sec. 4.3) defines it for bounding boxes; the paper (sec. 4, details in its A.5) uses
    the object's binary mask, as here. 1 means that all evidence lies on the object. A map of equal values scores
    the object's share of the image: report that as chance.

    Negative values count as zero. The attribution is resized bilinearly to the mask, so a finer map scores better for
    its resolution alone: compare two methods at the same resolution too.

    Args:
        attribution: (N, h, w), for instance from :func:`class_activation_map`.
        object_mask: (N, H, W) or (N, 1, H, W); a position belongs to the object where the value is above ``threshold``.
        threshold: what separates object from background in ``object_mask``.
        zero_energy: the score of a map without any positive value, whose share is undefined. NaN by default, so that it
            cannot slip into a mean unnoticed (``torch.nanmean`` leaves it out); 0 counts such a map as a miss.

    Returns:
        (N,) float32 scores from 0 to 1.

    Raises:
        ValueError: if the shapes do not fit.

    >>> attribution = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]]])
    >>> energy_pointing_game(attribution, torch.tensor([[[1, 0], [1, 0]]]))
    tensor([0.7500])
    """
    if object_mask.ndim == 4 and object_mask.shape[1] == 1:
        object_mask = object_mask[:, 0]
    if attribution.ndim != 3:
        raise ValueError(f"attribution must be (N, h, w), got {tuple(attribution.shape)}.")
    if object_mask.ndim != 3 or len(object_mask) != len(attribution):
        raise ValueError(
            f"object_mask must be ({len(attribution)}, H, W) or ({len(attribution)}, 1, H, W), one per attribution, "
            f"got {tuple(object_mask.shape)}."
        )
    energy = attribution.detach().float().clamp(min=0)[:, None]
    if energy.shape[-2:] != object_mask.shape[-2:]:
        energy = F.interpolate(energy, size=object_mask.shape[-2:], mode="bilinear", align_corners=False)
    energy = energy[:, 0]
    total = energy.sum(dim=(1, 2))
    on_object = (energy * (object_mask > threshold)).sum(dim=(1, 2))
    return torch.where(total > 0, on_object / total, torch.full_like(total, zero_energy))


def group_accuracies(predictions: Tensor, labels: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Accuracy of each group of images, such as every pair of label and background.

    Args:
        predictions: (N,) predicted classes, or (N, K) logits, whose largest counts.
        labels: (N,) true classes.
        groups: (N,) group of each image, 0 to ``num_groups - 1``.
        num_groups: how many groups there are.

    Returns:
        (num_groups,) float32; NaN for a group without images, whose accuracy is undefined.

    Raises:
        ValueError: if the shapes do not fit or a group is out of range.

    >>> group_accuracies(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]), num_groups=3)
    tensor([1.0000, 0.5000,    nan])
    """
    if predictions.ndim == 2:
        predictions = predictions.argmax(dim=1)
    for name, values in (("predictions", predictions), ("labels", labels), ("groups", groups)):
        if values.ndim != 1 or len(values) != len(labels):
            raise ValueError(f"{name} must be ({len(labels)},), one value per label, got {tuple(values.shape)}.")
    if len(groups) and (int(groups.min()) < 0 or int(groups.max()) >= num_groups):
        raise ValueError(
            f"groups must be 0 to {num_groups - 1} for num_groups={num_groups}, "
            f"got {int(groups.min())} to {int(groups.max())}."
        )
    correct = (predictions == labels).float()
    counts = torch.bincount(groups, minlength=num_groups)
    return torch.bincount(groups, weights=correct, minlength=num_groups).float() / counts


def worst_group_accuracy(predictions: Tensor, labels: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Accuracy of the group that does worst (Sagawa et al. 2020, "Distributionally robust neural networks").

    Groups without images are left out; without any image at all it is NaN.

    Args:
        predictions: (N,) predicted classes, or (N, K) logits, whose largest counts.
        labels: (N,) true classes.
        groups: (N,) group of each image, 0 to ``num_groups - 1``.
        num_groups: how many groups there are.

    Returns:
        A scalar from 0 to 1.

    Raises:
        ValueError: as :func:`group_accuracies`.

    >>> worst_group_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]), num_groups=3)
    tensor(0.5000)
    """
    accuracies = group_accuracies(predictions, labels, groups, num_groups)
    measured = accuracies[~accuracies.isnan()]
    return measured.min() if len(measured) else accuracies.new_tensor(float("nan"))


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
