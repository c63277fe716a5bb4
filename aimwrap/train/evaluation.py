"""A model's scores on a split, exact over all processes: every image once, wherever it was looked at."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.fabric import Fabric
from torchmetrics import MeanMetric, Metric

from ..analysis.look import look, measure
from ..analysis.survival import survive
from ..backbones.plain import PlainClassifier
from ..backbones.pooled import PooledClassifier
from ..data import Batch, ReleaseDataset
from ..health import MaskHealth
from ..metrics import GroupAccuracy
from ..model import AIM
from ..second_look import SecondLook
from .data import Splits
from .settings import Selection

_OF_OBJECTS = ("energy_pointing", "chance", "energy_pointing_matched", "mask_precision", "mask_recall")


@torch.no_grad()
def evaluate(
    model: AIM | SecondLook | PlainClassifier,
    images: ReleaseDataset,
    batches: Iterable[Batch],
    splits: Splits,
    fabric: Fabric,
    health: MaskHealth | None = None,
    activation_maps: PooledClassifier | None = None,
    rule: Selection | None = None,
) -> dict[str, Any]:
    """Score a model.

    Args:
        model: not the one inside ``DistributedDataParallel``'s wrapper, but itself; it is put into evaluation mode.
        images: the split.
        batches: this process's part of it.
        splits: for the groups.
        fabric: of the run.
        health: is shown every batch.
        activation_maps: of a plain model, where it has them.
        rule: that an epoch is selected by, whose score is then measured too; survival needs an AIM.

    Returns:
        ``average``, ``worst_group`` and ``weighted_average``, by the training images of each group; ``groups`` by name;
        with AIM each stage's active ``area``. Where objects are known and there are maps of the predicted class,
        ``energy_pointing`` with its ``chance``, and ``energy_pointing_matched``, of maps averaged down to the grid of
        the model's deepest map, so that no model scores for a finer one; with AIM ``mask_precision`` and
        ``mask_recall``, too. By its rule ``worst_class``, or ``survival`` as in :func:`survive`. None where one is
        undefined. The same in every process. Of a second look, the masks are those of its first.
    """
    model.eval()
    device, dtype = fabric.device, next(model.parameters()).dtype
    accuracy = group_accuracy(splits).to(device)
    by_class = class_accuracy(splits).to(device) if rule == "validation worst class" else None
    survival = MeanMetric().to(device) if rule == "validation survival" else None
    aim = model.first if isinstance(model, SecondLook) else model  # whose masks are measured
    areas = {stage: MeanMetric().to(device) for stage in (aim.stages if isinstance(aim, AIM) else ())}
    # Asked of the table, so that all processes gather the same metrics whatever images each has seen.
    subject = model if isinstance(aim, AIM) else activation_maps
    names = _OF_OBJECTS if isinstance(aim, AIM) else _OF_OBJECTS[:3]
    known = subject is not None and objects_are_known(images)
    means = {name: MeanMetric(nan_strategy="ignore").to(device) for name in names} if known else {}
    for batch in batches:
        pixels, labels = batch.image.to(device, dtype, non_blocking=True), batch.label.to(device, non_blocking=True)
        groups = labels if batch.group is None else batch.group.to(device)
        with fabric.autocast():
            needed = known or aim is not model or survival is not None
            seen = look(subject, pixels) if subject is not None and needed else None
            # AIM's look has its own logits; those that a plain network's map adds up to are rounded otherwise.
            output = seen.output if seen is not None and isinstance(aim, AIM) else model(pixels)
            if survival is not None:
                assert isinstance(model, AIM) and seen is not None
                survival.update(survive(model, pixels, seen).float())
        accuracy.update(output.logits, labels, groups)
        if by_class is not None:
            by_class.update(output.logits, labels, labels)
        for stage, mask in output.masks.items():
            areas[stage].update(mask.mean((1, 2, 3)))
        if seen is not None and known:
            assert batch.object_mask is not None
            measured = measure(seen, labels, batch.object_mask.to(device), seen.deepest)
            for name, metric in means.items():
                metric.update(getattr(measured, name))
        if health is not None:
            health.update(output, training=False)
    scores = computed(accuracy)
    found: dict[str, Any] = {name: scores.pop(name) for name in ("average", "worst_group", "weighted_average")}
    found["groups"] = {name: value for name, value in scores.items() if value is not None}
    if by_class is not None:
        found["worst_class"] = computed(by_class)["worst_group"]
    if survival is not None:
        found["survival"] = computed(survival)["value"]
    if areas:
        found["area"] = {str(stage): computed(metric)["value"] for stage, metric in areas.items()}
    return found | {name: computed(metric)["value"] for name, metric in means.items()}


def group_accuracy(splits: Splits, **kwargs: Any) -> GroupAccuracy:
    """The metric of a data set's groups; the arguments are torchmetrics'."""
    names = _distinct(splits.group_names)
    return GroupAccuracy(len(names), group_names=names, train_counts=splits.train_counts, **kwargs)


def class_accuracy(splits: Splits, **kwargs: Any) -> GroupAccuracy:
    """The same of its classes: the worst group is the worst class."""
    return GroupAccuracy(len(splits.classes), **kwargs)


def objects_are_known(images: ReleaseDataset) -> bool:
    """Whether the data set has a mask of the object, or boxes around it, for each of the split's images."""
    return all(record.mask_path is not None or record.boxes is not None for record in images.records)


