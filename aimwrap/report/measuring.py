"""What is measured of a model on each image, by ``aimwrap.metrics`` alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .._text import with_progress
from ..analysis.intervals import DRAWS, bootstrap_means, percentile_interval, wilson_interval
from ..analysis.look import Look, Measured, joined, measure
from ..data.release import ImageLoader, Record, ReleaseDataset
from ..health import MaskHealth
from ..metrics import average_accuracy, group_accuracies, weighted_average_accuracy
from ..metrics.groups import count_by_group, train_shares, worst
from ..preprocessing import Preprocessing
from ..second_look import kept_pixels
from ..taps import Stage
from .cards import Badness, Card, Cards, packed_contributions, packed_mask
from .images import PreparedImage, PreparedImages, as_url, thumbnail_side
from .subjects import Subject


class Seen:
    """What one model did on the images so far: its numbers per image, its masks' areas, and their health."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.grid = (0, 0)  # rows and columns of its map, and of its masks
        self.mask_grids: dict[Stage, tuple[int, int]] = {}
        self._measured: list[Measured] = []
        self._areas: dict[Stage, list[Tensor]] = {stage: [] for stage in subject.stages}
        self.health = None if subject.aim is None else MaskHealth(subject.aim.tau)

    def add(self, look: Look, measured: Measured) -> None:
        """Add a batch."""
        self._measured.append(measured)
        self.grid = look.shares.shape[1], look.shares.shape[2]
        for stage, mask in look.output.masks.items():
            self._areas[stage].append(mask.float().mean((1, 2, 3)).cpu())
            self.mask_grids[stage] = (mask.shape[2], mask.shape[3])
        if self.health is not None:
            self.health.update(look.output, training=False)

    @property
    def measured(self) -> Measured:
        """Its numbers per image."""
        return joined(self._measured)

    def area(self, stage: Stage) -> float:
        """Mean area of a stage's mask."""
        return torch.cat(self._areas[stage]).mean().item()


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
    "kept_area": "Kept pixels",
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
        """For JSON, with the name that is shown."""
        found = {name: round(value, 6) if isinstance(value, float) else value for name, value in self._asdict().items()}
        return {"key": self.key, "name": NAMES[self.key], **found}


def scores_of(
    measured: Measured, groups: Groups, labels: Tensor, objects: str | None, grid: tuple[int, int]
) -> list[Score]:
    """A model's scores, all keys in their order.

    Args:
        measured: its numbers per image.
        groups: of the images.
        labels: of the images.
        objects: which objects are known, in words; None for none.
        grid: (rows, columns) of the map on which ``energy_pointing_matched`` compares.
    """
    unknown = "Undefined: the data set has neither masks nor boxes of the objects."
    masks = "Undefined: a plain model has no masks." if measured.area.isnan().all() else unknown
    known = f"the object (by the data set's {objects})"
    pointing = (
        f"Share of the positive evidence for the predicted class that falls on {known}. Chance is what a map of equal "
        "values gets."
    )
    matched = (
        f"Every map averaged down to {grid[0]} x {grid[1]}, the coarsest one's, since a finer map points better for "
        "free. Cells count by their share of the object, so it differs from the score above, and between reports."
    )
    return [
        _average(measured, labels),
        _worst_group(measured, labels, groups),
        _weighted_average(measured, labels, groups),
        _mean("energy_pointing", measured.energy_pointing, pointing, unknown),
        _mean("energy_pointing_matched", measured.energy_pointing_matched, matched, unknown),
        _mean("chance", measured.chance, "Share of the image that the object covers.", unknown),
        _mean("mask_precision", measured.mask_precision, f"Share of the merged mask that is on {known}.", masks),
        _mean("mask_recall", measured.mask_recall, f"Share of {known} that the merged mask covers.", masks),
        _mean("area", measured.area, "Share of the positions that the masks leave open together.", masks),
        _mean("kept_area", measured.kept_area, "Share of the pixels that a second look sees.", "Undefined: one look."),
    ]


