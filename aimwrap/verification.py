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
from .metrics import class_activation_map
from .model import AIM
from .output import AIMOutput
from .taps import FINAL, Stage, tap_backbone

ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}

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
        region: what is kept: ``"merged mask"``; ``"moved mask"``, the same shape somewhere else, the control; or
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
        survival: the measurements.
        area: mean area of the merged mask, which the regions share.
    """

    checks: tuple[Check, ...]
    survival: tuple[Survival, ...]
    area: float

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
        return "\n".join(lines)


@torch.no_grad()
def verify(
    model: nn.Module,
    images: Tensor,
    plain: PlainModel | None = None,
    *,
    batch_size: int = 32,
    measure_pixels: bool = True,
    seed: int = 0,
) -> Verification:
    """Check AIM's guarantees on a model and some images, and measure how much the pixels outside its masks matter.

    A mask proves which *features* were pooled. A feature's receptive field is wider than its cell, and the mask itself
    is computed from the whole image, so pixels outside the merged mask can still reach the decision. Three fillings
    replace them: the image's mean colour, a strong blur (the image at 1/16 of its size, enlarged), another image of
    ``images``. Each is done with the masks held
    fixed, where only features can change, and recomputed, where the masks can change too. The controls: the same
    shape moved elsewhere, and, for the plain model, as many pixels of its own class activation map. All fillings
    are unnatural images, so compare the rows and do not read one alone.

    Args:
        model: an :class:`~aimwrap.AIM`; left in the mode that it was in.
        images: (N, C, H, W), as the model takes them; take at least a hundred for the measurements, of the test set.
        plain: the plain classifier to compare with: a CNN that ends in global average pooling and one linear layer (a
            norm in between, as in ConvNeXt, makes its class activation map an approximation), or a function from images
            to logits (N, K) and heatmaps (N, h, w).
        batch_size: images per forward pass.
        measure_pixels: False leaves the measurements out.
        seed: of the controls and of the checks' random features; torch's own generator is not touched.

    Returns:
        The checks, ``passed`` if all hold, and the measurements.

    Raises:
        TypeError: if the model is no AIM.
        ValueError: if there are no images, or ``plain``'s class activation map cannot be found.

    Example:
        >>> import torchvision
        >>> from aimwrap import AIM
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
        >>> verify(model, torch.randn(4, 3, 64, 64)).passed
        True
    """
    aim = unwrap(model)
    if not isinstance(images, Tensor) or len(images) == 0:
        raise ValueError("images must be a tensor (N, C, H, W) of at least one image; a hundred give useful intervals")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batches = images.split(batch_size)
    with evaluating(aim), torch.random.fork_rng(devices=_devices(images)):
        torch.manual_seed(seed)
        checks = (*_merge(_checks(aim, batch) for batch in batches),)
        survival: tuple[Survival, ...] = ()
        area = math.nan
        if measure_pixels:
            survival, area = _measure(aim, batches, _plain(plain) if plain is not None else None)
    return Verification(checks, survival, area)


# ---- The guarantees -------------------------------------------------------------------------------------------------


def _checks(aim: AIM, images: Tensor) -> list[Check]:
    return [
        _finite(aim, images),
        _binary(aim, images),
        _repeatable(aim, images),
        *(_masked_features_move_nothing(aim, images, stage) for stage in aim.stages),
        _contributions_add_up(aim, images),
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


def _binary(aim: AIM, images: Tensor) -> Check:
    name = "masks are exactly 0 or 1"
    for stage, mask in aim(images).masks.items():
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


def _masked_features_move_nothing(aim: AIM, images: Tensor, stage: Stage) -> Check:
    """Replace the stage's features where its mask is 0, under the same random numbers: no bit may differ."""
    name = f"features outside the mask of stage {stage!r} move no logit"
    before = _under_one_seed(aim, images)
    with _disturbed(aim, stage, before.masks[stage]):
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
    return Check(name, True, "to the bit")


def _under_one_seed(aim: AIM, images: Tensor) -> AIMOutput:
    with torch.random.fork_rng(devices=_devices(images)):
        torch.manual_seed(0)
        output: AIMOutput = aim(images)
    return output


@contextmanager
def _disturbed(aim: AIM, stage: Stage, mask: Tensor) -> Iterator[None]:
    """Large random features at the stage's masked positions, before the mask is applied."""
    index = aim.stages.index(stage)

    def disturb(module: nn.Module, args: Any, result: tuple[list[Tensor], list[Tensor]]) -> Any:
        features, evidence = list(result[0]), result[1]
        with torch.random.fork_rng(devices=_devices(mask)):  # a noise left on must meet the same random numbers
            noise = 100 * torch.randn_like(features[index])
        features[index] = torch.where(mask == 0, noise, features[index])
        return features, evidence

    handle = aim.top_down.register_forward_hook(disturb)
    try:
        yield
    finally:
        handle.remove()


