"""One look at a batch, by any model, and what is measured of it for each image: the only definition of each score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._numerics import both_sides, predicted_classes
from ..backbones.pooled import PooledClassifier
from ..metrics import chance_level, class_activation_map, energy_pointing_game, mask_precision, mask_recall
from ..model import AIM
from ..output import AIMOutput, MaskedFeatures
from ..second_look import SecondLook, on_the_image
from ..top_down import pooling_weights
from .readout import evaluating, inside, linear_classifier, unwrap


class Look(NamedTuple):
    """What a model makes of a batch.

    Attributes:
        output: logits, and masks by stage; without stages for a plain model. Of a second look the first look's masks.
        heatmap: what each position adds to the logit of the predicted class, (N, h, w) float32 at least, exactly 0
            outside the merged mask. Of a second look the same values on the image, 0 where nothing is kept.
        deepest: rows and columns of the model's deepest map.
        merged_mask: the positions that the decision may use, (N, 1, h, w); None for a plain model.
        kept: pixels that a second look was shown, (N, 1, H, W); None for other models.
        boxes: the part of each image that a second look saw enlarged, (N, 4) as left, top, right, bottom in pixels.
        in_boxes: its heatmap where it was made, over the boxes, (N, h, w).
    """

    output: AIMOutput
    heatmap: Tensor
    deepest: tuple[int, int]
    merged_mask: Tensor | None = None
    kept: Tensor | None = None
    boxes: Tensor | None = None
    in_boxes: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """The prediction, (N, K)."""
        return self.output.logits

    @property
    def shares(self) -> Tensor:
        """The heatmap on the grid that it was made on."""
        return self.heatmap if self.in_boxes is None else self.in_boxes

    def cpu(self) -> Look:
        """The same on the CPU."""
        moved: Look = pytree.tree_map_only(Tensor, Tensor.cpu, self)
        return moved


@torch.no_grad()
def look(model: nn.Module | PooledClassifier, images: Tensor) -> Look:
    """Classify a batch and explain each image's own prediction, in evaluation mode.

    Args:
        model: an AIM, a second look, or a plain network as a :class:`PooledClassifier`.
        images: (N, C, H, W), as the model takes them.

    Returns:
        Logits, masks and heatmap, from one run over the images.

    Raises:
        TypeError: if the model is none of these, or its classifier not one linear layer.
    """
    if isinstance(model, PooledClassifier):
        logits, heatmap = model.explained(images)
        return Look(AIMOutput(logits, {}, {}), heatmap / heatmap[0].numel(), _grid(heatmap))
    second = inside(model, SecondLook)
    if second is not None:
        closer, kept, boxes, first = second.look(images)
        seen = look_at_map(closer, linear_classifier(second))
        masks = list(first.masks.values())
        merged = second.first.top_down.fuse(masks, masks)[1].float()
        output = AIMOutput(seen.output.logits, {}, first.masks)
        placed = on_the_image(seen.heatmap, kept, boxes)
        return Look(output, placed, seen.deepest, merged, kept, boxes, seen.heatmap)
    aim = unwrap(model)
    with evaluating(aim):
        return look_at(aim, aim.forward_masks(aim.forward_backbone(images)))


@torch.no_grad()
def look_at(aim: AIM, features: MaskedFeatures) -> Look:
    """The same from :meth:`AIM.forward_masks`, for maps that were kept or masks that were given."""
    output, merged = aim.forward_head(features), features.merged_mask.float()
    weight = linear_classifier(aim).weight
    heatmap = class_activation_map(features.fused, weight, both_sides(output.logits, 1).argmax(1))
    deepest = list(features.features.values())[-1]  # the backbone's final map, where the head selects from it
    return Look(output, heatmap * pooling_weights(merged, aim.pooling)[:, 0], _grid(deepest), merged)


@torch.no_grad()
def look_at_map(final_map: Tensor, linear: nn.Linear) -> Look:
    """The same from the final map (N, D, h, w) of a network that averages it and ends in a linear layer."""
    logits = linear(final_map.mean((2, 3)))
    heatmap = class_activation_map(final_map, linear.weight, both_sides(logits, 1).argmax(1))
    return Look(AIMOutput(logits, {}, {}), heatmap / final_map[0, 0].numel(), _grid(final_map))


class Measured(NamedTuple):
    """A model's numbers, one per image; NaN where one is undefined.

    A heatmap without positive values has no energy pointing: its share is 0 / 0. It is left out of every mean, as
    :class:`~aimwrap.metrics.EnergyPointingGame` leaves it out. Counting it as 0 would say that the model looked away
    from the object, which it did not; how many there are is ``energy_pointing.isnan().sum()``.

    Attributes:
        predicted: class number, (N,) int64.
        right: whether it is the label, (N,) bool.
        confidence: softmax of the predicted class, (N,) float32.
        true_confidence: softmax of the label's class.
        energy_pointing: of the heatmap, at its own resolution.
        energy_pointing_matched: of the heatmap and the object, both averaged exactly over one coarse grid.
        mask_precision: of the merged mask; NaN where the image has no object.
        mask_recall: of the merged mask.
        area: of the merged mask.
        chance: the object's share of the image, which any even heatmap scores; where energy pointing is defined.
        kept_area: share of the pixels that a second look was shown.
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
    chance: Tensor
    kept_area: Tensor


def measure(
    look: Look, labels: Tensor, object_masks: Tensor, resolution: tuple[int, int], known: Tensor | None = None
) -> Measured:
    """Measure each image of a batch.

    Args:
        look: what the model made of it.
        labels: (N,).
        object_masks: (N, H, W) or (N, 1, H, W), empty where the object is not known.
        resolution: rows and columns of the coarsest map among the models that are compared.
        known: (N,) bool, whether the image's object is known; None where all are.
    """
    logits = look.output.logits.float()
    predicted = predicted_classes(logits)
    probabilities = (nn.functional.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits).softmax(1)  # or sigmoid
    undefined = torch.full_like(probabilities[:, 0], math.nan)
    pointing, matched, precision, recall, chance, area = [undefined] * 6
    if look.merged_mask is not None:
        area = look.merged_mask.mean((1, 2, 3))
    if known is None or bool(known.any()):
        pointing = energy_pointing_game(look.heatmap, object_masks)
        matched = energy_pointing_game(look.heatmap, object_masks, resolution=resolution)
        chance = chance_level(object_masks).where(~pointing.isnan(), math.nan)
        if look.merged_mask is not None:
            recall = mask_recall(look.merged_mask, object_masks)  # NaN where there is no object
            precision = mask_precision(look.merged_mask, object_masks).where(~recall.isnan(), math.nan)
    kept = undefined if look.kept is None else look.kept.float().mean((1, 2, 3))
    right, sure, of_label = predicted == labels, probabilities.amax(1), probabilities.gather(1, labels[:, None])[:, 0]
    return Measured(predicted, right, sure, of_label, pointing, matched, precision, recall, area, chance, kept)


def joined(parts: Sequence[Measured]) -> Measured:
    """The numbers of all batches."""
    return Measured(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _grid(a_map: Tensor) -> tuple[int, int]:
    return a_map.shape[-2], a_map.shape[-1]
