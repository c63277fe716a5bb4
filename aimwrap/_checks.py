"""What AIM's arguments must be: each error names the argument, what was expected, what came, and the way out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from .loss import check_tau
from .taps import Stage, Tap, TappedModel


def areas_by_stage(stages: Sequence[Stage], tau: float | Sequence[float]) -> dict[Stage, float]:
    """Each stage's declared area, in the order in which the user wrote them."""
    if isinstance(stages, str) or not isinstance(stages, Sequence):
        raise TypeError(f"stages must be a list of numbers or node names, got {stages!r}; write stages=[{stages!r}]")
    wrong = [s for s in stages if not isinstance(s, int | str) or isinstance(s, bool)]
    if wrong:
        raise TypeError(f"stages must be numbers or node names, got {wrong[0]!r} of type {type(wrong[0]).__name__}")
    if not stages:
        raise ValueError("stages is empty; stages=[2, 3] is the paper's usual choice")
    if len(set(map(str, stages))) != len(stages):
        raise ValueError(f"stages must not repeat, got {list(stages)}")
    return dict(zip(stages, per_stage(tau, len(stages), "tau"), strict=True))


def per_stage(area: float | Sequence[float], stages: int, name: str) -> tuple[float, ...]:
    """An area for each stage, from one float for all or one per stage."""
    areas = check_tau(area, name)
    if not isinstance(areas, tuple):
        areas = (areas,) * stages
    if len(areas) != stages:
        raise ValueError(f"{name} must be one float or one per stage: {stages} stage(s), {len(areas)} value(s)")
    return areas


def check_distinct(taps: Sequence[Tap]) -> None:
    """No two stages are the same node."""
    for tap in taps:
        same = [other.stage for other in taps if other.node == tap.node]
        if len(same) > 1:
            raise ValueError(f"stages must not repeat: {same} are all the node {tap.node!r}; leave one of them")


def check_choices(**choices: tuple[str, Any]) -> None:
    """Each argument, by name with its ``Literal``, is one of that."""
    for name, (value, literal) in choices.items():
        if value not in get_args(literal):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(literal)))}, got {value!r}")


def check_positive(**values: float) -> None:
    """Each argument, by name, is above zero."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def number_of_classes(asked: int | None, tapped: TappedModel) -> int:
    """What was asked for, or what the backbone's own classifier gives."""
    if asked is not None:
        if asked < 1:
            raise ValueError(f"num_classes must be at least 1, got {asked}")
        return asked
    if tapped.num_classes is None:
        raise ValueError(
            f"num_classes cannot be read off {tapped.architecture}: it does not end in a classifier that "
            "gives (N, K) logits. Pass num_classes="
        )
    return tapped.num_classes


def check_noise_seeds(seeds: Tensor, images: int) -> None:
    """One int64 number per image."""
    if not isinstance(seeds, Tensor) or seeds.dtype != torch.int64:
        came = seeds.dtype if isinstance(seeds, Tensor) else type(seeds).__name__
        raise TypeError(f"noise_seeds must be an int64 tensor, a number per image, got {came}; call seeds.long()")
    if seeds.shape != (images,):
        raise ValueError(
            f"noise_seeds must be one number per image, ({images},), got {tuple(seeds.shape)}; leave them out to draw "
            "the noise from torch's generator"
        )


def check_images(images: Tensor, channels: int, classifier: nn.Module, least_side: int) -> None:
    """Rank, dtype, channels and size only: looking at values would break ``fullgraph`` compilation."""
    expected = f"images must be a float tensor of shape (N, {channels}, H, W)"
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{expected}, got {came}; scale uint8 images with images.float() / 255 and normalise them")
    if images.dtype == torch.float64 and classifier.weight.dtype != torch.float64:
        raise TypeError(f"{expected}, got float64 for a {classifier.weight.dtype} model; call images.float()")
    if images.ndim != 4:
        raise ValueError(f"{expected}, got {tuple(images.shape)}; add a batch dimension with images.unsqueeze(0)")
    if images.shape[1] != channels:
        raise ValueError(
            f"{expected}, got {images.shape[1]} channels; channels come second (images.permute(0, 3, 1, 2) turns "
            "channels-last ones), and example_input= wraps a backbone for another number of them"
        )
    if min(images.shape[-2:]) < least_side:
        raise ValueError(
            f"images of {images.shape[-2]} x {images.shape[-1]} are smaller than one position of the "
            f"deepest map; enlarge them to at least {least_side} pixels or tap a shallower stage"
        )


def warn_without_deepest(tapped: TappedModel) -> None:
    """The paper's count makes people leave out the deepest stage."""
    deepest, stages = tapped.deepest_stage, [tap.stage for tap in tapped.taps]
    numbers = [stage for stage in stages if isinstance(stage, int)]
    if numbers and deepest is not None and deepest not in stages:
        warnings.warn(
            f"stages={stages} leaves out the deepest stage, {deepest}, where the meaning is; the "
            f"paper always starts from it. stages={[*numbers, deepest]} includes it. The paper counts a ResNet's "
            "stem, so its ResNet50+AIM(2) is stages=[1, 2, 3] here",
            stacklevel=3,  # where AIM is built
        )