def differences(model: Measured, other: Measured, labels: Tensor, groups: Groups) -> list[Score]:
    """One model minus another, paired over the same images; only what is defined for both."""
    right = torch.stack([model.right.double(), other.right.double()], 1)
    found = [_mean("average", right[:, 0] - right[:, 1], _PAIRED, "")]
    accuracies = [group_accuracies(m.predicted, labels, groups.numbers, len(groups.names)) for m in (model, other)]
    by_group = _draws_by_group(right, groups)
    lowest, draws = worst(accuracies[0]) - worst(accuracies[1]), by_group.nan_to_num(nan=math.inf).amin(1)
    own = "Each model's own worst group, which need not be the same. Images are drawn again within each group."
    found.append(_difference("worst_group", lowest, draws, len(labels), own))
    shares = _shares(groups, labels)
    if shares is not None:
        values = [weighted_average_accuracy(m.predicted, labels, groups.numbers, shares) for m in (model, other)]
        draws = (by_group.nan_to_num(0.0) * shares[None, :, None]).sum(1)
        found.append(_difference("weighted_average", values[0] - values[1], draws, len(labels), _PAIRED))
    for key in ("energy_pointing", "energy_pointing_matched", "mask_precision", "mask_recall", "area", "kept_area"):
        found.append(_mean(key, getattr(model, key).double() - getattr(other, key).double(), _PAIRED, ""))
    return [score for score in found if score.value is not None]


def group_rows(measured: Measured, labels: Tensor, groups: Groups) -> list[dict[str, Any]]:
    """Accuracy by group, with Wilson's interval; None where a group has no images."""
    correct, counts = count_by_group(measured.predicted, labels, groups.numbers, len(groups.names))
    rows = []
    for number, name in enumerate(groups.names):
        images = int(counts[number])
        low, high = wilson_interval(int(correct[number]), images) if images else (None, None)
        rows.append(
            {
                "name": name,
                "images": images,
                "train_images": None if groups.train_counts is None else int(groups.train_counts[number]),
                "accuracy": round(float(correct[number] / images), 6) if images else None,
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
    rows = [row for row in group_rows(measured, labels, groups) if row["images"]]
    lowest = min(rows, key=lambda row: row["accuracy"])
    kind = "group" if groups.are_places else "class (the data set knows no groups)"
    explained = (
        f"Accuracy of the {kind} that does worst: {lowest['name']}. The interval is that one's own, and does not "
        "count that the worst was picked."
    )
    return Score("worst_group", lowest["accuracy"], lowest["low"], lowest["high"], lowest["images"], explained)


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


class Evaluation:
    """What the models did on the images: numbers of each, cards of some, and pixels of a few.

    Attributes:
        seen: by model, the one that is reported on first.
        images: the split.
        cards: those that the gallery shows.
        coarsest: rows and columns of the coarsest map.
    """

    def __init__(
        self, subjects: Sequence[Subject], images: ReleaseDataset, limit: int, verify_images: int, seed: int
    ) -> None:
        self.subjects, self.images = subjects, images
        self.seen = [Seen(subject) for subject in subjects]
        self.coarsest = (0, 0)
        self.cards = Cards(len(images), limit, seed)
        self.preprocessings = list(dict.fromkeys(subject.preprocessing for subject in subjects))
        self.side = thumbnail_side(min(limit, len(images)))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed + 1))
        self._verified = torch.zeros(len(images), dtype=torch.bool)
        self._verified[order[:verify_images]] = True
        self._pixels: dict[Preprocessing, list[Tensor]] = {s.preprocessing: [] for s in subjects if s.aim is not None}

    def to_verify(self, subject: Subject) -> Tensor:
        """Images (M, 3, H, W) for :func:`~aimwrap.verify`, prepared for an AIM."""
        return torch.cat(self._pixels[subject.preprocessing])

    def add(self, batch: PreparedImage) -> None:
        """Run the models on a batch."""
        views = dict(zip(self.preprocessings, batch.views, strict=True))
        looks = [subject.look(views[subject.preprocessing].image).cpu() for subject in self.subjects]
        grids = [(look.shares.shape[1], look.shares.shape[2]) for look in looks]
        self.coarsest = min(rows for rows, _ in grids), min(columns for _, columns in grids)
        measured, labels = [], self.images.labels[batch.number]
        for seen, look in zip(self.seen, looks, strict=True):
            if not bool(look.logits.isfinite().all()):
                raise ValueError("model: its logits are not finite: training diverged, so there is nothing to report")
            view = views[seen.subject.preprocessing]
            measured.append(measure(look, labels, view.object_mask, self.coarsest, view.known))
            seen.add(look, measured[-1])
        for preprocessing, kept in self._pixels.items():
            kept.append(views[preprocessing].image[self._verified[batch.number]])
        badness = _badness(self.subjects, measured)
        for position, index in enumerate(batch.number.tolist()):
            self.cards.add(index, badness[position], partial(self._card, batch, looks, measured, position))

    def _card(self, batch: PreparedImage, looks: list[Look], measured: list[Measured], position: int) -> Card:
        number, view = int(batch.number[position]), batch.views[0]
        record, groups = self.images.records[number], self.images.groups
        return {
            "id": shown_id(record, self.images.release.root),
            "label": record.label,
            "group": None if groups is None else int(groups[number]),
            "thumbnail": as_url(batch.jpeg[position]),
            "object": self._object(view.object_mask[position]) if view.known[position] else None,
            "by_model": [_of_model(*each, position) for each in zip(self.subjects, looks, measured, strict=True)],
        }

    def _object(self, mask: Tensor) -> Card:
        shrink = min(1.0, max(1, round(0.4 * self.side)) / max(mask.shape))
        grid = [max(1, round(length * shrink)) for length in mask.shape]
        covered = F.interpolate((mask > 0.5).float()[None, None], size=grid, mode="area")[0, 0]
        return {"grid": grid, "bits": packed_mask(covered)}


