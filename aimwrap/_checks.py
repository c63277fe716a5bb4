"""Checks of arguments: each error names the argument, what was expected, what came, and the way out."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ._choices import Head, MaskContext, MaskNorm, MaskPadding, Pooling
from ._numerics import autocasts, kept_random_state, wide_dtype
from .taps import Stage, TappedModel

_MANY = "; where images have several classes, pass classification_loss=nn.BCEWithLogitsLoss() and labels.float()"
# Steps of autograd's graph that move values, or change their precision.
_MOVING = "(Alias|Clone|Permute|Reshape|Select|Slice|Squeeze|ToCopy|T|Transpose|UnsafeView|Unsqueeze|View)Backward"


def check_arguments(
    *,
    stages: Sequence[Stage],
    tau: float | Sequence[float],
    num_classes: int | None,
    head: str,
    width: int,
    mask_width: int,
    mask_norm: str,
    logit_spread: float | None,
    logit_range: float,
    labels_move_area: bool,
    pooling: str,
    temperature: float,
    mask_padding: str,
    mask_context: str,
) -> dict[Stage, float]:
    """AIM's arguments, as far as they can be checked without a backbone; returns each stage's declared area."""
    area_of = areas_by_stage(stages, tau)
    check_choices(head=(head, Head), mask_norm=(mask_norm, MaskNorm), pooling=(pooling, Pooling))
    check_choices(mask_padding=(mask_padding, MaskPadding), mask_context=(mask_context, MaskContext))
    check_positive(Real, temperature=temperature)
    check_positive(Integral, width=width, mask_width=mask_width, num_classes=1 if num_classes is None else num_classes)
    check_logit_bounds(logit_spread, logit_range)
    if labels_move_area not in (True, False):
        raise TypeError(f"labels_move_area must be True or False, got {labels_move_area!r}")
    return area_of


def check_second_look(*, margin: int, least: float = 1.0, fill: float = 0.0, size: int | None = None) -> None:
    """SecondLook's arguments."""
    if isinstance(margin, bool) or not isinstance(margin, Integral) or not 0 <= margin <= 1000:
        raise ValueError(f"margin must be a whole number of positions, 0 to 1000, got {margin!r}")
    if isinstance(least, bool) or not isinstance(least, Real) or not 0 < least <= 1:
        raise ValueError(f"least must be a share of the image's sides in (0, 1], got {least!r}")
    if isinstance(fill, bool) or not isinstance(fill, Real) or not math.isfinite(fill):
        raise ValueError(
            f"fill must be one finite number for all channels, in the images' own units, got {fill!r}; "
            "0 is the mean colour of normalised images"
        )
    if size is not None and (isinstance(size, bool) or not isinstance(size, Integral) or not 0 < size <= 10_000):
        raise ValueError(
            f"size must be a whole number of pixels, 1 to 10000, or None for the image's own, got {size!r}"
        )


def areas_by_stage(stages: Sequence[Stage], tau: float | Sequence[float]) -> dict[Stage, float]:
    """Each stage's declared area, in the order in which the user wrote them."""
    stages = stages.tolist() if hasattr(stages, "tolist") else stages  # NumPy's arrays, and tensors
    if isinstance(stages, str) or not isinstance(stages, Sequence):
        meant = [stages] if isinstance(stages, int | str) else [2, 3]
        raise TypeError(f"stages must be a list of numbers or node names, got {stages!r}; write stages={meant!r}")
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
    areas = areas if isinstance(areas, tuple) else (areas,) * stages
    if len(areas) != stages:
        raise ValueError(f"{name} must be one float or one per stage: {stages} stage(s), {len(areas)} value(s)")
    return areas


def check_tau(tau: float | Sequence[float], name: str = "tau") -> float | tuple[float, ...]:
    """Return an area as a float, or as a tuple of floats if it came as a sequence; every one of them in (0, 1]."""
    tau = tau.tolist() if hasattr(tau, "tolist") else tau  # NumPy's numbers and arrays, and tensors
    single = isinstance(tau, int | float) and not isinstance(tau, bool)
    if not single and not (isinstance(tau, Sequence) and all(isinstance(value, int | float) for value in tau)):
        raise TypeError(f"{name} must be a float, or a list of floats with one per stage, got {tau!r}")
    values = (float(tau),) if isinstance(tau, int | float) else tuple(map(float, tau))
    if not values or not all(0 < value <= 1 for value in values):
        raise ValueError(
            f"{name} must be in (0, 1], got {tau}; it is the share of a mask that stays open, 0.25 or 0.35 in the paper"
        )
    return values[0] if single else values