def lacking_objects(images: ReleaseDataset) -> str | None:
    """What to say of a split where the objects of some images are known, and not those of all."""
    known = sum(record.mask_path is not None or record.boxes is not None for record in images.records)
    if known in (0, len(images)):
        return None
    return f"{len(images) - known} of {len(images)} images have neither an object mask nor boxes"


def computed(metric: Metric) -> dict[str, float | None]:
    """A metric's values over all processes; None where one is undefined, which JSON has no number for."""
    with warnings.catch_warnings():
        # A process may have no image of a small split, and torchmetrics takes that for a mistake.
        warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
        values = metric.compute()
    named = values if isinstance(values, dict) else {"value": values}
    return {name: None if value.isnan() else float(value) for name, value in named.items()}


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of groups that may be those of classes, made different from each other and from the scores' names."""
    taken = {"average", "worst_group", "weighted_average"}
    if len(set(names)) == len(names) and not taken & set(names):
        return names
    return tuple(f"{number} {name}" for number, name in enumerate(names))


EXPLAINED: Mapping[Selection, str] = {
    "validation worst group": "the epoch whose worst group on the validation split was best; it needs groups there",
    "validation worst class": "the epoch whose worst class on the validation split was best; it needs no groups",
    "validation average": "the epoch with the best average accuracy on the validation split; it needs no groups",
    "validation survival": "the epoch with the largest share of predictions on the validation split that stay the same "
    "when the pixels outside the masks become their image's mean colour; it needs neither labels nor groups there",
    "last": "the last epoch; it needs no validation split",
}
_SCORES: Mapping[Selection, str] = {
    "validation worst group": "worst_group",
    "validation worst class": "worst_class",
    "validation average": "average",
    "validation survival": "survival",
}


def chosen_rule(asked: Selection | None, splits: Splits) -> Selection:
    """The rule to select by: the one asked for, else validation average, or last where there is no validation split.

    A ValueError if the one asked for needs a validation split and there is none.
    """
    if asked is None:
        return "last" if splits.val is None else "validation average"
    if asked != "last" and splits.val is None:
        raise ValueError(
            f"the rule {asked!r} needs a validation split, and {splits.train.release.name} has none; hold_out=0.2 "
            "holds out a fifth of the training images, and selection='last' needs none"
        )
    return asked


def score_of(rule: Selection, validation: Mapping[str, Any] | None) -> float:
    """What an epoch's validation is worth by a rule: higher is better, and an undefined score is worth nothing.

    >>> validation = {"average": 0.9, "worst_group": 0.6, "worst_class": 0.7}
    >>> score_of("validation worst group", validation), score_of("validation worst class", validation)
    (0.6, 0.7)
    """
    if rule == "last" or validation is None:
        return -math.inf
    score = validation[_SCORES[rule]]
    return -math.inf if score is None else float(score)
