"""A model's scores on a split, exact over all processes: every image once, wherever it was looked at."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from ..data import Batch, ReleaseDataset
from ..health import MaskHealth
from ..metrics import EnergyPointingGame, GroupAccuracy, MaskOverlap, class_activation_map
from ..model import AIM
from ..output import AIMOutput
from ..plain import PlainClassifier
from .datasets import Splits


@torch.no_grad()
def evaluate(
    model: AIM | PlainClassifier,
    images: ReleaseDataset,
    batches: Iterable[Batch],
    splits: Splits,
    fabric: Fabric,
    health: MaskHealth | None = None,
) -> dict[str, Any]:
    """Score a model.

    Args:
        model: not the one inside ``DistributedDataParallel``'s wrapper, but itself; it is put into evaluation mode.
        images: the split.
        batches: this process's part of it.
        splits: for the groups.
        fabric: of the run.
        health: is shown every batch.

    Returns:
        ``average``, ``worst_group`` and ``weighted_average``, by the training images of each group; ``groups`` by name;
        with AIM each stage's active ``area`` and, where objects are known, ``energy_pointing`` with its ``chance``,
        ``mask_precision`` and ``mask_recall``. None where one is undefined. The same in every process.
    """
    model.eval()
    device, dtype = fabric.device, next(model.parameters()).dtype
    accuracy = GroupAccuracy(
        len(splits.group_names), group_names=_distinct(splits.group_names), train_counts=splits.train_counts
    ).to(device)
    areas = {stage: MeanMetric().to(device) for stage in (model.stages if isinstance(model, AIM) else ())}
    pointing, overlap = EnergyPointingGame().to(device), MaskOverlap().to(device)
    # Asked of the table, so that all processes gather the same metrics whatever images each has seen.
    objects_known = isinstance(model, AIM) and any(record.mask_path is not None for record in images.records)
    for batch in batches:
        pixels, labels = batch.image.to(device, dtype, non_blocking=True), batch.label.to(device, non_blocking=True)
        groups = labels if batch.group is None else batch.group.to(device)
        output, heatmap, merged_mask = _looked_at(model, pixels, fabric)
        accuracy.update(output.logits, labels, groups)
        for stage, mask in output.masks.items():
            areas[stage].update(mask.mean((1, 2, 3)))
        if heatmap is not None and merged_mask is not None and batch.object_mask is not None:
            object_mask = batch.object_mask.to(device)
            pointing.update(heatmap, object_mask)
            overlap.update(merged_mask, object_mask)
        if health is not None:
            health.update(output, training=False)
    scores = _computed(accuracy)
    found: dict[str, Any] = {name: scores.pop(name) for name in ("average", "worst_group", "weighted_average")}
    found["groups"] = {name: value for name, value in scores.items() if value is not None}
    if areas:
        found["area"] = {str(stage): _computed(metric)["value"] for stage, metric in areas.items()}
    if objects_known:
        looks, overlaps = _computed(pointing), _computed(overlap)
        found |= {name: looks[name] for name in ("energy_pointing", "chance")}
        found |= {f"mask_{name}": overlaps[name] for name in ("precision", "recall")}
    return found


def _computed(metric: Metric) -> dict[str, float | None]:
    """A metric's values over all processes; None where one is undefined, which JSON has no number for."""
    with warnings.catch_warnings():
        # A process may have no image of a small split, and torchmetrics takes that for a mistake.
        warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
        values = metric.compute()
    named = values if isinstance(values, dict) else {"value": values}
    return {name: None if value.isnan() else float(value) for name, value in named.items()}


def _looked_at(
    model: AIM | PlainClassifier, images: Tensor, fabric: Fabric
) -> tuple[AIMOutput, Tensor | None, Tensor | None]:
    """The output, and with AIM the class-activation map of the predicted class and the merged mask."""
    with fabric.autocast():
        if not isinstance(model, AIM):
            output: AIMOutput = model(images)
            return output, None, None
        features = model.forward_masks(model.forward_backbone(images))
        output = model.forward_head(features)
    heatmap = class_activation_map(features.fused.float(), model.classifier.weight.float(), output.logits.argmax(1))
    return output, heatmap, features.merged_mask.float()


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of groups that may be those of classes, made different from each other and from the scores' names."""
    taken = {"average", "worst_group", "weighted_average"}
    if len(set(names)) == len(names) and not taken & set(names):
        return names
    return tuple(f"{number} {name}" for number, name in enumerate(names))
