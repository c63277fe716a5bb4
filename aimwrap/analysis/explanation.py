"""Exact explanations: how much each position adds to each class logit, read off the forward pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .._checks import check_numbers
from .._numerics import both_sides, predicted_classes, wide_dtype, without_autocast
from .._text import numbered
from ..model import AIM
from ..taps import Stage
from ..top_down import Pooling, pooling_weights
from . import html

Kind = TypeVar("Kind", bound=nn.Module)

IMAGES, CLASSES = 4, 3  # that a notebook shows
_SWITCHING = threading.Lock()
_runs: dict[nn.Module, int] = {}  # how many runs, of all threads, hold a module of a training model in evaluation mode


class Explanation(NamedTuple):
    """What a prediction is made of; the dicts are keyed as the user named the stages, shallow to deep.

    A notebook shows the first images' masks and contributions as images.

    Over positions, contributions add up to the logits: ``contributions.sum((2, 3)) + bias`` is ``logits`` at the
    classes asked for. Outside the merged mask they are exactly zero.

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
    """

    logits: Tensor
    masks: dict[Stage, Tensor]
    mask_probabilities: dict[Stage, Tensor]
    merged_mask: Tensor
    contributions: Tensor
    stage_contributions: dict[Stage, Tensor]
    bias: Tensor

    def __repr__(self) -> str:
        images, asked, height, width = self.contributions.shape
        return (
            f"Explanation({images} images, {asked} of {self.logits.shape[1]} classes, stages {list(self.masks)}, "
            f"merged to {height} x {width})"
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
            for k in strongest:
                which = k + (num_classes == 1 and bool(sums[number, k] * logits[number, 0] >= 0))  # or its negative
                name = f"class {which}" if asked == num_classes else f"asked for as number {k}"
                said = f"{name}\nlogit {sums[number, k].item():.4g}\nbias {bias[k].item():.3g}"
                row.append(html.contribution_picture(contributions[number, k], largest, name, said))
            rows.append(row)
        header = ["image", "prediction", *(f"mask of stage {stage}" for stage in masks), "merged mask"]
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
        )


@torch.no_grad()
def explain(model: nn.Module, images: Tensor, classes: Sequence[int] | Tensor | None = None) -> Explanation:
    """Take a prediction apart into the shares of positions, without gradient or approximation.

    Between the classified map and the logits AIM has an average and one linear layer (paper eq. 5), so each position's
    share is exact. This holds for any network that ends so (class activation maps, Zhou et al. 2016); what the masks
    add are the exact zeros. What a share says about *pixels* is another matter: see :func:`~aimwrap.verify`.

    The model runs in evaluation mode, and is left in the mode that it was in.

    Args:
        model: an :class:`~aimwrap.AIM`, also inside ``torch.compile`` or ``DistributedDataParallel``.
        images: (N, C, H, W), as the model takes them.
        classes: K classes to explain, the same for all images; all of them if None. Of a single logit they are 1, or 0
            for its negative. To explain each image's own prediction:
            ``explanation.contributions[torch.arange(N), explanation.logits.argmax(1)]``.

    Returns:
        Logits, masks and contributions.

    Raises:
        TypeError: if the model is not an AIM, or its final classifier not a linear layer.
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
    aim = unwrap(model)
    asked = _check_classes(classes, aim.num_classes)
    with evaluating(aim):
        features = aim.forward_masks(aim.forward_backbone(images))
        output = aim.forward_head(features)
    linear, merged = linear_classifier(aim), features.merged_mask
    return Explanation(
        output.logits,
        output.masks,
        {stage: torch.sigmoid(logits.float()) for stage, logits in features.mask_logits.items()},
        merged,
        shares(linear, features.fused, merged, aim.pooling, asked),
        {
            stage: shares(linear, part, merged, aim.pooling, asked)
            for stage, part in zip(aim.stages, aim.top_down.parts(list(features.masked.values())), strict=True)
        },
        both_sides(bias_of(linear), 0)[asked],
    )


def shares(linear: nn.Linear, part: Tensor, mask: Tensor, pooling: Pooling, classes: Tensor | None = None) -> Tensor:
    """How much each position of a part (N, D, H, W) of the classified map adds to the logits (eq. 5, before its sum).

    ``mask`` (N, 1, H, W) says which positions the map is averaged over. (N, K, H, W), float32 at least, for K class
    numbers, or for all classes.
    """
    with without_autocast(part):
        weight = (linear.weight if classes is None else both_sides(linear.weight, 0)[classes]).to(wide_dtype(part))
        # einsum's result has strides that tie an export's image size to its batch size.
        per_position = torch.matmul(weight, part.to(weight.dtype).flatten(2)).unflatten(2, part.shape[2:])
        contributions: Tensor = per_position * pooling_weights(mask, pooling).to(weight.dtype)
        return contributions


def unwrap(model: nn.Module) -> AIM:
    """The AIM inside a model, as :func:`inside` finds it.

    Raises:
        TypeError: if there is none.
    """
    aim = inside(model, AIM)
    if aim is None:
        raise TypeError(f"model must be an AIM, got {type(model).__name__}; {_way_out(model)}")
    return aim


def inside(model: nn.Module, kind: type[Kind]) -> Kind | None:
    """The module of a kind inside ``torch.compile``'s and the data-parallel wrappers, or in an attribute ``model``."""
    inner: object = model
    while not isinstance(inner, kind):
        names = ("_orig_mod", "module", "model")  # torch.compile, data parallel, LogitsView and Lightning modules
        held = (getattr(inner, name, None) for name in names)
        wrapped = next((module for module in held if isinstance(module, nn.Module)), None)
        if wrapped is None:
            return None
        inner = wrapped
    return inner


def linear_classifier(model: nn.Module) -> nn.Linear:
    """The final classifier.

    Raises:
        TypeError: if it is not a linear layer.
    """
    if not isinstance(model.classifier, nn.Linear) or type(model.classifier).forward is not nn.Linear.forward:
        raise TypeError(
            f"model.classifier must be one nn.Linear, got {type(model.classifier).__name__}: after anything else a "
            "logit is not a sum over positions, and has no exact explanation"
        )
    return model.classifier


def bias_of(linear: nn.Linear) -> Tensor:
    """What a classifier adds to each logit whatever it sees, (K,)."""
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode, then give every module back the mode that it had.

    Threads may share a model: what one of them switched goes back to training when the last has ended. Where all of it
    is in evaluation mode already nothing is written. A RuntimeError says that another thread began to train it.
    """
    with _SWITCHING:
        switched = [module for module in model.modules() if module.training or module in _runs]
        _runs.update((module, _runs.get(module, 0) + 1) for module in switched)
        if any(module.training for module in switched):
            model.eval()
        held = [module for module in model.modules() if not module.training]
    try:
        yield
        if any(module.training for module in held):
            raise RuntimeError("model was switched to training while it was explained; explain copy.deepcopy(model)")
    finally:
        with _SWITCHING:
            for module in switched:
                _runs[module] -= 1
                if not _runs[module]:
                    del _runs[module]
                    module.training = True


def _way_out(model: object) -> str:
    parts = model.named_modules() if isinstance(model, nn.Module) else ()
    held = next((name for name, part in parts if isinstance(part, AIM)), None)
    return "wrap the backbone: AIM(backbone, stages=[2, 3])" if held is None else f"pass the one in it, model.{held}"


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
