"""Stage numbers to node names: the order of resolution, and the module-boundary rule.

Stage k is the backbone's last map at stride 4 * 2^k. "The last 4-D output at that stride" is not it: the first block
of the *next* stage still works at the old resolution. So the rule looks at module boundaries only, and inside a module
only where it spans two or more halvings of the map; what it keeps per stride is what the author drew as a stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from .probe import STRIDE_TOLERANCE, Call, Place, Probe

_ADAPTIVE_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_DO_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class Stages:
    """Where a backbone's stages are.

    Attributes:
        nodes: stage number -> whose output it is.
        final: whose output is the last map before global pooling, head expansion included.
        levels_before_stage_0: how many finer resolutions (stem levels) come before stride 4: what the paper's own stage
            count is ahead of ours. One for ResNet, whose stem counts as a stage there; none for ConvNeXt.
        obstacle: why the numbers cannot be trusted, or None.
        found_by: what the numbers rest on, in words.
    """

    nodes: dict[int, Place]
    final: Place | None
    levels_before_stage_0: int
    obstacle: str | None = None
    found_by: str = "module boundaries"


def find_stages(model: nn.Module, probe: Probe) -> Stages:
    """Find the stages: the model's own record of them where timm keeps one, else the module-boundary rule.

    The final map and the number of stem levels come from the rule in both cases: no record tells them.

    Args:
        model: the backbone.
        probe: its recorded forward.

    Returns:
        The stages, with the obstacle named where the rule cannot be trusted.
    """
    ruled = _by_module_boundaries(probe)
    recorded = _by_feature_info(model, probe)
    if not recorded:
        return ruled
    return Stages(recorded, ruled.final, ruled.levels_before_stage_0, found_by="timm's feature_info")


def number_of_classes(model: nn.Module, probe: Probe) -> int | None:
    """The width of the backbone's classifier, or None where it has none that can be recognised.

    A headless model gives features, (N, C), which look like logits; so the last layer with weights must be a linear
    layer or a convolution as wide as the output.
    """
    shape = probe.root.output_shape
    if shape is None or len(shape) != 2 or getattr(model, "num_classes", None) == 0:
        return None
    last = _last_weighted(probe)
    calls = list(probe.root.leaves())
    if calls and isinstance(calls[-1].module, nn.Identity) and getattr(model, "num_classes", None) != shape[1]:
        return None  # an Identity in a classifier's place; timm's heads end in one too, but say their number of classes
    weight = getattr(last, "weight", None)
    is_classifier = weight is not None and weight.ndim >= 2 and weight.shape[0] == shape[1]
    return shape[1] if is_classifier else None


def _by_feature_info(model: nn.Module, probe: Probe) -> dict[int, Place]:
    """Timm's `feature_info`, matched by reduction (its index is not the stage number) and checked against the probe."""
    info = getattr(model, "feature_info", None)
    info = getattr(info, "info", info)
    if not isinstance(info, list | tuple):
        return {}
    measured = {call.name: call for call in probe.root.calls()}
    nodes: dict[int, Place] = {}
    for entry in info:
        if not isinstance(entry, dict) or not {"module", "reduction", "num_chs"} <= entry.keys():
            return {}
        stage = math.log2(entry["reduction"]) - 2
        if stage < 0 or stage != int(stage):
            continue
        call = measured.get(entry["module"])
        if call is None or call.output_shape is None or len(call.output_shape) != 4:
            return {}
        if call.output_shape[1] != entry["num_chs"] or _level(call.output_shape, probe) != stage + 2:
            return {}
        nodes[int(stage)] = Place(entry["module"])
    return nodes


