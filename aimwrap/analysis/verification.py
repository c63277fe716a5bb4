"""Check a user's own model: what AIM guarantees, and how far what it does not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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
from ..taps.probe import logits_in
from ..top_down import pool
from .explanation import explain
from .findings import Check, Verification
from .readout import bias_of, evaluating, inside, linear_classifier, unwrap
from .survival import PlainModel, measure, plain_model

# Of a logit's terms before they cancel, summed without sign.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
ASKED = 64  # classes, evenly spaced, whose contributions are made position by position: of 1000 they are gigabytes


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
        model: an :class:`~aimwrap.AIM`, or a :class:`~aimwrap.SecondLook`, whose guarantee is one of pixels; left in
            the mode that it was in. Inside ``torch.compile``, the masks are checked on the model that was compiled, and
            the logits on what the compiler made of it; of a second look, both on the model that was compiled.
        images: (N, C, H, W), as the model takes them; take at least a hundred for the measurements, of the test set.
        plain: the plain classifier to compare with: a CNN that ends in global average pooling and one linear layer (a
            norm in between, as in ConvNeXt, makes its class activation map an approximation), or a function from images
            to logits (N, K), not probabilities, and heatmaps (N, h, w).
        batch_size: images per forward pass.
        measure_pixels: False leaves the measurements out.
        seed: of the controls and of the checks' random features. The random states of the CPU and of CUDA devices are
            left as they were.
        progress: whether to show a bar.

    Returns:
        The checks, ``passed`` if all hold, and the measurements.

    Raises:
        TypeError: if the model is neither an AIM nor a second look, or images, ``plain`` or
            ``batch_size`` are of the wrong type.
        ValueError: if there are no images, or ``plain``'s class activation map cannot be found.

    Example:
        >>> import torchvision
        >>> from aimwrap import AIM
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
        >>> verify(model, torch.randn(4, 3, 64, 64), measure_pixels=False).passed
        True
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor (N, C, H, W), got {type(images).__name__}; torch.stack makes one")
    if len(images) == 0:
        raise ValueError("images must hold at least one image, got none; a hundred or more give useful intervals")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
        raise TypeError(f"batch_size must be an int, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batches = images.split(batch_size)
    generator = torch.Generator().manual_seed(seed)
    second = inside(model, SecondLook)
    if second is not None and plain is not None:
        raise ValueError("plain is compared with an AIM, not with a second look: verify(second.first, images, plain)")
    aim = unwrap(model) if second is None else second.first
    with evaluating(aim if second is None else second), kept_random_state():
        shown = with_progress(batches, "checking guarantees") if progress else batches
        held = [
            _checks_of_aim(model, aim, batch, generator)
            if second is None
            else _checks_of_second_look(second, batch, generator)
            for batch in shown
        ]
        # A guarantee holds if it holds on every batch; the detail is that of the first batch on which it fails.
        checks = tuple(next((c for c in same if not c.passed), same[0]) for same in zip(*held, strict=True))
        if not measure_pixels or not checks[0].passed:
            return Verification(checks, (), math.nan, checks[0].detail if measure_pixels else "")
        return Verification(checks, *measure(second or aim, batches, plain_model(plain), generator, progress))


def _checks_of_aim(model: nn.Module, aim: AIM, images: Tensor, generator: torch.Generator) -> list[Check]:
    """Every guarantee on one batch; the first says whether values are finite."""
    before = _under_one_seed(aim, images)
    seen = aim.forward_masks(aim.forward_backbone(images)).features
    first, again = aim(images), aim(images)  # torch's generator has moved on in between
    noise = "differs from run to run: noise is left on in eval()"
    return [
        _finite(_values_of(aim, images), "maps, mask logits, masked features and logits are"),
        _binary(before),
        _repeatable(
            *((first.masks[stage], again.masks[stage], f"the mask of stage {stage!r} {noise}") for stage in aim.stages),
            (first.logits, again.logits, "masks repeat but logits do not: look for dropout or other noise in eval()"),
        ),
        *(_masked_features_move_nothing(aim, images, stage, seen[stage], before, generator) for stage in aim.stages),
        _contributions_add_up(aim, images, model),
    ]


def _checks_of_second_look(second: SecondLook, images: Tensor, generator: torch.Generator) -> list[Check]:
    output, again = second(images), second(images)
    first = output.first
    assert first is not None
    values = (
        ("the first look's logits are", first.logits, "verify(second.first, images) says where it begins"),
        ("the second look's logits are", output.logits, "its classifier diverged, lower the rate"),
    )
    return [
        _finite(values, "both looks' logits are"),
        _repeatable(
            (output.kept, again.kept, "the kept pixels differ from run to run: noise is left on in the first look"),
            (output.logits, again.logits, "the same pixels are kept but logits differ: dropout is left on in eval()"),
        ),
        _hidden_pixels_move_nothing(second, images, output, generator),
        _contributions_add_up(second, images, second),
    ]


def _finite(values: Iterable[tuple[str, Tensor, str]], found: str) -> Check:
    """The first of the named values that is not finite fails; each has its cause."""
    wrong = next((f"{subject} not: {cause}" for subject, value, cause in values if not value.isfinite().all()), None)
    return Check("values are finite", wrong is None, wrong or found)


def _values_of(aim: AIM, images: Tensor) -> Iterator[tuple[str, Tensor, str]]:
    yield "the images are", images, "look for a division by zero in their normalisation"
    maps = aim.forward_backbone(images)
    for node, values in maps.items():
        yield f"the backbone's map {node!r} is", values, "its weights, or half precision, overflow"
    features = aim.forward_masks(maps)
    output = aim.forward_head(features)
    for stage in aim.stages:
        for what, values in (
            ("mask logits", features.mask_logits[stage]),
            ("masked features", features.masked[stage]),
            ("stage logits", output.stage_logits[stage]),
        ):
            yield f"the {what} of stage {stage!r} are", values, "training diverged, lower its rate"
    yield "the logits are", output.logits, "the final classifier's weights diverged, lower the rate"


def _binary(output: AIMOutput) -> Check:
    name = "masks are exactly 0 or 1"
    for stage, mask in output.masks.items():
        if not ((mask == 0) | (mask == 1)).all():
            return Check(name, False, f"the mask of stage {stage!r} holds other values: it is soft, and hides nothing")
    return Check(name, True, "at every stage")


def _repeatable(*runs: tuple[Tensor, Tensor, str]) -> Check:
    """Of two runs: the first pair of values that differ fails."""
    different = next((said for first, again, said in runs if not torch.equal(first, again)), None)
    return Check("evaluation is repeatable", different is None, different or "the same bits twice")


def _masked_features_move_nothing(
    aim: AIM, images: Tensor, stage: Stage, features: Tensor, before: AIMOutput, generator: torch.Generator
) -> Check:
    """Replace the stage's features where its mask is 0, under the same random numbers: no bit may differ."""
    name = f"features outside the mask of stage {stage!r} move no logit"
    hidden = _hidden(aim, features, before, stage)
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


