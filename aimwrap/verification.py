"""Check on the user's own model what AIM guarantees, and measure what it does not.

Guaranteed, and checked: features outside a mask move no logit, contributions add up, evaluation is repeatable, values
are finite. Not guaranteed, and measured: that the *pixels* outside the merged mask do not matter either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .explanation import evaluating, explain, unwrap
from .intervals import wilson_interval
from .model import AIM
from .notebook import verification_html
from .output import AIMOutput
from .pooled_classifier import PooledClassifier
from .progress import with_progress
from .resizing import resize_to
from .taps import Stage
from .top_down import pool

# Of a logit's terms before they cancel, summed without sign.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}

PlainModel = nn.Module | Callable[[Tensor], tuple[Tensor, Tensor]]


class Check(NamedTuple):
    """One guarantee.

    Attributes:
        name: what must hold.
        passed: whether it does.
        detail: what was found; where it fails, the leak and where to look for it.
    """

    name: str
    passed: bool
    detail: str


class Survival(NamedTuple):
    """How often a prediction survives when the pixels outside a region are replaced.

    Attributes:
        region: what is kept: ``"merged mask"``; ``"moved mask"``, the control, which is the same shape elsewhere; or
            ``"plain CAM"``, as many pixels where the plain model's own class activation map is highest.
        filling: what replaces the rest: ``"mean colour"``, ``"blur"`` or ``"another image"``.
        masks: ``"fixed"`` (those of the whole image), ``"recomputed"`` (from what is left), ``"none"`` (plain model).
        rate: share of the images whose predicted class stays the same.
        low, high: its 95 % confidence interval (Wilson 1927).
        images: how many there were.
    """

    region: str
    filling: str
    masks: str
    rate: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found; ``print`` it.

    Attributes:
        checks: the guarantees.
        survival: the measurements; empty where they were not asked for or would mean nothing.
        area: mean area of the merged mask, which the regions share; NaN where it was not measured.
        note: why there are no measurements.
    """

    checks: tuple[Check, ...]
    survival: tuple[Survival, ...]
    area: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every guarantee holds."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The guarantees that do not hold."""
        return tuple(check for check in self.checks if not check.passed)

    def __str__(self) -> str:
        lines = [f"{'ok    ' if check.passed else 'FAILED'} {check.name}: {check.detail}" for check in self.checks]
        if self.survival:
            lines += ["", f"Prediction survives when only a region's pixels are left (area {self.area:.2f}):"]
            lines += [
                f"{row.region:<12} {row.filling:<14} masks {row.masks:<11} {row.rate:.3f}  "
                f"[{row.low:.3f}, {row.high:.3f}]  of {row.images}"
                for row in self.survival
            ]
        if self.note:
            lines += ["", f"Pixels not measured: {self.note}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return verification_html(self)


@torch.no_grad()
def verify(
    model: nn.Module,
    images: Tensor,
    plain: PlainModel | None = None,
    *,
    batch_size: int = 32,
    measure_pixels: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Verification:
    """Check AIM's guarantees on a model and some images, and measure how much the pixels outside its masks matter.

    A mask proves which *features* were pooled. A feature's receptive field is wider than its cell, and the mask itself
    is computed from the whole image, so pixels outside the merged mask can still reach the decision. Three fillings
    replace them: the image's mean colour, a strong blur (the image at 1/16 of its size, enlarged), another image of
    ``images``. Each is done with the masks held fixed, where only features can change, and recomputed, where the masks
    can change too. The controls: the same shape moved elsewhere (around the border, so it may be cut in two, and a
    large one overlaps itself), and, for the plain model, as many pixels of its own class activation map. All
    fillings are unnatural images, so compare the rows and do not read one alone.

    Args:
        model: an :class:`~aimwrap.AIM`; left in the mode that it was in. Inside ``torch.compile``, the masks are
            checked on the model that was compiled, and the logits on what the compiler made of it.
        images: (N, C, H, W), as the model takes them; take at least a hundred for the measurements, of the test set.
        plain: the plain classifier to compare with: a CNN that ends in global average pooling and one linear layer (a
            norm in between, as in ConvNeXt, makes its class activation map an approximation), or a function from images
            to logits (N, K) and heatmaps (N, h, w).
        batch_size: images per forward pass.
        measure_pixels: False leaves the measurements out.
        seed: of the controls and of the checks' random features. The random states of the CPU and of CUDA devices are
            left as they were.
        progress: whether to show a bar.

    Returns:
        The checks, ``passed`` if all hold, and the measurements.

    Raises:
        TypeError: if the model is no AIM, or images, ``plain`` or ``batch_size`` are of the wrong type.
        ValueError: if there are no images, or ``plain``'s class activation map cannot be found.

    Example:
        >>> import torchvision
        >>> from aimwrap import AIM
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
        >>> verify(model, torch.randn(4, 3, 64, 64), measure_pixels=False).passed
        True
    """
    aim = unwrap(model)
    _check_arguments(images, batch_size)
    batches = images.split(batch_size)
    generator = torch.Generator().manual_seed(seed)
    with evaluating(aim), _kept_random_state():
        shown = with_progress(batches, "checking guarantees") if progress else batches
        checks = (*_merge(_checks(model, aim, batch, generator) for batch in shown),)
        if not measure_pixels:
            return Verification(checks, (), math.nan)
        return Verification(checks, *_measure(aim, batches, _plain(plain), checks[0], generator, progress))


def _check_arguments(images: Tensor, batch_size: int) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor (N, C, H, W), got {type(images).__name__}; torch.stack makes one")
    if len(images) == 0:
        raise ValueError("images must hold at least one image, got none; a hundred or more give useful intervals")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
        raise TypeError(f"batch_size must be an int, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


# ---- The guarantees -------------------------------------------------------------------------------------------------


def _checks(model: nn.Module, aim: AIM, images: Tensor, generator: torch.Generator) -> list[Check]:
    before = _under_one_seed(aim, images)
    return [
        _finite(aim, images),
        _binary(before),
        _repeatable(aim, images),
        *(_masked_features_move_nothing(aim, images, stage, before, generator) for stage in aim.stages),
        _contributions_add_up(model, aim, images),
    ]


def _merge(checks_by_batch: Iterable[list[Check]]) -> Iterator[Check]:
    """A guarantee holds if it holds on every batch; the detail is that of the first batch on which it fails."""
    for same in zip(*checks_by_batch, strict=True):
        yield next((check for check in same if not check.passed), same[0])


def _finite(aim: AIM, images: Tensor) -> Check:
    name = "values are finite"
    if not images.isfinite().all():
        return Check(name, False, "the images are not: look for a division by zero in their normalisation")
    maps = aim.forward_backbone(images)
    for node, values in maps.items():
        if not values.isfinite().all():
            return Check(name, False, f"the backbone's map {node!r} is not: its weights, or half precision, overflow")
    features = aim.forward_masks(maps)
    output = aim.forward_head(features)
    for stage in aim.stages:
        for what, values in (
            ("mask logits", features.mask_logits[stage]),
            ("masked features", features.masked[stage]),
            ("stage logits", output.stage_logits[stage]),
        ):
            if not values.isfinite().all():
                return Check(name, False, f"the {what} of stage {stage!r} are not: training diverged, lower its rate")
    if not output.logits.isfinite().all():
        return Check(name, False, "the logits are not: the final classifier's weights diverged, lower the rate")
    return Check(name, True, "maps, mask logits, masked features and logits are")


def _binary(output: AIMOutput) -> Check:
    name = "masks are exactly 0 or 1"
    for stage, mask in output.masks.items():
        if not ((mask == 0) | (mask == 1)).all():
            return Check(name, False, f"the mask of stage {stage!r} holds other values: it is soft, and hides nothing")
    return Check(name, True, "at every stage")


def _repeatable(aim: AIM, images: Tensor) -> Check:
    name = "evaluation is repeatable"
    first, second = aim(images), aim(images)  # torch's generator has moved on in between
    for stage in aim.stages:
        if not torch.equal(first.masks[stage], second.masks[stage]):
            said = f"the mask of stage {stage!r} differs from run to run: noise is left on in eval()"
            return Check(name, False, said)
    if not torch.equal(first.logits, second.logits):
        return Check(name, False, "masks repeat but logits do not: look for dropout or other noise left on in eval()")
    return Check(name, True, "the same bits twice")


def _masked_features_move_nothing(
    aim: AIM, images: Tensor, stage: Stage, before: AIMOutput, generator: torch.Generator
) -> Check:
    """Replace the stage's features where its mask is 0, under the same random numbers: no bit may differ."""
    name = f"features outside the mask of stage {stage!r} move no logit"
    hidden = _hidden(aim, images, before, stage)
    outside = int(hidden.sum())
    if outside == 0:
        return Check(name, True, "not tested: the mask shows something of every position")
    with _disturbed(aim, stage, hidden, generator):
        after = _under_one_seed(aim, images)
    reached = [
        what
        for what, old, new in (
            ("the final logits", before.logits, after.logits),
            *((f"the logits of stage {s!r}", before.stage_logits[s], after.stage_logits[s]) for s in aim.stages),
        )
        if not torch.equal(old, new)
    ]
    if reached:
        how = "its mask is not applied, or something between mask and classifier mixes positions"
        return Check(name, False, f"where the mask is 0, they reach {', '.join(reached)}: {how}")
    return Check(name, True, f"to the bit, {outside} positions of {hidden.numel()} replaced")


def _hidden(aim: AIM, images: Tensor, output: AIMOutput, stage: Stage) -> Tensor:
    """Positions of a stage's features that its mask shows nothing of, (N, 1, h, w) on the features' own grid.

    By the masks that the model returned and by resizing alone, not by how the model applies them.
    """
    features = aim.forward_masks(aim.forward_backbone(images)).features[stage]
    numbers = torch.arange(1.0, features[0, 0].numel() + 1, device=features.device).view(1, 1, *features.shape[2:])
    masks, index = list(output.masks.values()), aim.stages.index(stage)
    seen = numbers
    for partner in reversed(masks[index:] if aim.classified is not None else []):
        seen = resize_to(seen, partner)
    shown = (seen * masks[index].float()).flatten(1)  # the numbers of those that are seen, and zeros
    return torch.stack([~torch.isin(numbers[0], of_image) for of_image in shown])


def _under_one_seed(aim: AIM, images: Tensor) -> AIMOutput:
    """A run whose random numbers, should any be drawn, are the same each time."""
    with _kept_random_state():
        torch.default_generator.manual_seed(0)
        if images.is_cuda:
            torch.cuda.manual_seed(0)
        output: AIMOutput = aim(images)
    return output


@contextmanager
def _kept_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        yield


@contextmanager
def _disturbed(aim: AIM, stage: Stage, hidden: Tensor, generator: torch.Generator) -> Iterator[None]:
    """Large random features at the stage's hidden positions, before the mask is applied."""
    index = aim.stages.index(stage)

    def disturb(module: nn.Module, args: Any, result: list[Tensor]) -> list[Tensor]:
        features = list(result)
        noise = torch.empty_like(features[index])  # of the same memory format, or sums come in another order
        noise.copy_(100 * torch.randn(noise.shape, generator=generator))
        features[index] = torch.where(hidden, noise, features[index])
        return features

    handle = aim.top_down.register_forward_hook(disturb)
    try:
        yield
    finally:
        handle.remove()


def _contributions_add_up(model: nn.Module, aim: AIM, images: Tensor) -> Check:
    """Against the logits of the model's own forward, which is what people call."""
    name = "contributions add up to the logits"
    if not isinstance(aim.classifier, nn.Linear):
        how = "behind anything but one nn.Linear a logit is no sum over positions"
        return Check(name, False, f"model.classifier must be one nn.Linear, got {type(aim.classifier).__name__}: {how}")
    with _exact_matmul():
        explanation = explain(aim, images)
        output = model(images)
        logits = output.logits if isinstance(output, AIMOutput) else output
        size = _size_of_terms(aim, images)
    bound = ROUNDING[explanation.logits.dtype]
    rebuilt = explanation.contributions.sum((2, 3)) + explanation.bias
    miss = ((rebuilt - logits).abs() / size.clamp(min=torch.finfo(torch.float32).tiny)).max().item()
    if not miss <= bound:
        how = "something, such as a norm or a non-linearity, stands between the pooled map and the logits"
        return Check(name, False, f"off by {miss:.1e} of their terms, where rounding allows {bound:g}: {how}")
    outside = (explanation.contributions * (explanation.merged_mask == 0)).abs().max().item()
    if outside > 0:
        how = "a stage's mask is not applied before the maps are merged"
        return Check(name, False, f"positions outside the merged mask add up to {outside:.1e}, not 0: {how}")
    parts = sum(share.sum((2, 3)) for share in explanation.stage_contributions.values()) + explanation.bias
    gap = ((parts - rebuilt).abs() / size.clamp(min=torch.finfo(torch.float32).tiny)).max().item()
    if not gap <= bound:
        return Check(name, False, f"the stages' shares miss the whole by {gap:.1e}: fuse() adds more than masked maps")
    return Check(name, True, f"within {miss:.1e} of their terms, and are 0 outside the merged mask")


def _size_of_terms(aim: AIM, images: Tensor) -> Tensor:
    """What a logit's terms add up to without their signs, (N, K): rounding is a share of this, not of the logit."""
    assert isinstance(aim.classifier, nn.Linear)
    features = aim.forward_masks(aim.forward_backbone(images))
    pooled = pool(features.fused.abs(), features.merged_mask, aim.pooling).float()
    size = pooled @ aim.classifier.weight.abs().float().T
    return size if aim.classifier.bias is None else size + aim.classifier.bias.abs().float()


@contextmanager
def _exact_matmul() -> Iterator[None]:
    """Without the reduced precision (TF32) that training may allow for speed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# ---- The measurements -----------------------------------------------------------------------------------------------


class _Plain(NamedTuple):
    """The plain model's logits, and its logits with heatmaps."""

    logits: Callable[[Tensor], Tensor]
    explained: Callable[[Tensor], tuple[Tensor, Tensor]]


def _measure(
    aim: AIM,
    batches: tuple[Tensor, ...],
    plain: _Plain | None,
    finite: Check,
    generator: torch.Generator,
    progress: bool,
) -> tuple[tuple[Survival, ...], float, str]:
    if not finite.passed:
        return (), math.nan, finite.detail
    survived: dict[tuple[str, str, str], list[bool]] = {}
    areas: list[Tensor] = []
    shown = with_progress(batches, "replacing pixels") if progress else batches
    for images, other in zip(shown, _strangers(batches, generator), strict=True):
        features = aim.forward_masks(aim.forward_backbone(images))
        predicted = aim.forward_head(features).logits.argmax(1)
        region = F.interpolate(features.merged_mask.float(), size=images.shape[-2:], mode="nearest")
        areas.append(region.mean((1, 2, 3)))
        fillings = _fillings(images, other)
        for name, kept in (("merged mask", region), ("moved mask", _moved(region, generator))):
            for filling, pixels in fillings.items():
                maps = aim.forward_backbone(torch.where(kept > 0, images, pixels))
                for how, given in (("fixed", features.masks), ("recomputed", None)):
                    same = aim.forward_head(aim.forward_masks(maps, given)).logits.argmax(1) == predicted
                    survived.setdefault((name, filling, how), []).extend(same.tolist())
        if plain is not None:
            logits, heatmap = _checked_plain(plain.explained(images), len(images))
            kept = _highest(heatmap, region)
            for filling, pixels in fillings.items():
                same = plain.logits(torch.where(kept > 0, images, pixels)).argmax(1) == logits.argmax(1)
                survived.setdefault(("plain CAM", filling, "none"), []).extend(same.tolist())
    area = torch.cat(areas).mean().item()
    if not 0.005 < area < 0.995:
        state = "empty" if area < 0.5 else "open everywhere"
        return (), area, f"the masks are {state}, so every row would say the same; see MaskHealth for the remedy"
    rows = tuple(
        Survival(*key, sum(same) / len(same), *wilson_interval(sum(same), len(same)), len(same))
        for key, same in survived.items()
    )
    return rows, area, ""


def _strangers(batches: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor | None, ...]:
    """For each image another one, along one random cycle through all of them; none where there is but one."""
    images = torch.cat(batches)
    if len(images) < 2:
        return (None,)
    order = torch.randperm(len(images), generator=generator)
    strangers: tuple[Tensor, ...] = images[order.roll(1)[order.argsort()]].split(len(batches[0]))
    return strangers


def _fillings(images: Tensor, others: Tensor | None) -> Mapping[str, Tensor]:
    """What may stand in the place of pixels, each of the images' shape."""
    height, width = images.shape[-2:]
    small = F.interpolate(images.float(), (-(-height // 16), -(-width // 16)), mode="bilinear", antialias=True)
    fillings = {
        "mean colour": images.mean((2, 3), keepdim=True).expand_as(images),
        "blur": F.interpolate(small, (height, width), mode="bilinear").to(images.dtype),  # to 1/16 and back
    }
    if others is not None:
        fillings["another image"] = others
    return fillings


def _moved(region: Tensor, generator: torch.Generator) -> Tensor:
    """The same shape elsewhere: each image's region rolled by a random step of at least a quarter of each side."""
    moved = []
    for one in region:
        steps = [
            int(torch.randint(side // 4, side - side // 4 + 1, (), generator=generator)) for side in one.shape[-2:]
        ]
        moved.append(one.roll(steps, (1, 2)))
    return torch.stack(moved)


def _highest(heatmap: Tensor, region: Tensor) -> Tensor:
    """The pixels where a heatmap is highest, as many as the region has in each image."""
    wide = F.interpolate(heatmap[:, None].float(), size=region.shape[-2:], mode="bilinear").flatten(1)
    ranks = wide.argsort(1, descending=True).argsort(1)
    return (ranks < region.flatten(1).sum(1, keepdim=True)).to(region.dtype).view_as(region)


_FUNCTION_FORM = "pass a function from images to logits (N, K) and heatmaps (N, h, w) instead"


def _plain(plain: PlainModel | None) -> _Plain | None:
    """A plain classifier's logits and class activation map, from its last map and its linear layer."""
    if plain is None:
        return None
    if not isinstance(plain, nn.Module):
        if not callable(plain):
            raise TypeError(f"plain must be a classifier, or a function, got {type(plain).__name__}; {_FUNCTION_FORM}")
        return _Plain(lambda images: plain(images)[0], plain)
    try:
        pooled = PooledClassifier(plain, "plain")
    except ValueError as error:
        raise ValueError(f"{error}; {_FUNCTION_FORM}") from error
    return _Plain(pooled.logits, pooled.explained)


def _checked_plain(result: Any, images: int) -> tuple[Tensor, Tensor]:
    shapes = [tuple(part.shape) for part in result] if isinstance(result, tuple) else type(result).__name__
    if not isinstance(result, tuple) or len(result) != 2 or result[0].ndim != 2 or result[1].ndim != 3:
        raise ValueError(f"plain must return logits ({images}, K) and heatmaps ({images}, h, w), got {shapes}")
    if not result[1].isfinite().all():
        raise ValueError("plain's heatmaps must be finite, got NaN or infinity; check its weights and the images")
    return result