def check_taps(tapped: TappedModel) -> None:
    """No two stages are the same node; warn where the deepest stage is missing, as the paper's count may mislead."""
    for tap in tapped.taps:
        same = [other.stage for other in tapped.taps if other.node == tap.node]
        if len(same) > 1:
            raise ValueError(f"stages must not repeat: {same} are all the node {tap.node!r}; leave one of them")
    deepest, stages = tapped.deepest_stage, [tap.stage for tap in tapped.taps]
    numbers = [stage for stage in stages if isinstance(stage, int)]
    if numbers and deepest is not None and deepest not in stages:
        warnings.warn(
            f"stages={stages} leaves out the deepest stage, {deepest}, where the meaning is; the "
            f"paper always starts from it. stages={[*numbers, deepest]} includes it. The paper counts a ResNet's "
            "stem, so its ResNet50+AIM(2) is stages=[1, 2, 3] here",
            stacklevel=4,  # where AIM is built
        )


def check_choices(**choices: tuple[str, Any]) -> None:
    """Each argument, by name with its ``Literal``, is one of that."""
    for name, (value, literal) in choices.items():
        if value not in get_args(literal):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(literal)))}, got {value!r}")


def check_positive(kind: type, /, **values: float) -> None:
    """Each argument, by name, is a number above zero, and a whole one where the kind is ``Integral``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value!r}")
        if not isinstance(value, kind):
            raise ValueError(f"{name} must be a whole number, got {value!r}")


def check_logit_bounds(logit_spread: float | None, logit_range: float) -> None:
    """Each is a number above zero that float32 can hold, or what leaves the logits free."""
    for name, value, free in (("logit_spread", logit_spread, None), ("logit_range", logit_range, math.inf)):
        fits = isinstance(value, Real) and not isinstance(value, bool) and 0 < value <= torch.finfo(torch.float32).max
        if value != free and not fits:
            words = "None" if free is None else "math.inf"
            raise ValueError(f"{name} must be a positive number ({words} leaves the logits free), got {value!r}")


def check_not_negative(**values: float) -> None:
    """Each weight, by name, is zero or above."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(
                f"{name} must not be negative, got {value}; 0 switches the term off, and a weight is finite"
            )


def check_classification_loss(loss: nn.Module | None) -> None:
    """A module that takes logits and returns a scalar."""
    if loss is not None and not isinstance(loss, nn.Module):
        raise TypeError(
            "classification_loss must be a module, such as nn.CrossEntropyLoss(label_smoothing=0.1), got "
            f"{getattr(loss, '__name__', type(loss).__name__)}; was () forgotten?"
        )
    if getattr(loss, "reduction", "mean") == "none" and not getattr(loss, "sum_classes", False):  # timm's does both
        raise ValueError('classification_loss must return a scalar; build it with reduction="mean"')
    if type(loss) in (nn.BCELoss, nn.KLDivLoss, nn.NLLLoss):
        raise ValueError(f"classification_loss must take logits: CrossEntropyLoss does, {type(loss).__name__} not")


def check_one_logit(loss: nn.Module, logits: Tensor, target: Any) -> None:
    """Refuse a loss that does not depend on a single logit, as none with a softmax does, or on whose label it is."""
    dtype = wide_dtype(logits)
    target = target.to(dtype) if isinstance(target, Tensor) and target.is_floating_point() else target
    drawn = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits.device, dtype)
    with torch.no_grad(), kept_random_state():
        twin = copy.deepcopy(loss).to(dtype)  # what it keeps of earlier batches stays as it is
        losses = [twin(times * drawn, target) for times in (1, 2, 3)]
        paired = False
        if isinstance(target, Tensor) and target.ndim == 1 and bool((target != target[0]).any()):
            upper = torch.arange(len(target), device=target.device) >= len(target) // 2
            labels, ranked = torch.where(upper, target.max(), target.min()), drawn.sort(0).values
            paired = torch.allclose(twin(ranked, labels), twin(ranked, labels.flip(0)))
    if all(torch.equal(losses[0], one) for one in losses):
        raise ValueError(
            f"{type(loss).__name__} is the same for all values of a single logit, as a softmax is, so it would train "
            "nothing; pass classification_loss=nn.BCEWithLogitsLoss()"
        )
    if paired:
        raise ValueError(
            f"{type(loss).__name__} compares each logit with all labels, since these are {tuple(target.shape)} and the "
            f"logits {tuple(logits.shape)}; write labels[:, None]"
        )