def _hidden(aim: AIM, features: Tensor, output: AIMOutput, stage: Stage) -> Tensor:
    """Positions of a stage's features that its mask shows nothing of, (N, 1, h, w) on the features' own grid.

    By the masks that the model returned and by resizing alone, not by how the model applies them.
    """
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

    with aim.top_down.register_forward_hook(disturb):
        yield


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


def _contributions_add_up(model: AIM | SecondLook, images: Tensor, called: nn.Module) -> Check:
    """With the logits of the module that users call, which may be around the model."""
    name = "contributions add up to the logits"
    try:
        linear = linear_classifier(model)
    except TypeError as error:
        return Check(name, False, str(error))
    tiny = torch.finfo(torch.float32).tiny
    asked = torch.arange(0, linear.out_features, math.ceil(linear.out_features / ASKED))
    with exact_matmul():
        logits = logits_in(called(images))
        assert logits is not None
        if isinstance(model, SecondLook):
            contributions, parts, outside = explain(model, images).contributions[:, asked], None, 0.0
            fused = model.look(images)[0]
            merged, pooling = torch.ones_like(fused[:, :1]), model.first.pooling
        else:
            features = model.forward_masks(model.forward_backbone(images))
            explanation = explain(model, images, asked if linear.out_features > 1 else None)
            contributions, parts = explanation.contributions, explanation.stage_contributions
            outside = (contributions * (explanation.merged_mask == 0)).abs().max().item()
            fused, merged, pooling = features.fused, features.merged_mask, model.pooling
        fused, weight = fused.to(contributions), linear.weight.to(contributions)
        # What a logit's terms add up to without their signs: rounding is a share of this, not of the logit.
        size = pool(fused.abs(), merged, pooling) @ weight.abs().T + bias_of(linear).abs()
        rebuilt = pool(fused, merged, pooling) @ weight.T + bias_of(linear)
    rebuilt[:, asked] = contributions.sum((2, 3)) + bias_of(linear)[asked]
    bound = ROUNDING[logits.dtype]
    miss = ((rebuilt - logits).abs() / size.clamp(min=tiny)).max().item()
    if not miss <= bound:
        how = "something, such as a norm or a non-linearity, is between the pooled map and the logits"
        return Check(name, False, f"off by {miss:.1e} of their terms, where rounding allows {bound:g}: {how}")
    if outside > 0:
        how = "a stage's mask is not applied before the maps are merged"
        return Check(name, False, f"positions outside the merged mask add up to {outside:.1e}, not 0: {how}")
    if parts is None:
        return Check(name, True, f"within {miss:.1e} of their terms")
    by_stage = sum(share.sum((2, 3)) for share in parts.values()) + bias_of(linear)[asked]
    gap = ((by_stage - rebuilt[:, asked]).abs() / size[:, asked].clamp(min=tiny)).max().item()
    if not gap <= bound:
        return Check(name, False, f"the stages' shares miss the sum by {gap:.1e}: fuse() adds more than masked maps")
    return Check(name, True, f"within {miss:.1e} of their terms, and are 0 outside the merged mask")
