"""Accuracy by group of images, such as every pair of label and background, of the worst group, and on average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from .._checks import check_numbers, check_positive
from .._numerics import predicted_classes

_OF_COLUMNS = (
    ": take labels[:, 0] of one column, labels.argmax(1) of one-hot ones; where images have several classes, pass "
    "((logits > 0) == labels).all(1) as predictions, and ones as labels"
)


def group_accuracies(predictions: Tensor, labels: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Accuracy of each group of images, such as every pair of label and background.

    Args:
        predictions: (N,) predicted classes, or (N, K) logits, whose largest counts, or one's sign; NaN is never right.
            A single probability has no sign: ``probability.logit()``.
        labels: (N,) true classes, from 0; below K where predictions are logits.
        groups: (N,) group of each image, 0 to ``num_groups - 1``.
        num_groups: how many groups there are.

    Returns:
        (num_groups,) float32; NaN for a group without images, whose accuracy is undefined.

    Raises:
        ValueError: if the shapes do not fit, values are not whole numbers, or a label or a group is out of range.

    >>> group_accuracies(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]), num_groups=3)
    tensor([1.0000, 0.5000,    nan])
    """
    correct, images = count_by_group(predictions, labels, groups, num_groups)
    return correct / images


def worst_group_accuracy(predictions: Tensor, labels: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Accuracy of the group that does worst (Sagawa et al. 2020, "Distributionally robust neural networks").

    Arguments and errors as for :func:`group_accuracies`.

    Returns:
        A scalar from 0 to 1. Groups without images are left out; without any image at all it is NaN.

    >>> worst_group_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]), num_groups=3)
    tensor(0.5000)
    """
    return worst(group_accuracies(predictions, labels, groups, num_groups))


def average_accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Share of all images that are classified correctly, whatever their group: each image counts once.

    Arguments and errors as for :func:`group_accuracies`.

    Returns:
        A scalar from 0 to 1; NaN without images.

    >>> average_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    tensor(0.6667)
    """
    correct, images = count_by_group(predictions, labels, torch.zeros_like(labels), num_groups=1)
    return correct.sum() / images.sum()


def weighted_average_accuracy(
    predictions: Tensor, labels: Tensor, groups: Tensor, train_counts: Sequence[float] | Tensor
) -> Tensor:
    """Mean of the groups' accuracies, each weighted by its share of the *training* images.

    What the literature reports as average accuracy on Waterbirds (Sagawa et al. 2020, app. C.1): its test set has
    the groups in other proportions than its training set, so that the plain average would answer another question.

    Args:
        predictions: (N,) predicted classes, or (N, K) logits, whose largest counts.
        labels: (N,) true classes.
        groups: (N,) group of each image, 0 to ``len(train_counts) - 1``.
        train_counts: images of each group in the training set, or their shares.

    Returns:
        A scalar from 0 to 1; NaN if a group that was trained on has no image here. A group that was not trained on
        does not count.

    Raises:
        ValueError: as :func:`group_accuracies`; or if ``train_counts`` are negative or all zero.

    >>> accuracies = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1])  # 1.0 and 0.5
    >>> weighted_average_accuracy(*accuracies, train_counts=[75, 25])
    tensor(0.8750)
    """
    shares = train_shares(train_counts, num_groups=len(train_counts))
    return weighted_average(group_accuracies(predictions, labels, groups, len(shares)), shares.to(labels.device))


def count_by_group(predictions: Tensor, labels: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """How many images of each group are classified correctly, and how many there are: int64 (num_groups,) each."""
    check_positive(Integral, num_groups=num_groups)
    num_classes = None
    whole = not predictions.is_floating_point()
    if predictions.ndim == 2 and not (whole and (predictions.shape[1] == 1 or predictions.dtype == torch.bool)):
        num_classes, predictions = max(2, predictions.shape[1]), predicted_classes(predictions)
    for name, values in (("predictions", predictions), ("labels", labels), ("groups", groups)):
        if values.ndim != 1 or len(values) != len(labels):
            way_out = _OF_COLUMNS if name == "labels" else ""
            expected = f"({len(labels)},), one value per label"
            raise ValueError(f"{name} must be {expected}, got {tuple(values.shape)}{way_out}.")
        if values.is_floating_point():
            way_out = " (or logits, (N, K))" if name == "predictions" else ""
            raise ValueError(f"{name} must be whole numbers{way_out}, got {values.dtype}.")
    predictions, labels, groups = predictions.long(), labels.long(), groups.long()
    check_numbers(labels, num_classes, "labels", "; leave images without a label out")
    check_numbers(groups, num_groups, "groups", f"; num_groups is {num_groups}")
    correct = torch.bincount(groups[predictions == labels], minlength=num_groups)
    return correct, torch.bincount(groups, minlength=num_groups)


def worst(accuracies: Tensor) -> Tensor:
    """The lowest accuracy of the groups that have one; NaN if none has."""
    lowest = accuracies.nan_to_num(nan=math.inf).min()
    return torch.where(lowest.isinf(), math.nan, lowest)


def train_shares(train_counts: Sequence[float] | Tensor, num_groups: int) -> Tensor:
    """Each group's share of the training images: (num_groups,) float32, adding up to 1."""
    counts = torch.as_tensor(train_counts, dtype=torch.float32)
    if counts.shape != (num_groups,):
        raise ValueError(f"train_counts must be one count per group, {num_groups} in all, got {tuple(counts.shape)}.")
    if not bool(counts.isfinite().all()) or float(counts.min()) < 0 or float(counts.sum()) == 0:
        raise ValueError(
            f"train_counts must be the groups' numbers of training images, not negative and not all zero, got "
            f"{counts.tolist()}."
        )
    shares = counts / counts.max()  # the sum of the counts may overflow
    return shares / shares.sum()


def weighted_average(accuracies: Tensor, shares: Tensor) -> Tensor:
    """Sum of share times accuracy over the groups with a share above zero."""
    return torch.where(shares > 0, shares * accuracies, 0.0).sum()
