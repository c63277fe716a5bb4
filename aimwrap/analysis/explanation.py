"""Exact explanations: how much each position adds to each class logit, read off the forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._checks import check_numbers
from .._numerics import both_sides, predicted_classes, without_autocast
from .._text import numbered
from ..second_look import SecondLook
from ..taps import Stage
from . import html
from .readout import bias_of, evaluating, inside, linear_classifier, shares, unwrap

IMAGES, CLASSES = 4, 3  # that a notebook shows


class Explanation(NamedTuple):
    """What a prediction is made of; the dicts are keyed as the user named the stages, shallow to deep.

    A notebook shows the first images' masks and contributions as images.

    Over positions, contributions add up to the logits: ``contributions.sum((2, 3)) + bias`` is ``logits`` at the
    classes asked for. Those of an AIM are exactly zero outside the merged mask.

    Attributes:
        logits: the prediction, for all classes, (N, num_classes).
        masks: each stage's mask B (paper eq. 2), (N, 1, H_l, W_l).
        mask_probabilities: sigmoid(A), how often training's noise would open each position, (N, 1, H_l, W_l). The mask
            is 1 where A is not negative: where this is one half or more, except for the last rounding.
        merged_mask: the positions of the classified map that can count at all, (N, 1, H, W).
        contributions: share of each position in each logit asked for, (N, K, H, W); a single logit is class 1's.
        stage_contributions: the part of ``contributions`` that each stage brings, on the shallowest stage's grid,
            (N, K, H, W) each; they sum to ``contributions``. These are shares of the *final* logits and not of
            ``AIMOutput.stage_logits``. With the feature-preserving head the finest stage selects all features, and the
            deeper ones bring zeros.
        bias: what the classifier adds to each logit whatever it sees, (K,).
        kept: the pixels that a second look was shown, (N, 1, H, W) of the image's size; None of an AIM.
            ``contributions`` are then those of the second look, on the grid that the backbone's final map lays on its
            boxes; masks are the first look's, and ``stage_contributions`` is empty.
        boxes: the part of each image that a second look saw enlarged, (N, 4) as left, top, right, bottom in pixels.
    """

    logits: Tensor
    masks: dict[Stage, Tensor]
    mask_probabilities: dict[Stage, Tensor]
    merged_mask: Tensor
    contributions: Tensor
    stage_contributions: dict[Stage, Tensor]
    bias: Tensor
    kept: Tensor | None = None
    boxes: Tensor | None = None

    def on_the_image(self) -> Tensor:
        """A second look's contributions, placed on the image: (N, K, H, W), with the same sums over positions.

        Each position's share is spread evenly over its part of the box.

        Raises:
            ValueError: if this is the explanation of an AIM, whose grid is laid on the whole image.
        """
        if self.kept is None or self.boxes is None:
            raise ValueError("on_the_image() is for a second look; an AIM's grid is laid on the whole image")
        return spread(self.contributions, self.boxes, *self.kept.shape[-2:])

    def __repr__(self) -> str:
        images, asked, height, width = self.contributions.shape
        grid = "merged to" if self.boxes is None else "a second look of"
        return (
            f"Explanation({images} images, {asked} of {self.logits.shape[1]} classes, stages {list(self.masks)}, "
            f"{grid} {height} x {width})"
        )

    def _repr_html_(self) -> str:
        logits, contributions, bias, merged = (
            values.detach().float().cpu() for values in (self.logits, self.contributions, self.bias, self.merged_mask)
        )
        masks = {stage: mask.detach().float().cpu() for stage, mask in self.masks.items()}
        images, num_classes = logits.shape
        asked, shown = contributions.shape[1], min(IMAGES, images)
        sums = contributions.sum((2, 3)) + bias  # the logits of the classes that were asked for
        rows = []
        for number, predicted in enumerate(predicted_classes(logits[:shown]).tolist()):
            strongest = sums[number].argsort(descending=True, stable=True)[:CLASSES].tolist()
            largest = contributions[number, strongest].abs().max().item()
            decided = f"class {predicted}" if predicted >= 0 else "no class"
            row: list[str] = [f"{number}", f"{decided}\nlogit {logits[number].max().item():.4g}"]
            row += [html.mask_picture(mask[number, 0], f"stage {stage}") for stage, mask in masks.items()]
            row.append(html.mask_picture(merged[number, 0], "merged mask"))
            if self.kept is not None and self.boxes is not None:
                left, top, right, bottom = (round(side) for side in self.boxes[number].tolist())
                picture = html.mask_picture(self.kept[number, 0].detach().float().cpu(), "kept pixels")
                row.append(html.Markup(f"{picture}<br/>box {left}, {top}, {right}, {bottom}"))
            for k in strongest:
                which = k + (num_classes == 1 and bool(sums[number, k] * logits[number, 0] >= 0))  # or its negative
                name = f"class {which}" if asked == num_classes else f"asked for as number {k}"
                said = f"{name}\nlogit {sums[number, k].item():.4g}\nbias {bias[k].item():.3g}"
                row.append(html.contribution_picture(contributions[number, k], largest, name, said))
            rows.append(row)
        header = ["image", "prediction", *(f"mask of stage {stage}" for stage in masks), "merged mask"]
        header += ["kept pixels"] * (self.kept is not None)
        header += [f"contributions {rank}" for rank in range(1, 1 + min(CLASSES, asked))]
        first = f"the first {shown} of {images} images" if shown < images else numbered(images, "image")
        return html.block(
            html.line(
                f"Explanation: {first}; {asked} of {num_classes} classes, the strongest {min(CLASSES, asked)} shown."
            ),
            html.table(header, rows),
            html.line(
                "Green is open. Orange speaks for the class and blue against it, on one scale per image; what is empty "
                "adds exactly nothing. Contributions and bias sum to the logit."
            ),
            html.line(
                "Masks are the first look's. Contributions are the second look's, on its enlarged box (left, top, "
                "right, bottom in pixels) and not on the image: on_the_image() places them."
            )
            if self.boxes is not None
            else "",
        )


@torch.no_grad()
def explain(model: nn.Module, images: Tensor, classes: Sequence[int] | Tensor | None = None) -> Explanation:
    """Take a prediction apart into the shares of positions, without gradient or approximation.

    Between the classified map and the logits AIM has an average and one linear layer (paper eq. 5), so each position's
    share is exact. This holds for any network that ends so (class activation maps, Zhou et al. 2016); what the masks
    add are the exact zeros. What a share says about *pixels* is another matter: see :func:`~aimwrap.verify`.

    The model runs in evaluation mode, and is left in the mode that it was in.

    Args:
        model: an :class:`~aimwrap.AIM` or a :class:`~aimwrap.SecondLook`, also inside ``torch.compile`` or
            ``DistributedDataParallel``.
        images: (N, C, H, W), as the model takes them.
        classes: K classes to explain, the same for all images; all of them if None. Of a single logit they are 1, or 0
            for its negative. To explain each image's own prediction:
            ``explanation.contributions[torch.arange(N), explanation.logits.argmax(1)]``.

    Returns:
        Logits, masks and contributions.

    Raises:
        TypeError: if the model is neither an AIM nor a second look, or its final classifier not a linear layer.
        ValueError: if a class does not exist, or the images do not fit.

    Example:
        >>> import torchvision
        >>> from aimwrap import AIM
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
        >>> explanation = explain(model, torch.randn(2, 3, 64, 64), classes=[3, 7])
        >>> explanation.contributions.shape
        torch.Size([2, 2, 4, 4])
        >>> logits = explanation.contributions.sum((2, 3)) + explanation.bias
        >>> torch.allclose(logits, explanation.logits[:, [3, 7]], atol=1e-5)
        True
    """
    second = inside(model, SecondLook)
    aim = unwrap(model) if second is None else second.first
    asked = _check_classes(classes, aim.num_classes)
    with evaluating(aim):
        features = aim.forward_masks(aim.forward_backbone(images))
        output = aim.forward_head(features)
    linear, merged = linear_classifier(aim if second is None else second), features.merged_mask
    bias = both_sides(bias_of(linear), 0)[asked]
    probabilities = {stage: torch.sigmoid(logits.float()) for stage, logits in features.mask_logits.items()}
    if second is not None:
        kept, boxes = second.region(merged, images)
        closer = second.closer(images, kept, boxes)
        logits = linear(closer.mean((2, 3)))  # first: a weight norm sets the weights here
        contributions = shares(linear, closer, torch.ones_like(closer[:, :1]), "all", asked)
        return Explanation(logits, output.masks, probabilities, merged, contributions, {}, bias, kept, boxes)
    parts = zip(aim.stages, aim.top_down.parts(list(features.masked.values())), strict=True)
    return Explanation(
        output.logits,
        output.masks,
        probabilities,
        merged,
        shares(linear, features.fused, merged, aim.pooling, asked),
        {stage: shares(linear, part, merged, aim.pooling, asked) for stage, part in parts},
        bias,
    )


def _check_classes(classes: Sequence[int] | Tensor | None, num_classes: int) -> Tensor:
    if classes is None:
        return torch.arange(num_classes) if num_classes > 1 else torch.tensor([1])
    expected = "classes must be a list of class numbers such as [0, 3], or None for all"
    try:
        asked = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{expected}, got {classes!r}") from error
    if asked.numel() == 0:
        raise ValueError(f"{expected}, got none")
    if asked.ndim != 1 or asked.is_floating_point() or asked.dtype == torch.bool:
        raise ValueError(f"{expected}, got {classes!r}")
    check_numbers(asked, max(2, num_classes), "classes")
    return asked.long().cpu()


def spread(contributions: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """A second look's contributions on the image: each position's share, even over its part of the box.

    From (N, K, h, w), over boxes (N, 4) within the image, to (N, K, H, W) with the same sums over positions.

    Example:
        >>> spread(torch.ones(1, 1, 1, 1), torch.tensor([[1.0, 0.0, 3.0, 1.0]]), height=2, width=4)
        tensor([[[[0.0000, 0.5000, 0.5000, 0.0000],
                  [0.0000, 0.0000, 0.0000, 0.0000]]]])
    """
    left, top, right, bottom = boxes.to(contributions).unbind(1)
    rows = _overlaps(top, bottom, contributions.shape[2], height)
    columns = _overlaps(left, right, contributions.shape[3], width)
    with without_autocast(contributions):  # else the sums are of half precision
        return rows[:, None] @ contributions @ columns[:, None].mT


def _overlaps(begin: Tensor, end: Tensor, positions: int, pixels: int) -> Tensor:
    """The share of each position of an even grid, from begin to end (N,), in each pixel: (N, pixels, positions)."""
    edges = torch.arange(pixels + 1).to(begin)[None, :, None]
    sides = (end - begin)[:, None, None] / positions
    inside = (edges - begin[:, None, None]) / sides - torch.arange(positions).to(begin)
    return inside.clamp(0, 1).diff(dim=1)
