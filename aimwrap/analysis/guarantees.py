"""What AIM guarantees: masks of zeros and ones, features outside them without effect, contributions that add up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._numerics import exact_matmul, kept_random_state
from .._text import with_progress
from ..model import AIM
from ..output import AIMOutput
from ..resizing import resize_to
from ..second_look import SecondLook, SecondLookOutput
from ..taps import Stage
from ..top_down import pool
from .explanation import bias_of, explain
from .findings import Check, Verification
from .survival import fillings, strangers, summed_up

# Of a logit's terms before they cancel, summed without sign.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
NOT_LINEAR = (
    "model.classifier must be one nn.Linear, got {}: behind anything but one nn.Linear a logit is no sum over positions"
)


def checks(model: nn.Module, aim: AIM, images: Tensor, generator: torch.Generator) -> list[Check]:
    """Every guarantee on one batch; the first says whether values are finite."""
    before = _under_one_seed(aim, images)
    return [
        _finite(aim, images),
        _binary(before),
        _repeatable(aim, images),
        *(_masked_features_move_nothing(aim, images, stage, before, generator) for stage in aim.stages),
        _contributions_add_up(model, aim, images),
    ]


def merge(checks_by_batch: Iterable[list[Check]]) -> Iterator[Check]:
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
    with kept_random_state():
        torch.default_generator.manual_seed(0)
        if images.is_cuda:
            torch.cuda.manual_seed(0)
        output: AIMOutput = aim(images)
    return output


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
        return Check(name, False, NOT_LINEAR.format(type(aim.classifier).__name__))
    with exact_matmul():
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


def verify_second_look(
    second: SecondLook, batches: Sequence[Tensor], generator: torch.Generator, measure_pixels: bool, progress: bool
) -> Verification:
    """Check its guarantees, and count the predictions that survive when the first look sees other pixels, too.

    Args:
        second: in evaluation mode.
        batches: images, (N, C, H, W) each.
        generator: of the checks' random pixels.
        measure_pixels: False leaves the measurement out.
        progress: whether to show a bar.

    Returns:
        The checks and, with the masks recomputed, one row per filling: with the masks fixed, all predictions survive.
    """
    shown = with_progress(batches, "checking guarantees") if progress else batches
    checks = (*merge(_checks(second, batch, generator) for batch in shown),)
    if not measure_pixels:
        return Verification(checks, (), math.nan)
    if not checks[0].passed:
        return Verification(checks, (), math.nan, checks[0].detail)
    survived: dict[tuple[str, str, str], list[bool]] = {}
    areas = []
    shown = with_progress(batches, "replacing pixels") if progress else batches
    for images, other in zip(shown, strangers(tuple(batches), generator), strict=True):
        output = second(images)
        areas.append(output.kept.float().mean((1, 2, 3)))
        for filling, pixels in fillings(images, other).items():
            again = second(torch.where(output.kept > 0, images, pixels)).logits
            same = again.argmax(1) == output.logits.argmax(1)
            survived.setdefault(("kept pixels", filling, "recomputed"), []).extend(same.tolist())
    return Verification(checks, *summed_up(survived, areas, f" once grown by margin={second.margin}"))


def _checks(second: SecondLook, images: Tensor, generator: torch.Generator) -> list[Check]:
    output = second(images)
    return [
        _second_finite(output),
        _second_repeatable(output, second(images)),
        _hidden_pixels_move_nothing(second, images, output, generator),
        _second_contributions_add_up(second, images, output),
    ]


def _second_finite(output: SecondLookOutput) -> Check:
    name = "values are finite"
    if not output.first.logits.isfinite().all():
        return Check(name, False, "the first look's logits are not: verify(second.first, images) says where it begins")
    if not output.logits.isfinite().all():
        return Check(name, False, "the second look's logits are not: its classifier diverged, lower the rate")
    return Check(name, True, "both looks' logits are")


def _second_repeatable(output: SecondLookOutput, again: SecondLookOutput) -> Check:
    name = "evaluation is repeatable"
    if not torch.equal(output.kept, again.kept):
        return Check(name, False, "the kept pixels differ from run to run: noise is left on in the first look")
    if not torch.equal(output.logits, again.logits):
        return Check(name, False, "the same pixels are kept but logits differ: look for dropout left on in eval()")
    return Check(name, True, "the same bits twice")


def _hidden_pixels_move_nothing(
    second: SecondLook, images: Tensor, output: SecondLookOutput, generator: torch.Generator
) -> Check:
    """Large random pixels where nothing is kept, with the masks held: no bit may differ."""
    name = "pixels that are not kept move no logit"
    noise = (100 * torch.randn(images.shape, generator=generator)).to(images)
    replaced = torch.where(output.kept > 0, images, noise)
    if not torch.equal(second.logits_of(replaced, output.kept, output.boxes), output.logits):
        return Check(name, False, "the second look is shown more than its first one kept: see SecondLook.look")
    hidden = int((output.kept == 0).sum())
    if hidden == 0:
        return Check(name, True, "not tested: the masks, with their margin, keep every pixel")
    return Check(name, True, f"to the bit, {hidden} pixels of {output.kept.numel()} replaced, the masks held")


def _second_contributions_add_up(second: SecondLook, images: Tensor, output: SecondLookOutput) -> Check:
    name = "contributions add up to the logits"
    if not isinstance(second.classifier, nn.Linear):
        return Check(name, False, NOT_LINEAR.format(type(second.classifier).__name__))
    with exact_matmul():
        shares = second.contributions(images)
        logits = second(images).logits
    rebuilt = shares.sum((2, 3)) + bias_of(second)
    terms = second.look(images)[0].abs().mean((2, 3)).to(shares.dtype)  # before they cancel, over channels too
    size = terms @ second.classifier.weight.abs().to(shares.dtype).T + bias_of(second).abs()
    miss = ((rebuilt - logits).abs() / size.clamp(min=torch.finfo(torch.float32).tiny)).max().item()
    bound = ROUNDING[logits.dtype]
    if not miss <= bound:
        how = "something stands between the average and the classifier"
        return Check(name, False, f"off by {miss:.1e} of their terms, where rounding allows {bound:g}: {how}")
    return Check(name, True, f"within {miss:.1e} of their terms")
