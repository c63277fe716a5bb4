"""The numbers at the top: each with its interval, how many images it is of, and what it means in plain words."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..intervals import DRAWS, bootstrap_means, percentile_interval, wilson_interval
from ..metrics import average_accuracy, group_accuracies, weighted_average_accuracy
from ..metrics.groups import count_by_group, train_shares, worst
from .measuring import Measured

NAMES = {
    "average": "Accuracy",
    "worst_group": "Worst-group accuracy",
    "weighted_average": "Accuracy, weighted by training groups",
    "energy_pointing": "Energy pointing",
    "energy_pointing_matched": "Energy pointing at one resolution",
    "chance": "Chance level of energy pointing",
    "mask_precision": "Mask precision",
    "mask_recall": "Mask recall",
    "area": "Area of the merged mask",
}


class Groups(NamedTuple):
    """The groups that accuracy is reported of.

    Attributes:
        numbers: of each image, (N,).
        names: by number; the classes where there are no places.
        are_places: whether they are pairs of label and place.
        train_counts: training images of each; None where there are none.
    """

    numbers: Tensor
    names: tuple[str, ...]
    are_places: bool
    train_counts: Tensor | None


class Score(NamedTuple):
    """A number of a model, or a difference of two; what is undefined is None.

    Attributes:
        key: as in :data:`NAMES`.
        value: of all images that it is defined on.
        low, high: its 95 % interval.
        n: how many images that are.
        explained: in plain words.
    """

    key: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    explained: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the name that people read."""
        numbers = {name: None if value is None else round(value, 6) for name, value in self._numbers()}
        return {"key": self.key, "name": NAMES[self.key], **numbers, "n": self.n, "explained": self.explained}

    def _numbers(self) -> list[tuple[str, float | None]]:
        return [("value", self.value), ("low", self.low), ("high", self.high)]


def scores_of(
    measured: Measured, chance: Tensor, groups: Groups, labels: Tensor, objects: str | None, grid: tuple[int, int]
) -> list[Score]:
    """A model's scores, all keys in their order.

    Args:
        measured: its numbers per image.
        chance: the object's share of each image, (N,).
        groups: of the images.
        labels: of the images.
        objects: what is known of objects, in words; None for nothing.
        grid: (rows, columns) at which ``energy_pointing_matched`` compares.
    """
    unknown = "Undefined: the data set has neither masks nor boxes of the objects."
    masks = "Undefined: a plain model has no masks." if measured.area.isnan().all() else unknown
    known = f"the object (by the data set's {objects})"
    pointing = (
        f"Share of the positive evidence for the predicted class that falls on {known}. Chance is what a map of equal "
        "values gets."
    )
    matched = (
        f"The same with every model's map averaged down to {grid[0]} x {grid[1]}, the coarsest one's: a finer map "
        "points better for free."
    )
    return [
        _average(measured, labels),
        _worst_group(measured, labels, groups),
        _weighted_average(measured, labels, groups),
        _mean("energy_pointing", measured.energy_pointing, pointing, unknown),
        _mean("energy_pointing_matched", measured.energy_pointing_matched, matched, unknown),
        _mean(
            "chance",
            chance.where(~measured.energy_pointing.isnan(), math.nan),
            "Share of the image that the object covers.",
            unknown,
        ),
        _mean("mask_precision", measured.mask_precision, f"Share of the merged mask that lies on {known}.", masks),
        _mean("mask_recall", measured.mask_recall, f"Share of {known} that the merged mask covers.", masks),
        _mean("area", measured.area, "Share of the positions that the decision may use.", masks),
    ]


def differences(model: Measured, other: Measured, labels: Tensor, groups: Groups) -> list[Score]:
    """One model minus another, paired over the images; only what is defined for both.

    Args:
        model: its numbers per image.
        other: of the same images.
        labels: of the images.
        groups: of the images.
    """
    right = torch.stack([model.right.double(), other.right.double()], 1)
    found = [_mean("average", right[:, 0] - right[:, 1], _PAIRED, "")]
    accuracies = [group_accuracies(m.predicted, labels, groups.numbers, len(groups.names)) for m in (model, other)]
    by_group = _draws_by_group(right, groups)
    found.append(
        _difference(
            "worst_group",
            worst(accuracies[0]) - worst(accuracies[1]),
            by_group.nan_to_num(nan=math.inf).amin(1),
            len(labels),
            "Each model's own worst group, which need not be the same. Images are drawn again within each group.",
        )
    )
    shares = _shares(groups, labels)
    if shares is not None:
        values = [weighted_average_accuracy(m.predicted, labels, groups.numbers, shares) for m in (model, other)]
        draws = (by_group.nan_to_num(0.0) * shares[None, :, None]).sum(1)
        found.append(_difference("weighted_average", values[0] - values[1], draws, len(labels), _PAIRED))
    for key in ("energy_pointing", "energy_pointing_matched", "mask_precision", "mask_recall", "area"):
        found.append(_mean(key, getattr(model, key).double() - getattr(other, key).double(), _PAIRED, ""))
    return [score for score in found if score.value is not None]