def _contributions_add_up(aim: AIM, images: Tensor) -> Check:
    name = "contributions add up to the logits"
    try:
        explanation = explain(aim, images)
    except TypeError as error:
        return Check(name, False, str(error))
    bound = ROUNDING[explanation.logits.dtype]
    rebuilt = explanation.contributions.sum((2, 3)) + explanation.bias
    scale = explanation.contributions.abs().sum((2, 3)) + explanation.bias.abs()
    miss = ((rebuilt - explanation.logits).abs() / scale.clamp(min=1e-12)).max().item()
    if not miss <= bound:
        how = "something, such as a norm or a non-linearity, stands between the pooled map and the logits"
        return Check(name, False, f"off by {miss:.1e} of their size, where rounding allows {bound:g}: {how}")
    outside = (explanation.contributions * (explanation.merged_mask == 0)).abs().max().item()
    if outside > 0:
        how = "a stage's mask is not applied before the maps are merged"
        return Check(name, False, f"positions outside the merged mask add up to {outside:.1e}, not 0: {how}")
    parts = torch.stack(list(explanation.stage_contributions.values())).sum(0)
    gap = (parts - explanation.contributions).abs().max().item()
    if gap > bound * max(1.0, explanation.contributions.abs().max().item()):
        return Check(name, False, f"the stages' shares miss the whole by {gap:.1e}: fuse() adds more than masked maps")
    return Check(name, True, f"within {miss:.1e}, and are 0 outside the merged mask")


# ---- The measurements -----------------------------------------------------------------------------------------------


def _measure(
    aim: AIM, batches: tuple[Tensor, ...], plain: Callable[[Tensor], tuple[Tensor, Tensor]] | None
) -> tuple[tuple[Survival, ...], float]:
    survived: dict[tuple[str, str, str], list[bool]] = {}
    areas: list[Tensor] = []
    for images, other in zip(_with_progress(batches), _strangers(batches), strict=True):
        features = aim.forward_masks(aim.forward_backbone(images))
        masks = features.masks
        predicted = aim.forward_head(features).logits.argmax(1)
        region = F.interpolate(features.merged_mask.float(), size=images.shape[-2:], mode="nearest")
        areas.append(region.mean((1, 2, 3)))
        fillings = _fillings(images, other)
        for name, kept in (("merged mask", region), ("moved mask", _moved(region))):
            for filling, pixels in fillings.items():
                filled = torch.where(kept > 0, images, pixels)
                for how, given in (("fixed", masks), ("recomputed", None)):
                    same = aim(filled, given).logits.argmax(1) == predicted
                    survived.setdefault((name, filling, how), []).extend(same.tolist())
        if plain is not None:
            logits, heatmap = plain(images)
            kept = _highest(heatmap, region)
            for filling, pixels in fillings.items():
                same = plain(torch.where(kept > 0, images, pixels))[0].argmax(1) == logits.argmax(1)
                survived.setdefault(("plain CAM", filling, "none"), []).extend(same.tolist())
    rows = tuple(
        Survival(*key, sum(same) / len(same), *_wilson_interval(sum(same), len(same)), len(same))
        for key, same in survived.items()
    )
    return rows, torch.cat(areas).mean().item()


def _strangers(batches: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """For each image another one, along one random cycle through all of them; none where there is but one."""
    images = torch.cat(batches)
    if len(images) < 2:
        return (None,)
    order = torch.randperm(len(images))
    strangers: tuple[Tensor, ...] = images[order.roll(1)[order.argsort()]].split(len(batches[0]))
    return strangers


def _with_progress(batches: tuple[Tensor, ...]) -> Iterable[Tensor]:
    try:
        from tqdm import tqdm
    except ImportError:  # of the extra `cli`
        return batches
    bar: Iterable[Tensor] = tqdm(batches, desc="replacing pixels", unit="batch", disable=len(batches) < 2)
    return bar


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


def _moved(region: Tensor) -> Tensor:
    """The same shape elsewhere: each image's region rolled by a random step of at least a quarter of each side."""
    moved = []
    for one in region:
        steps = [int(torch.randint(side // 4, side - side // 4 + 1, ())) for side in one.shape[-2:]]
        moved.append(one.roll(steps, (1, 2)))
    return torch.stack(moved)


def _highest(heatmap: Tensor, region: Tensor) -> Tensor:
    """The pixels where a heatmap is highest, as many as the region has in each image."""
    wide = F.interpolate(heatmap[:, None].float(), size=region.shape[-2:], mode="bilinear").flatten(1)
    ranks = wide.argsort(1, descending=True).argsort(1)
    return (ranks < region.flatten(1).sum(1, keepdim=True)).to(region.dtype).view_as(region)


def _wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson 1927), which stays within [0, 1]."""
    z = 1.959963984540054
    rate = successes / trials
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _plain(plain: PlainModel) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A plain classifier's logits and class activation map, from its last map and its linear layer."""
    if not isinstance(plain, nn.Module):
        return plain
    if isinstance(plain, AIM):
        raise TypeError("plain must be the classifier without AIM, got an AIM")
    tapped = tap_backbone(plain, [3], final=True)
    assert tapped.final is not None
    channels = tapped.final.channels
    layers = [m for m in plain.modules() if isinstance(m, nn.Linear) and m.in_features == channels]
    if not layers or layers[-1].out_features != tapped.num_classes:
        raise ValueError(
            "plain must end in global average pooling and one linear layer, so that it has a class activation map; "
            f"{type(plain).__name__} has no nn.Linear({channels}, {tapped.num_classes}) behind its last map. "
            "Pass a function from images to (logits, heatmaps) instead"
        )
    weight = layers[-1].weight

    def logits_and_heatmap(images: Tensor) -> tuple[Tensor, Tensor]:
        with evaluating(plain):
            logits = plain(images)
            features = tapped.backbone(images)[FINAL]
        return logits, class_activation_map(features, weight, logits.argmax(1))

    return logits_and_heatmap


def _devices(images: Tensor) -> list[torch.device]:
    return [images.device] if images.device.type == "cuda" else []
