"""The same for a second look, whose guarantee is one of pixels: those that it is not shown move no logit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..explanation import bias_of
from ..progress import with_progress
from ..second_look import SecondLook, SecondLookOutput
from .findings import Check, Verification
from .guarantees import NOT_LINEAR, ROUNDING, merge
from .pixels import fillings, strangers
from .random_state import exact_matmul
from .survival import summed_up


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
        _finite(output),
        _repeatable(output, second(images)),
        _hidden_pixels_move_nothing(second, images, output, generator),
        _contributions_add_up(second, images, output),
    ]


def _finite(output: SecondLookOutput) -> Check:
    name = "values are finite"
    if not output.first.logits.isfinite().all():
        return Check(name, False, "the first look's logits are not: verify(second.first, images) says where it begins")
    if not output.logits.isfinite().all():
        return Check(name, False, "the second look's logits are not: its classifier diverged, lower the rate")
    return Check(name, True, "both looks' logits are")


def _repeatable(output: SecondLookOutput, again: SecondLookOutput) -> Check:
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


def _contributions_add_up(second: SecondLook, images: Tensor, output: SecondLookOutput) -> Check:
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