def group_rows(measured: Measured, labels: Tensor, groups: Groups) -> list[dict[str, Any]]:
    """Accuracy by group, with Wilson's interval; None where a group has no images."""
    correct, counts = count_by_group(measured.predicted, labels, groups.numbers, len(groups.names))
    accuracies = group_accuracies(measured.predicted, labels, groups.numbers, len(groups.names))
    rows = []
    for number, name in enumerate(groups.names):
        images = int(counts[number])
        low, high = wilson_interval(int(correct[number]), images) if images else (None, None)
        rows.append(
            {
                "name": name,
                "images": images,
                "train_images": None if groups.train_counts is None else int(groups.train_counts[number]),
                "accuracy": round(float(accuracies[number]), 6) if images else None,
                "low": low,
                "high": high,
            }
        )
    return rows


_PAIRED = "Image by image on the same images, so the interval is of the difference itself."


def _average(measured: Measured, labels: Tensor) -> Score:
    value = float(average_accuracy(measured.predicted, labels))
    low, high = wilson_interval(int(measured.right.sum()), len(labels))
    return Score("average", value, low, high, len(labels), "Share of the images that are classified correctly.")


def _worst_group(measured: Measured, labels: Tensor, groups: Groups) -> Score:
    correct, counts = count_by_group(measured.predicted, labels, groups.numbers, len(groups.names))
    accuracies = group_accuracies(measured.predicted, labels, groups.numbers, len(groups.names))
    value = float(worst(accuracies))
    number = int(accuracies.nan_to_num(nan=math.inf).argmin())
    low, high = wilson_interval(int(correct[number]), int(counts[number]))
    kind = "group" if groups.are_places else "class (the data set knows no groups)"
    explained = (
        f"Accuracy of the {kind} that does worst: {groups.names[number]}. The interval is that one's own, and does not "
        "count that the worst was picked."
    )
    return Score("worst_group", value, low, high, int(counts[number]), explained)


def _weighted_average(measured: Measured, labels: Tensor, groups: Groups) -> Score:
    shares = _shares(groups, labels)
    if shares is None:
        why = "Undefined: it needs training images, and every group of theirs here."
        return Score("weighted_average", None, None, None, 0, why)
    value = float(weighted_average_accuracy(measured.predicted, labels, groups.numbers, shares))
    by_group = _draws_by_group(measured.right.double()[:, None], groups)[:, :, 0]
    low, high = percentile_interval((by_group.nan_to_num(0.0) * shares).sum(1))
    explained = "The groups' accuracies, each weighted by its share of the training images."
    return Score("weighted_average", value, low, high, len(labels), explained)


def _mean(key: str, values: Tensor, explained: str, undefined: str) -> Score:
    """The mean over the images where it is defined, with its bootstrap interval; of one image there is none."""
    values = values[~values.isnan()].double()
    if not len(values):
        return Score(key, None, None, None, 0, undefined)
    low, high = (None, None) if len(values) < 2 else percentile_interval(bootstrap_means(values[:, None])[:, 0])
    return Score(key, values.mean().item(), low, high, len(values), explained)


def _difference(key: str, value: Tensor, draws: Tensor, images: int, explained: str) -> Score:
    """Of two models, from draws (D, 2)."""
    low, high = percentile_interval(draws[:, 0] - draws[:, 1])
    return Score(key, value.item(), low, high, images, explained)


def _draws_by_group(right: Tensor, groups: Groups) -> Tensor:
    """Accuracies (D, groups, C) of images that are drawn again within each group; NaN for one without images."""
    draws = []
    for number in range(len(groups.names)):
        of_group = right[groups.numbers == number]
        means = bootstrap_means(of_group, seed=number) if len(of_group) else right.new_full((DRAWS, 1), math.nan)
        draws.append(means.expand(-1, right.shape[1]))
    return torch.stack(draws, 1)


def _shares(groups: Groups, labels: Tensor) -> Tensor | None:
    """Each group's share of the training images; None where one that was trained on has no image here."""
    counts = groups.train_counts
    if counts is None or not bool(counts.sum()):
        return None
    here = torch.bincount(groups.numbers, minlength=len(groups.names))
    return None if bool(((counts > 0) & (here == 0)).any()) else train_shares(counts, len(groups.names))