def check_logits(logits: Tensor, name: str, refused: str = "Sigmoid|Softmax") -> None:
    """Refuse probabilities, as far as autograd shows the last step: other numbers have that sign, softmax, gradient."""
    node = logits.grad_fn
    while node is not None and re.match(_MOVING, node.name()):
        node = node.next_functions[0][0]
    if node is not None and (last := re.match(f"({refused})Backward", node.name())):
        raise ValueError(
            f"{name} must return logits, and ends in a {last[1].lower()}: leave that out, for instance by putting "
            "nn.Identity() in its place"
        )


def check_output(output: Any, tau: Tensor) -> None:
    """An AIMOutput of at least one image, with as many stages as tau has values."""
    if not hasattr(output, "stage_logits"):
        raise TypeError(
            f"AIMLoss takes the AIMOutput that AIM returns, got {type(output).__name__}; "
            "call criterion(model(images), labels), not criterion(model(images).logits, labels); a second look takes "
            "losses of torch: nn.functional.cross_entropy(second(images).logits, labels)"
        )
    if len(output.logits) == 0:
        raise ValueError("the output is of no images, so it has no mean loss; leave empty batches out")
    if tau.ndim == 1 and len(tau) != len(output.masks):
        raise ValueError(
            f"this loss holds tau for {len(tau)} stage(s), the output has {len(output.masks)} "
            f"({', '.join(map(str, output.masks))}); build it with AIMLoss(tau=model.tau) of the same model"
        )