@torch.no_grad()
def evaluate(
    subjects: Sequence[Subject],
    images: ReleaseDataset,
    *,
    limit: int,
    verify_images: int,
    batch_size: int,
    workers: int,
    seed: int,
    progress: bool,
) -> Evaluation:
    """Run the models on all images; the arguments are those of :func:`~aimwrap.report.build_report`.

    Raises:
        FileNotFoundError: if an image is not there.
        ValueError: if an image is damaged, or a model's logits or maps are not finite.
    """
    found = Evaluation(subjects, images, limit, verify_images, seed)
    prepared = PreparedImages(images, found.preprocessings, found.side)
    loader = ImageLoader(prepared, batch_size, num_workers=workers)
    count = -(-len(images) // batch_size)
    for batch in with_progress(loader, "evaluating", total=count) if progress else loader:
        found.add(batch)
    return found


def shown_id(record: Record, root: Path) -> str:
    """An image's name, which holds no more of this machine's paths than is below the data set's folder.

    >>> shown_id(Record("/home/me/set/a/1.jpg", Path("/home/me/set/a/1.jpg"), 0, "test"), Path("/home/me/set"))
    'a/1.jpg'
    """
    path = Path(record.id)
    if not path.is_absolute():
        return record.id
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def rounded(value: float) -> float | None:
    """A number with the digits that are shown; None for NaN, which JSON does not know.

    >>> rounded(0.123456), rounded(float("nan"))
    (0.1235, None)
    """
    return None if math.isnan(value) else round(value, 4)


def _badness(subjects: Sequence[Subject], measured: list[Measured]) -> list[Badness]:
    """How early each image is shown: by what is lost on the label, or by where two models differ."""
    roles = [subject.role for subject in subjects]
    model = measured[roles.index("model")]
    if "other" not in roles:
        return [(-confidence, 0.0) for confidence in model.true_confidence.tolist()]
    other = measured[roles.index("other")]
    confidence = (model.true_confidence - other.true_confidence).abs()
    pointing = (model.energy_pointing - other.energy_pointing).abs().nan_to_num(0.0)
    return list(zip(confidence.tolist(), pointing.tolist(), strict=True))


def _of_model(subject: Subject, look: Look, measured: Measured, position: int) -> dict[str, Any]:
    pointing = ("energy_pointing", "energy_pointing_matched")
    names = ["confidence", "true_confidence", *pointing, "mask_precision", "mask_recall", "area"]
    second = {}
    if subject.second is not None and look.merged_mask is not None and look.boxes is not None:
        names.append("kept_area")
        height, width = look.heatmap.shape[1:]
        merged = look.merged_mask[position : position + 1]
        kept = kept_pixels(merged, merged, subject.second.margin)  # on the mask's grid
        box = (look.boxes[position] / look.boxes.new_tensor([width, height, width, height])).tolist()
        second = {"kept": packed_mask(kept), "box": [round(side, 4) for side in box]}
    return second | {
        "predicted": int(measured.predicted[position]),
        "right": bool(measured.right[position]),
        **{name: rounded(getattr(measured, name)[position].item()) for name in names},
        "masks": {str(stage): packed_mask(mask[position, 0]) for stage, mask in look.output.masks.items()},
        "merged": None if look.merged_mask is None else packed_mask(look.merged_mask[position, 0]),
        "contributions": packed_contributions(look.shares[position]),
    }