def _by_module_boundaries(probe: Probe) -> Stages:
    by_level: dict[int, list[Call]] = {}
    obstacle = None
    deepest = 0
    for call in _expand(probe.root):
        obstacle = obstacle or _obstacle(call)
        level = _level(call.output_shape, probe)
        if level is None or _is_global_pool(call):
            continue
        if level >= max(deepest, 2) + 2:
            continue  # no stage skips a resolution: this is what a global pool, or a convolution like it, left over
        if level < deepest:
            obstacle = obstacle or f"{call.name!r} goes back from stride {2**deepest} to {2**level}"
        deepest = max(deepest, level)
        by_level.setdefault(level, []).append(call)
    if not by_level:
        return Stages({}, None, 0, obstacle)
    final = _without_classifier(by_level[deepest], probe)
    by_level[deepest] = _without_head_expansion(final)
    nodes = {level - 2: probe.place(_without_do_nothing(calls)[-1]) for level, calls in by_level.items() if level >= 2}
    stem_levels = sum(level < 2 for level in by_level)
    return Stages(nodes, probe.place(final[-1]), stem_levels, obstacle)


def _obstacle(call: Call) -> str | None:
    """Tokens at the level of stages: the strides around them would look right and be wrong."""
    shape = call.output_shape
    if shape is not None and len(shape) == 3:
        return f"{call.name!r} works on tokens, {shape}, not on (N, C, H, W) maps"
    return None


def _expand(call: Call) -> Iterator[Call]:
    """The calls at the level of stages: a module is opened if it spans two or more halvings, or leaves the maps."""
    spans = call.doublings
    if call.children and (spans is None or spans >= 2) and not _is_token_body(call):
        for child in call.children:
            yield from _expand(child)
    else:
        yield call


def _is_token_body(call: Call) -> bool:
    shapes = (call.input_shape, call.output_shape)
    return all(shape is not None and len(shape) == 3 for shape in shapes)


def _level(shape: tuple[int, ...] | None, probe: Probe) -> int | None:
    """log2 of a map's stride, or None where the shape is no (N, C, H, W) map at a power of two."""
    if shape is None or len(shape) != 4:
        return None
    octaves = [math.log2(image / side) for image, side in zip(probe.image_shape[2:], shape[2:], strict=True)]
    level = round(octaves[0])
    return level if all(abs(octave - level) <= STRIDE_TOLERANCE for octave in octaves) else None


def _is_global_pool(call: Call) -> bool:
    weightless = not any(True for _ in call.module.parameters())
    return isinstance(call.module, _ADAPTIVE_POOLS) or (weightless and (call.doublings or 0) >= 2)


def _without_classifier(calls: list[Call], probe: Probe) -> list[Call]:
    """Drop a convolutional classifier (SqueezeNet's) and what follows it."""
    classifier = _last_weighted(probe)
    for index, call in enumerate(calls):
        if call.module is classifier and index > 0:
            return _without_do_nothing(calls[:index])
    return _without_do_nothing(calls)


def _without_head_expansion(calls: list[Call]) -> list[Call]:
    """Step back over a trailing 1x1 convolution that widens the map for the classifier (EfficientNet, MobileNet)."""
    for index in range(len(calls) - 1, 0, -1):
        if _is_head_expansion(calls[index]):
            return _without_do_nothing(calls[:index])
        if any(isinstance(module, nn.Conv2d) for module in calls[index].module.modules()):
            break
    return calls


def _without_do_nothing(calls: list[Call]) -> list[Call]:
    while len(calls) > 1 and isinstance(calls[-1].module, _DO_NOTHING):
        calls = calls[:-1]
    return calls


def _is_head_expansion(call: Call) -> bool:
    convolutions = [module for module in call.module.modules() if isinstance(module, nn.Conv2d)]
    pointwise = all(conv.kernel_size == (1, 1) and conv.stride == (1, 1) for conv in convolutions)
    if not convolutions or not pointwise or call.input_shape is None or call.output_shape is None:
        return False
    return call.output_shape[1] > call.input_shape[1]


def _last_weighted(probe: Probe) -> nn.Module | None:
    """The last module with parameters that a forward calls: the classifier, where there is one."""
    weighted = [call.module for call in probe.root.leaves() if any(True for _ in call.module.parameters())]
    return weighted[-1] if weighted else None