def number_of_classes(asked: int | None, tapped: TappedModel) -> int:
    """The number that was asked for, or that of the backbone's own classifier."""
    if asked is not None:
        return asked
    if tapped.num_classes is None:
        raise ValueError(
            f"num_classes cannot be read off {tapped.backbone.tapped_architecture}: it does not end in a classifier "
            "that gives (N, K) logits. Pass num_classes="
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


def given_masks(masks: Mapping[Stage, Tensor], stages: Sequence[Stage], maps: Sequence[Tensor]) -> list[Tensor]:
    """The user's masks, one per stage, of the maps' dtype and size."""
    if not isinstance(masks, Mapping) or not all(isinstance(mask, Tensor) for mask in masks.values()):
        raise TypeError(f"masks must be a dict with a tensor for each of the stages {list(stages)}, got {masks!r:.80}")
    if set(masks) != set(stages):
        raise ValueError(f"masks must be given for the stages {list(stages)}, got {list(masks)}")
    given = []
    for stage, x in zip(stages, maps, strict=True):
        shape = (len(x), 1, *x.shape[-2:])
        try:
            given.append(masks[stage].to(x).expand(shape))
        except RuntimeError as error:
            raise ValueError(
                f"the mask given for stage {stage!r} must broadcast to {shape}, got {tuple(masks[stage].shape)}; "
                "masks have a channel dimension of 1, and torch.ones(1, 1, 1, 1) holds a stage open"
            ) from error
    return given


def check_images(images: Tensor, channels: int, classifier: nn.Module, least_side: int) -> None:
    """Rank, dtype, channels and size only: looking at values would break ``fullgraph`` compilation."""
    expected = f"images must be a float tensor of shape (N, {channels}, H, W)"
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{expected}, got {came}; scale uint8 images with images.float() / 255 and normalise them")
    weight = [*classifier.parameters(), images][0]  # a custom one may have none; torch 2.6 compiles no next()
    if images.layout != torch.strided or (images.is_meta and not weight.is_meta):
        raise TypeError(f"{expected} with a value for each pixel, got {images.layout} on {images.device}")
    left_alone = type(weight) is nn.Parameter and not autocasts(images)  # FSDP casts images itself, and autocast does
    if images.dtype != weight.dtype and (left_alone or images.dtype == torch.float64):
        way_out = "images.float()" if weight.dtype == torch.float32 else f"images.to({weight.dtype})"
        raise TypeError(f"{expected}, got {str(images.dtype)[6:]} for a {weight.dtype} model; call {way_out}")
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


def check_masks(masks: Tensor, images: Tensor) -> Tensor:
    """Masks from elsewhere in the images' own dtype, (N, 1, h, w)."""
    number = images.shape[0]  # of len() torch.export would make a fixed number
    fits = isinstance(masks, Tensor) and masks.ndim == 4 and masks.shape[1] == 1 and masks.shape[0] == number
    if fits and (torch.compiler.is_compiling() or bool(((masks == 0) | (masks == 1)).all())):
        return masks.to(images)
    expected = f"masks must be zeros and ones, ({number}, 1, h, w), the pixels to show"
    if not isinstance(masks, Tensor):
        raise TypeError(f"{expected}, got {type(masks).__name__}")
    if not fits:
        raise ValueError(f"{expected}, got {tuple(masks.shape)}")
    if masks.isnan().any():
        raise ValueError(f"{expected}, got NaN; a model's are NaN where its images or weights are not finite")
    raise ValueError(f"{expected}, got other values; masks > 0.5 makes them of probabilities")


def class_numbers(classes: Tensor, images: int, num_classes: int, device: torch.device) -> Tensor:
    """One class per image, 0 to ``num_classes - 1``, as int64 on a device."""
    if not isinstance(classes, Tensor) or classes.is_floating_point():
        kind = classes.dtype if isinstance(classes, Tensor) else type(classes).__name__
        raise TypeError(f"classes must be an integer tensor of shape ({images},), got {kind}")
    if classes.shape != (images,):
        raise ValueError(f"classes must be of shape ({images},), one class per image, got {tuple(classes.shape)}")
    check_numbers(classes, num_classes, "classes")
    return classes.to(device, torch.long).clone()  # not an inference tensor, though the caller's may be one


def check_numbers(numbers: Tensor, count: int | None, name: str, way_out: str = "") -> None:
    """Whole numbers from 0 to ``count - 1``, or from 0 where the count is not known."""
    for number in (int(numbers.min()), int(numbers.max())) if len(numbers) else ():
        if number < 0 or (count is not None and number >= count):
            expected = "numbers from 0" if count is None else f"in 0..{count - 1}"
            raise ValueError(f"{name} must be {expected}, got {number}{way_out}")


def check_target(logits: Tensor, target: Tensor, ignore_index: int | None) -> None:
    """Class indices, or soft labels that add up to 1; for binary cross entropy, where no index is ignored, 0 to 1."""
    classes = logits.shape[1]
    if not isinstance(target, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(target).__name__}; torch.tensor(labels) makes one")
    # Looking at values would wait for a GPU and break a compiled graph; there, torch's own check remains.
    readable = target.device.type == "cpu" and not torch.compiler.is_compiling()
    if ignore_index is None:
        way_out, got = "", f"{str(target.dtype)[6:]} of {tuple(target.shape)}"
        if target.shape != logits.shape:
            way_out = "labels.float()[:, None]" if classes == 1 else f"nn.functional.one_hot(labels, {classes}).float()"
        elif not target.is_floating_point():
            way_out = "labels.float()"
        elif readable and not bool(((target >= 0) & (target <= 1)).all()):
            way_out = "a loss of your own that leaves out what is not known, such as -1 or NaN"
            got = f"{target.min():g} to {target.max():g}"
        if way_out:
            expected = f"floats from 0 to 1 of the logits' shape {tuple(logits.shape)}"
            raise ValueError(f"labels of binary cross entropy must be {expected}, got {got}; write {way_out}")
        return
    if classes == 1:
        raise ValueError("cross entropy of one logit is always 0; pass classification_loss=nn.BCEWithLogitsLoss()")
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(
                f"soft labels must have the logits' shape {tuple(logits.shape)}, got {tuple(target.shape)}; "
                "class indices must be integers: labels.long()"
            )
        sums = target.sum(1) if readable else target.new_ones(1)  # of zeros, an image counts for nothing
        if readable and not bool((((sums - 1).abs() < 0.01) | (sums == 0)).all() and (target >= 0).all()):
            raise ValueError(f"soft labels must be shares that add up to 1 for each image; divide by their sum{_MANY}")
        return
    if target.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be class indices of shape ({logits.shape[0]},), got {tuple(target.shape)}; "
            f"labels.squeeze() or one_hot.argmax(dim=1) may be what is missing{_MANY}"
        )
    if target.dtype not in (torch.int64, torch.uint8):
        raise TypeError(f"labels must be int64, got {target.dtype}; call labels.long()")
    if readable:
        way_out = f"; the model was built for {classes} classes, set num_classes= if that is wrong"
        check_numbers(target[target != ignore_index], classes, "labels", way_out)
