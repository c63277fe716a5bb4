"""Turn a backbone and stage numbers or names into taps with measured channels and strides."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub
from typing import NamedTuple

from torch import Tensor, nn

from .backbone import TappedBackbone
from .copies import unwrapped
from .equivalence import check_order
from .extraction import FINAL, Extraction, extract
from .graph import ONE_AT_A_TIME
from .probe import Call, CallSite, Probe, probe
from .stages import BY_ORDER, Intermediate, Stages, Target, find_stages, number_of_classes

Stage = int | str
HIGHEST_STAGE = 3  # by stride; where there is one resolution, higher numbers can only mean blocks
_WITHOUT_FINAL = 'Pass head="paper", which needs the tapped maps only'


class Tap(NamedTuple):
    """One tapped map, as measured.

    Attributes:
        stage: what the user calls it, a stage number or a node name.
        node: the module or graph node whose output it is.
        channels: C of its (N, C, H, W).
        stride: pixels of the image per position, to the next power of two where it is near one.
        size: (H, W) of the map for one of the probed images.
    """

    stage: Stage
    node: str
    channels: int
    stride: int
    size: tuple[int, int]


@dataclass(frozen=True)
class TappedModel:
    """A tapped backbone and its measured properties.

    Attributes:
        backbone: the extractor, sharing the user's parameters; it returns maps keyed by ``str(stage)``.
        taps: the stages' taps, shallow to deep.
        final: the tap of the map before global pooling, or None where it was not asked for.
        num_classes: width of the backbone's classifier, or None where it has none.
        image_shape: (C, H, W) of the probed images.
        paper_stage_offset: by how much the paper's stage count is ahead of ours on this backbone.
        deepest_stage: the number of the deepest stage found, or None.
        parameters: of the backbone, classifier included.
        macs: of the complete backbone for one probed image, classifier included.
    """

    backbone: TappedBackbone
    taps: tuple[Tap, ...]
    final: Tap | None
    num_classes: int | None
    image_shape: tuple[int, ...]
    paper_stage_offset: int
    deepest_stage: int | None
    parameters: int
    macs: int


def tap_backbone(
    model: nn.Module, stages: Sequence[Stage], *, final: bool = False, example_input: Tensor | None = None
) -> TappedModel:
    """Tap a backbone's stages.

    Args:
        model: the backbone. It is only read; its parameters are shared by the result.
        stages: stage numbers (stage k is the last map at stride 4 * 2^k) or node names, in any order. Where the
            backbone has one resolution, numbers of which one is beyond :data:`HIGHEST_STAGE` count its blocks.
        final: also return the last map before global pooling, under the name :data:`FINAL`.
        example_input: images (N, C, H, W) as the backbone takes them, where its own record of them is not right.

    Returns:
        The tapped backbone with its taps, shallow to deep.

    Raises:
        TypeError: if the model is not an ``nn.Module`` that can be read.
        ValueError: if a stage does not exist, or the backbone cannot be run or traced.
    """
    with ONE_AT_A_TIME:
        return _tapped(unwrapped(model), stages, final, example_input)


def _tapped(model: nn.Module, stages: Sequence[Stage], final: bool, example_input: Tensor | None) -> TappedModel:
    measured = probe(model, example_input)
    if (mover := _moves_pixels(measured)) is not None:
        warnings.warn(
            f"{mover.name!r} ({type(mover.module).__name__}) crops or pads images in front of the network, so masks "
            "and heatmaps, which are laid over the whole image given to the model, will be shifted. Prepare images "
            "before the model, for example with aimwrap.Preprocessing, and wrap the network without this layer",
            stacklevel=4,  # where AIM is built
        )
    found = find_stages(model, measured)
    targets = {str(stage): target for stage, target in _targets(stages, found, model).items()}
    if final:
        targets[FINAL] = _final_target(found, targets, type(model).__name__)
    by_number = frozenset(name for name in targets if name not in stages)
    extraction = extract(model, measured, targets, by_number, found.readers)
    made = extraction.positions
    later = [name for name in extraction.order if final and made[name] > made[FINAL]]
    if later and all(name in by_number for name in later):
        targets[FINAL] = targets[later[-1]]  # a record knows better what the last map is
        extraction = extract(model, measured, targets, by_number, found.readers)
    elif later:
        raise ValueError(
            f"the map that {type(model).__name__} classifies was taken to be {extraction.labels[FINAL]!r}, but "
            f"{[extraction.labels[name] for name in later]} come after it, so it is another one. {_WITHOUT_FINAL}"
        )
    if not any(isinstance(target, Intermediate) for target in targets.values()):  # else timm's code makes the maps
        check_order(model, measured, extraction.program, extraction.layouts)
    taps = {name: _measured_tap(name, stages, extraction, measured) for name in extraction.order}
    for k, target in found.nodes.items():  # of a small map the stride alone is ambiguous: 34 becomes 2 at 16 and 32
        if targets.get(str(k)) is target and str(k) in by_number:
            taps[str(k)] = taps[str(k)]._replace(stride=found.strides.get(k, 4 * 2**k))
    final_tap = taps.pop(FINAL, None)
    return TappedModel(
        backbone=TappedBackbone(model, extraction.program, extraction.layouts),
        taps=tuple(sorted(taps.values(), key=lambda tap: tap.stride)),  # a stable sort: equal strides stay in order
        final=final_tap,
        num_classes=number_of_classes(model, measured),
        image_shape=measured.image_shape[1:],
        paper_stage_offset=found.levels_before_stage_0,
        deepest_stage=max(found.nodes, default=None) if found.obstacle is None else None,
        parameters=measured.parameters,
        macs=measured.macs,
    )


def _moves_pixels(measured: Probe) -> Call | None:
    """The call in front of the first convolution that crops images, or pads them by more than that one needs."""
    front: list[tuple[Call, str, int]] = []  # with the pixels that it adds to a side
    for call in measured.root.leaves():
        kernel = next((weight.shape[2:] for weight in call.module.parameters() if weight.ndim == 4), None)
        if kernel is not None:
            needed = max(kernel) - 1 if getattr(call.module, "padding", 0) in (0, (0, 0), "valid") else 0
            return next((c for c, said, more in front if "Crop" in said or ("Pad" in said and more > needed)), None)
        more = max(map(sub, call.output_shape[2:], call.input_shape[2:]), default=0)
        front.append((call, repr(call.module), more))  # a Compose says its transforms
    return None


def _targets(stages: Sequence[Stage], found: Stages, model: nn.Module) -> dict[Stage, Target]:
    """Whose outputs the user means, by number or by name."""
    architecture = type(model).__name__
    numbers = [stage for stage in stages if isinstance(stage, int)]
    counts_blocks = bool(found.blocks) and any(number > HIGHEST_STAGE for number in numbers)
    known = dict(model.named_modules(remove_duplicate=False))
    first = {module: name for name, module in model.named_modules()}
    number = _block if counts_blocks else _stage
    targets = {
        stage: CallSite(first.get(known.get(stage)) or stage)  # a module with several names is recorded under the first
        if isinstance(stage, str)
        else number(stage, found, architecture)
        for stage in stages
    }
    if any(isinstance(target, Intermediate) for target in targets.values()) and len(numbers) < len(stages):
        raise ValueError(
            f"stages: numbers of {architecture} are taken from its own forward_intermediates, and names from its "
            f"graph; use either, not both, got {list(stages)}"
        )
    return targets


def _block(number: int, found: Stages, architecture: str) -> Target:
    if not 0 <= number < len(found.blocks):
        raise ValueError(
            f"stages: {architecture} has {len(found.blocks)} blocks, 0 to {len(found.blocks) - 1}, not {number}"
        )
    return found.blocks[number]


def _stage(stage: int, found: Stages, architecture: str) -> Target:
    named = [target.node for _, target in sorted(found.nodes.items()) if isinstance(target, CallSite)]
    example = (list(found.candidates) or named)[-2:]
    by_name = f"name its nodes instead, for example stages={example or ['a node', 'another']}"
    if found.blocks and stage not in found.nodes:
        count = len(found.blocks)
        chosen = sorted({(count - 1) // 2, count - 1})
        names = [found.blocks[index].node for index in chosen]
        by_index = f"stages={chosen}" if count - 1 > HIGHEST_STAGE else f"stages={names}"
        also = "" if isinstance(found.blocks[0], Intermediate) else f", or by name: stages={names}"
        raise ValueError(
            f"stages: {architecture} has one resolution and so no stage {stage}. Choose among its {count} blocks: "
            f"{by_index}{also}. If no number is above {HIGHEST_STAGE}, numbers mean stages"
        )
    if found.obstacle is not None:
        raise ValueError(
            f"stage numbers cannot be trusted on {architecture}: {found.obstacle}. Where it has maps, {by_name}"
        )
    if stage not in found.nodes:
        by_stride = stage >= 0 and found.found_by != BY_ORDER
        have = ", ".join(
            f"{number} ({target.node}, stride {found.strides.get(number, 4 * 2**number)})"
            for number, target in sorted(found.nodes.items())
        )
        raise ValueError(
            f"stages: {architecture} has no stage {stage}{f' (stride {4 * 2**stage})' if by_stride else ''}; "
            f"it has {have or 'none'}. Choose among them, pass example_input= if it takes images of another size, "
            f"or {by_name}"
        )
    return found.nodes[stage]


def _final_target(found: Stages, targets: dict[str, Target], architecture: str) -> Target:
    """The map that the backbone classifies; for nodes that the user named, not by timm's own intermediates."""
    by_name = any(isinstance(target, CallSite) for target in targets.values())
    final = found.final_node if by_name and isinstance(found.final, Intermediate) else found.final
    if final is None:
        reason = found.obstacle or "no module gives an (N, C, H, W) map"
        raise ValueError(f"the map that {architecture} classifies cannot be found: {reason}. {_WITHOUT_FINAL}")
    return final


def _measured_tap(name: str, stages: Sequence[Stage], extraction: Extraction, measured: Probe) -> Tap:
    stage = next((stage for stage in stages if str(stage) == name), FINAL)
    shape, node = extraction.shapes[name], extraction.labels[name]
    stride = measured.stride(shape)
    if stride is None:
        raise ValueError(
            f"stages: node {node!r} does not give an (N, C, H, W) map: shape {shape} does not fit images "
            f"{measured.image_shape}; name another node"
        )
    return Tap(stage, node, shape[1], stride, (shape[2], shape[3]))
