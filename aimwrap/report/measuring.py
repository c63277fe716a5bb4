"""What is measured of a model on each image, by ``aimwrap.metrics`` alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..health import MaskFinding, MaskHealth
from ..metrics import energy_pointing_game, mask_precision, mask_recall
from ..taps import Stage
from .subjects import Look, Subject
from .views import ViewBatch


@dataclass(frozen=True)
class Measured:
    """A model's numbers, one per image; NaN where one is undefined.

    Attributes:
        predicted: class number, (N,) int64.
        right: whether it is the label, (N,) bool.
        confidence: softmax of the predicted class, (N,) float32.
        true_confidence: softmax of the label's class.
        energy_pointing: of the contributions to the predicted class, at their own resolution.
        energy_pointing_matched: at the resolution of the coarsest model.
        mask_precision: of the merged mask.
        mask_recall: of the merged mask.
        area: of the merged mask.
    """

    predicted: Tensor
    right: Tensor
    confidence: Tensor
    true_confidence: Tensor
    energy_pointing: Tensor
    energy_pointing_matched: Tensor
    mask_precision: Tensor
    mask_recall: Tensor
    area: Tensor


def joined(parts: list[Measured]) -> Measured:
    """The numbers of all batches."""
    return Measured(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Measured)))


def measure(look: Look, view: ViewBatch, labels: Tensor, resolution: tuple[int, int]) -> Measured:
    """Measure a batch.

    Args:
        look: what the model made of it.
        view: what the model saw.
        labels: (N,).
        resolution: (rows, columns) of the coarsest model's map.

    Returns:
        Its numbers, on the CPU.

    Raises:
        ValueError: if a logit or a map is not finite.
    """
    logits = look.output.logits.float().cpu()
    if not bool(logits.isfinite().all()):
        raise ValueError("model: its logits are not finite: training diverged, so there is nothing to report")
    probabilities = logits.softmax(1)
    predicted = logits.argmax(1)
    heatmap, merged = look.contributions.cpu(), None if look.merged_mask is None else look.merged_mask.cpu()
    nothing = torch.full((len(labels),), math.nan)
    pointing, matched, precision, recall = nothing, nothing, nothing, nothing
    if bool(view.known.any()):
        pointing = energy_pointing_game(heatmap, view.object_masks)
        matched = energy_pointing_game(heatmap, view.object_masks, resolution=resolution)
        if merged is not None:
            precision = torch.where(view.known, mask_precision(merged, view.object_masks), math.nan)
            recall = mask_recall(merged, view.object_masks)
    return Measured(
        predicted,
        predicted == labels,
        probabilities.amax(1),
        probabilities.gather(1, labels[:, None])[:, 0],
        pointing,
        matched,
        precision,
        recall,
        nothing if merged is None else merged.mean((1, 2, 3)),
    )


class Masks:
    """A model's masks over all images: their areas, and what :class:`~aimwrap.MaskHealth` says.

    Args:
        subject: the model.
    """

    def __init__(self, subject: Subject) -> None:
        self._health = None if subject.aim is None else MaskHealth(subject.aim.tau)
        self._areas: dict[Stage, list[Tensor]] = {stage: [] for stage in subject.stages}
        self.grids: dict[Stage, tuple[int, int]] = {}

    def add(self, look: Look) -> None:
        """Look at a batch."""
        for stage, mask in look.output.masks.items():
            self._areas[stage].append(mask.float().mean((1, 2, 3)).cpu())
            self.grids[stage] = (mask.shape[2], mask.shape[3])
        if self._health is not None:
            self._health.update(look.output, training=False)

    def area(self, stage: Stage) -> float:
        """Mean area of a stage's mask."""
        return torch.cat(self._areas[stage]).mean().item()

    def findings(self) -> list[MaskFinding] | None:
        """What is wrong with the masks; None for a model without masks."""
        return None if self._health is None else self._health.report()
