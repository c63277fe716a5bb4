"""From a backbone and the stages its user names to taps with measured channels and strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .graph import GraphNames, NodePair, TappedBackbone
from .probe import Place, Probe, as_channels_first, is_channels_last, probe, traceable_shadow_of
from .stages import Stages, find_stages, number_of_classes

Stage = int | str
_WITHOUT_FINAL = 'Pass head="paper", which needs the tapped maps only'
FINAL = "final map"  # its name beside the stages' maps; no node can have it


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
    """A tapped backbone and what was measured on the way.

    Attributes:
        backbone: the extractor, sharing the user's parameters; it returns maps keyed by ``str(stage)``.
        taps: the stages' taps, shallow to deep.
        final: the tap of the map before global pooling, or None where it was not asked for.
        architecture: the backbone's class.
        num_classes: width of the backbone's classifier, or None where it has none.
        image_shape: (C, H, W) of the probed images.
        paper_stage_offset: what the paper's stage count is ahead of ours on this backbone.
        deepest_stage: the number of the deepest stage found, or None.
        parameters: of the whole backbone, classifier included.
        macs: of the whole backbone for one probed image, classifier included.
    """

    backbone: TappedBackbone
    taps: tuple[Tap, ...]
    final: Tap | None
    architecture: str
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
        stages: stage numbers (stage k is the last map at stride 4 * 2^k) or node names, in any order.
        final: also return the last map before global pooling, under the name :data:`FINAL`.
        example_input: images (N, C, H, W) as the backbone takes them, where its own record of them will not do.

    Returns:
        The tapped backbone with its taps, shallow to deep.

    Raises:
        TypeError: if the model is no ``nn.Module`` that can be read.
        ValueError: if a stage does not exist, or the backbone cannot be run or traced.
    """
    model = unwrapped(model)
    measured = probe(model, example_input)
    found = find_stages(model, measured)
    names = GraphNames(traceable_shadow_of(model, measured.mode))
    wanted = {str(s): Place(s) if isinstance(s, str) else _place_of(s, found, type(model).__name__) for s in stages}
    if final:
        wanted[FINAL] = _final_place(found, type(model).__name__)
    resolved = {name: names.resolve(place, following_activation=name not in stages) for name, place in wanted.items()}
    nodes = {name: pair for name, (pair, _) in resolved.items()}
    shown = {name: label for name, (_, label) in resolved.items()}
    taps, channels_last = _measure(model, measured, stages, shown, nodes)

    def order(tap: Tap) -> int:
        position: int = names.eval.index(nodes[str(tap.stage)][1])
        return position

    behind = [tap.node for tap in taps if final and order(tap) > names.eval.index(nodes[FINAL][1])]
    if behind:
        raise ValueError(
            f"the map that {type(model).__name__} classifies was taken to be {shown[FINAL]!r}, but {behind} lie behind "
            f"it, so it is another one. {_WITHOUT_FINAL}"
        )
    return TappedModel(
        backbone=TappedBackbone(model, traceable_shadow_of(model, measured.mode), nodes, channels_last),
        taps=tuple(sorted((tap for tap in taps if tap.stage != FINAL), key=lambda tap: (tap.stride, order(tap)))),
        final=next((t for t in taps if t.stage == FINAL), None),
        architecture=type(model).__name__,
        num_classes=number_of_classes(model, measured),
        image_shape=measured.image_shape[1:],
        paper_stage_offset=found.levels_before_stage_0,
        deepest_stage=max(found.nodes, default=None),
        parameters=measured.parameters,
        macs=measured.macs,
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper, or the model itself; others are refused with what to pass instead."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"backbone must be an nn.Module or a model's name, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("backbone is a scripted module, which cannot be tapped; pass the module it was scripted from")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise TypeError(f"backbone is wrapped in {type(model).__name__}; pass its .module, and wrap AIM instead")
    source = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    assert isinstance(source, nn.Module)
    return source


def _place_of(stage: int, found: Stages, architecture: str) -> Place:
    by_name = "name its nodes instead, for example stages=['layer3', 'layer4']"
    if found.obstacle is not None:
        raise ValueError(
            f"stage numbers cannot be trusted on {architecture}: {found.obstacle}. Where it has maps, {by_name}"
        )
    if stage not in found.nodes:
        have = ", ".join(
            f"{number} ({place.node}, stride {4 * 2**number})" for number, place in sorted(found.nodes.items())
        )
        raise ValueError(
            f"stages: {architecture} has no stage {stage} (stride {4 * 2**stage if stage >= 0 else '?'}); "
            f"it has {have or 'none'}. Choose among them, pass example_input= if it takes images of another size, "
            f"or {by_name}"
        )
    return found.nodes[stage]


def _final_place(found: Stages, architecture: str) -> Place:
    if found.final is None or found.obstacle is not None:
        reason = found.obstacle or "no module gives an (N, C, H, W) map"
        raise ValueError(f"the map that {architecture} classifies cannot be found: {reason}. {_WITHOUT_FINAL}")
    return found.final


def _measure(
    model: nn.Module, measured: Probe, stages: Sequence[Stage], labels: dict[str, str], nodes: dict[str, NodePair]
) -> tuple[list[Tap], frozenset[str]]:
    """Channels and strides from a fake run of the extractor itself, held against what the probe saw of each module.

    Returns:
        The taps, and the names of those whose nodes give channels-last maps.
    """
    extractor = TappedBackbone(measured.shadow, traceable_shadow_of(model, measured.mode), nodes).eval()
    with torch.no_grad(), measured.mode:
        maps = extractor(measured.fake_images())
    seen = {call.name: call.output_shape for call in measured.root.calls()}
    named = {str(stage): stage for stage in stages} | ({FINAL: FINAL} if FINAL in nodes else {})
    taps, channels_last = [], set()
    for name, stage in named.items():
        node, value = labels[name], maps[name]
        if not isinstance(value, Tensor) or value.ndim != 4:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"stages: node {node!r} gives {came}, not a (N, C, H, W) map; name another node")
        shape = as_channels_first(tuple(value.shape), measured.image_shape)
        if is_channels_last(tuple(value.shape), measured.image_shape):
            channels_last.add(name)
        if seen.get(node) is not None and seen[node] != shape:
            raise ValueError(
                f"stages: tapping {node!r} through the graph gives {shape}, but the module gives "
                f"{seen[node]}; name a graph node instead (torchvision's get_graph_node_names lists them)"
            )
        try:
            stride = measured.stride(shape)
        except ValueError as error:
            raise ValueError(f"stages: node {node!r} gives no (N, C, H, W) map: {error}; name another node") from error
        taps.append(Tap(stage, node, shape[1], stride, (shape[2], shape[3])))
    return taps, frozenset(channels_last)
