"""Stage numbers to node names: the order of resolution, and the module-boundary rule.

Stage k is the backbone's last map at stride 4 * 2^k. "The last 4-D output at that stride" is not it: the first block
of the *next* stage still works at the old resolution. So the rule looks at module boundaries only, and inside a module
only where it spans two or more halvings of the map; what it keeps per stride is what the author drew as a stage.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .copies import quiet_fakes, switched, twin_of
from .layout import STRIDE_TOLERANCE, Shape, level_of, map_shape
from .probe import Call, CallSite, Probe, tensors_in
from .usage import LAST, call_intermediates

_ADAPTIVE_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_DO_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)
# log2 of the deepest stride of networks for small images, which begin at full resolution: CIFAR's ResNets end at 4 or 8
DEEPEST_OF_SMALL_IMAGES = 3
BY_ORDER = "the order of resolutions (small images)"


class Intermediate(NamedTuple):
    """One of the maps that a timm model's own ``forward_intermediates`` returns.

    Attributes:
        position: its index among them; :data:`~.usage.LAST` means the final features.
        node: the module that timm's record names for it.
    """

    position: int
    node: str


Target = CallSite | Intermediate


@dataclass(frozen=True)
class Stages:
    """Where a backbone's stages are.

    Attributes:
        nodes: stage number -> whose output it is.
        final: whose output is the last map before global pooling, head expansion included; None if that is uncertain.
        levels_before_stage_0: how many finer resolutions (stem levels) come before stride 4: what the paper's own stage
            count is ahead of ours. One for ResNet, whose stem counts as a stage there; none for ConvNeXt.
        obstacle: why the numbers cannot be trusted, or None.
        found_by: the source of the numbers, in words.
        blocks: where there is one resolution only, the blocks that work at it, which numbers then count.
        candidates: names of modules that a user may choose among where the numbers cannot be trusted.
        final_node: the final map's place where ``final`` is none, for users who name nodes.
        strides: of the stages, where they are not 4 * 2^k.
        readers: for sites that the rule found, the next one at the level of stages that makes a map, or None after
            the last. Functions between the two belong to the stage: a shortcut's sum, a gate's product.
    """

    nodes: Mapping[int, Target]
    final: Target | None
    levels_before_stage_0: int
    obstacle: str | None = None
    found_by: str = "module boundaries"
    blocks: tuple[Target, ...] = ()
    candidates: tuple[str, ...] = ()
    final_node: CallSite | None = None
    strides: Mapping[int, int] = field(default_factory=dict)
    readers: Mapping[CallSite, CallSite | None] = field(default_factory=dict)


def find_stages(model: nn.Module, probe: Probe, trust_records: bool = True) -> Stages:
    """Find the stages: by the model's own record of them where timm keeps one, else by the module-boundary rule.

    The order is: timm's ``feature_info``, where its modules give maps; timm's ``forward_intermediates``, which makes
    maps of tokens; the module-boundary rule, which refuses tokens. Where there is one resolution only, numbers count
    blocks. The final map and the number of stem levels come from the rule: no record contains them.

    Args:
        model: the backbone.
        probe: its recorded forward.
        trust_records: whether to use what timm knows; without it only the rule is used.

    Returns:
        The stages, with the obstacle named where the rule cannot be trusted.
    """
    ruled = _by_module_boundaries(probe)
    if trust_records:
        recorded = _by_feature_info(model, probe)
        if recorded:
            final = ruled.final or recorded[max(recorded)]
            return replace(ruled, nodes=recorded, final=final, obstacle=None, found_by="timm's feature_info")
        own = _by_intermediates(model, probe, ruled)
        if own is not None:
            return own
    if ruled.obstacle is None and len(ruled.nodes) > 1:
        return ruled
    blocks = _blocks(probe)
    if not blocks:
        return _by_tokens(probe) or replace(ruled, candidates=_candidates(probe))
    sites = tuple(probe.place(call) for call in blocks)
    final = ruled.final or _last_alike(probe, blocks[-1])
    nodes = ruled.nodes if ruled.obstacle is None else {}  # before tokens, a convolution may cut patches
    return replace(ruled, nodes=nodes, final=final, blocks=sites, candidates=tuple(place.node for place in sites))


def number_of_classes(model: nn.Module, probe: Probe) -> int | None:
    """The width of the backbone's classifier, or None where it has none that can be recognised.

    A headless model gives features, (N, C), which look like logits; so the last layer with weights must be a linear
    layer or a convolution as wide as the output.
    """
    shape = probe.logits_shape
    if len(shape) != 2 or getattr(model, "num_classes", None) == 0:
        return None
    last = _last_weighted(probe)
    calls = list(probe.root.leaves())
    if calls and isinstance(calls[-1].module, nn.Identity) and getattr(model, "num_classes", None) != shape[1]:
        return None  # an Identity in a classifier's place; timm's heads end in one too, but say their number of classes
    weight = getattr(last, "weight", None)
    is_classifier = weight is not None and weight.ndim >= 2 and weight.shape[0] == shape[1]
    return shape[1] if is_classifier else None


def _timms_record(model: nn.Module) -> Sequence[Any]:
    """The entries of timm's ``feature_info``, none where a model has no such list."""
    info = getattr(model, "feature_info", None)
    info = getattr(info, "info", info)
    return info if isinstance(info, list | tuple) else ()


def _by_feature_info(model: nn.Module, probe: Probe) -> dict[int, CallSite]:
    """Timm's `feature_info`, matched by reduction (its index is not the stage number) and checked against the probe."""
    info = _timms_record(model)
    measured = {call.name: call for call in probe.root.calls()}
    nodes: dict[int, CallSite] = {}
    for entry in info:
        if not isinstance(entry, dict) or not {"module", "reduction", "num_chs"} <= entry.keys():
            return {}
        stage = math.log2(entry["reduction"]) - 2
        if stage < 0 or stage != int(stage):
            continue
        call = measured.get(entry["module"])
        if call is None or len(call.output_shape) != 4:
            return {}
        if call.output_shape[1] != entry["num_chs"] or _level(call.output_shape, probe) != stage + 2:
            return {}
        nodes[int(stage)] = CallSite(entry["module"])
    return nodes if len(nodes) > 1 or len(info) == 1 else {}  # several blocks at one resolution are not stages


def _by_intermediates(model: nn.Module, probe: Probe, ruled: Stages) -> Stages | None:
    """Timm's ``forward_intermediates``, run once on fake tensors and compared with timm's own record."""
    info = _timms_record(model)
    if not info or not hasattr(model, "forward_intermediates"):
        return None
    try:
        with torch.no_grad(), quiet_fakes(), probe.mode:
            final, maps = call_intermediates(probe.shadow, probe.fake_images(), None, with_final=True)
        shapes = [tuple(a_map.shape) for a_map in maps]
        recorded = [(entry["num_chs"], entry["reduction"], entry["module"]) for entry in info]
    except Exception:  # this model does not behave as timm's others
        return None
    if len(shapes) != len(recorded) or not shapes:
        return None
    for shape, (channels, reduction, _) in zip(shapes, recorded, strict=True):
        if len(shape) != 4 or shape[1] != channels or abs(math.log2(probe.image_shape[2] / shape[2] / reduction)) > 0.5:
            return None
    modules = [module for _, _, module in recorded]
    names = [m if modules.count(m) == 1 else f"{m} (intermediate {i})" for i, m in enumerate(modules)]
    own = [Intermediate(index, name) for index, name in enumerate(names)]
    # Of the final features only tokens and maps can be selected from; a class token alone has read the last map.
    last = Intermediate(LAST, "final features") if map_size(final, probe) == shapes[-1][2:] else own[-1]
    found_by = "timm's forward_intermediates"
    if len({shape[2:] for shape in shapes}) == 1:
        blocks = _blocks(probe)
        final_node = _last_alike(probe, blocks[-1]) if blocks else None
        return Stages({}, last, 0, "it has one resolution", found_by, tuple(own), tuple(names), final_node)
    levels = [level for level in (_level(shape, probe) for shape in shapes) if level is not None]
    if len(levels) < len(own) or levels != sorted(levels):
        return None
    nodes = {level - 2: target for level, target in zip(levels, own, strict=True) if level >= 2}
    before = ruled.levels_before_stage_0 if ruled.obstacle is None else 0
    final_node = ruled.final if isinstance(ruled.final, CallSite) else None
    return Stages(nodes, last, before, found_by=found_by, candidates=_candidates(probe), final_node=final_node)


def map_size(output: object, probe: Probe) -> Shape | None:
    """(H, W) of the map that an output is, or that its tokens make; None if it is neither."""
    layout = probe.layout(tuple(output.shape)) if isinstance(output, Tensor) else None
    return None if layout is None or not isinstance(output, Tensor) else map_shape(tuple(output.shape), layout)[2:]


def _blocks(probe: Probe) -> list[Call]:
    """The longest run of calls of one class, one after the other, that leave the shape of maps or tokens alone.

    None where tokens are on several grids: a run at one of them is then not the model's depth.
    """
    tokens = [call.made for call in probe.root.calls() if len(call.made) == 3]
    layouts = [probe.layout(shape) for shape in tokens if shape[0] == 1]  # what is split into windows has other N
    if len({layout.grid for layout in layouts if layout is not None}) > 1:
        return []
    longest: list[Call] = []
    for parent in probe.root.calls():
        run: list[Call] = []
        for call in parent.children:
            alike = run and type(call.module) is type(run[-1].module) and call.made == run[-1].made
            same = call.input_shape == call.made and probe.layout(call.made) is not None
            run = [*run, call] if alike and same else [call] if same and call.children else []
            if len(run) > max(len(longest), 1):
                longest = list(run)
    return longest


def _last_alike(probe: Probe, block: Call) -> CallSite:
    """The last innermost call whose output is laid out like a block's: a trailing norm, before anything is pooled."""
    calls = list(probe.root.leaves())
    after = calls.index(list(block.leaves())[-1])
    alike = [call for call in calls[after + 1 :] if call.output_shape == block.made]
    return probe.place(alike[-1] if alike else block)


def _by_tokens(probe: Probe) -> Stages | None:
    """Where tokens are on ever coarser grids, the last block on each of them: Swin's and PVT's in transformers."""
    alike = [c for c in probe.root.calls() if c.children and len(c.made) == 3 and c.input_shape == c.made]
    last: dict[int, Call] = {}
    for call in (c for c in alike if not any(c.name.startswith(f"{block.name}.") for block in alike)):
        layout = probe.layout(call.made)
        level = None if layout is None else level_of(layout.grid, probe.image_shape[2:])
        if level is None or level < max(last, default=2):
            return None
        last[level] = call
    if len(last) < 2:
        return None
    nodes = {level - 2: probe.place(call) for level, call in last.items()}
    final = _last_alike(probe, last[max(last)])
    return Stages(nodes, final, 0, found_by="the last block on each grid of tokens")


def _candidates(probe: Probe) -> tuple[str, ...]:
    """For each size of map, the outermost module that last gives one, or its tokens: what a user may name."""
    by_size: dict[tuple[int, int], str] = {}
    for call in (call for child in probe.root.children for call in _expand(child)):
        shape = call.made
        layout = probe.layout(shape)
        if layout is not None and not isinstance(call.module, _DO_NOTHING):
            height, width = shape[2:] if len(shape) == 4 else layout.grid
            if height * width > 1:
                by_size[height, width] = call.name
    return tuple(by_size.values())


def _by_module_boundaries(probe: Probe) -> Stages:
    by_level: dict[int, list[Call]] = {}
    counted: list[Call] = []
    obstacles: list[str] = []
    deepest = 0
    certain = True  # whether what comes last is what the classifier reads
    misled = False  # whether what comes last may look like a map of the trunk, and not be one
    left_out: Call | None = None  # the last map that is deeper than all that count, at no power of two
    for call in _expand(probe.root):
        if _returns_maps_in_a_container(call):
            obstacles.append(f"{call.name!r} returns a {call.container} that holds maps, not a map")
            certain = False
            held = [_level(shape, probe) for shape in call.contained.values()]
            deepest = max([deepest, *(level for level in held if level is not None)])
            continue
        if len(call.output_shape) == 3:
            obstacles.append(f"{call.name!r} works on tokens, {call.output_shape}, not on (N, C, H, W) maps")
            misled = True
        level = _level(call.output_shape, probe, deepest, counted[-1] if counted else None)
        if counted and _ends_in_one_position(call, counted[-1]):
            level = deepest + (math.prod(counted[-1].output_shape[2:]) > 1)
        if level is None and _is_deeper_than(deepest, call, probe):
            left_out = call
        if level is None or _is_global_pool(call) or not (counted or level > 1 or _sees_neighbours(call)):
            continue  # layers in front, such as a normalisation, are none of the network's stages
        if level >= max(deepest, 2) + 2 and math.prod(call.output_shape[2:]) == 1:
            continue  # what a global pool, or a convolution like it, left over
        if level < deepest:
            obstacles.append(f"{call.name!r} goes back from stride {2**deepest} to {2**level}")
            misled = True
        certain = True
        deepest = max(deepest, level)
        by_level.setdefault(level, []).append(call)
        counted.append(call)
        left_out = left_out if left_out is not None and _is_deeper_than(deepest, left_out, probe) else None
    if left_out is not None:
        height, width = left_out.output_shape[2:]
        obstacles.append(f"{left_out.name!r} gives a map of {height} x {width}, whose stride is no power of two")
    obstacle = obstacles[0] if obstacles else None
    if deepest not in by_level:
        return Stages({}, None, 0, obstacle)
    calls = _without_classifier(by_level[deepest], probe)
    if certain and not misled and left_out is None:
        trunk = _without_branches(calls, probe)
        if not trunk:
            obstacle = obstacle or f"its output depends on more maps than that of {calls[-1].name!r}, the last"
            certain = False
        calls = trunk or calls
    final = probe.place(left_out or calls[-1]) if certain and not misled else None
    by_level[deepest] = _without_head_expansion(calls)
    chosen = {level: _without_do_nothing(calls)[-1] for level, calls in sorted(by_level.items())}
    last = {level: probe.place(call) for level, call in chosen.items()}
    readers = {probe.place(c): _next_place(c, counted, probe) for c in (*chosen.values(), calls[-1])}
    if 0 in last and 0 < deepest <= DEEPEST_OF_SMALL_IMAGES:
        strides = {number: 2**level for number, level in enumerate(last)}
        return Stages(dict(enumerate(last.values())), final, 0, obstacle, BY_ORDER, strides=strides, readers=readers)
    nodes = {level - 2: place for level, place in last.items() if level >= 2}
    return Stages(nodes, final, sum(level < 2 for level in by_level), obstacle, readers=readers)


def _sees_neighbours(call: Call) -> bool:
    """Whether a call has weights for more than one position: what prepares the images has not."""
    return any(weight.ndim == 4 and math.prod(weight.shape[2:]) > 1 for weight in call.module.parameters())


def _ends_in_one_position(call: Call, last: Call) -> bool:
    """Whether a call makes one position of a map that one more halving, rounded down, leaves one of."""
    shape, before = call.output_shape, max(last.output_shape[2:])
    return len(shape) == 4 and max(shape[2:]) == 1 and (before == 1 or (before < 4 and _sees_neighbours(call)))


def _is_deeper_than(level: int, call: Call, probe: Probe) -> bool:
    """Whether a call makes a map, of more than one position, that is smaller than those of a level."""
    shape = call.output_shape
    if len(shape) != 4 or math.prod(shape[2:]) == 1 or _is_global_pool(call):
        return False
    return math.log2(probe.image_shape[2] / shape[2]) > level + STRIDE_TOLERANCE


def _next_place(call: Call, counted: list[Call], probe: Probe) -> CallSite | None:
    following = counted[counted.index(call) + 1 :]
    return next((probe.place(c) for c in following if not isinstance(c.module, _DO_NOTHING)), None)


def _returns_maps_in_a_container(call: Call) -> bool:
    """Whether a call below the model returns a container with a map that spans less than two halvings."""
    if not call.name or len(call.input_shape) != 4:
        return False
    spans = [math.log2(call.input_shape[2] / shape[2]) for shape in call.contained.values() if len(shape) == 4]
    return bool(spans) and round(max(spans)) < 2


def _expand(call: Call) -> Iterator[Call]:
    """The calls at the level of stages: a module is opened if it spans two or more stages, or leaves the maps."""
    spans = call.doublings
    opened = (
        (spans is None or spans >= 2 or _works_before_it_halves(call))
        and not len(call.input_shape) == len(call.output_shape) == 3  # a body that works on tokens
        and not _returns_maps_in_a_container(call)
    )
    if call.children and opened:
        for child in call.children:
            yield from _expand(child)
    else:
        yield call


def _works_before_it_halves(call: Call) -> bool:
    """Whether a sequence holds a body of blocks at its input's resolution, and then halves it: two stages in one."""
    first = call.children[0] if call.children else None
    if call.doublings != 1 or first is None or not isinstance(call.module, nn.Sequential):
        return False
    return bool(first.children) and first.input_shape == first.output_shape == call.input_shape


def _level(shape: Shape, probe: Probe, deepest: int = 0, last: Call | None = None) -> int | None:
    """log2 of a map's stride, counted from the last map's, or None where it is not (N, C, H, W) at a power of two."""
    if len(shape) != 4 or min(shape[2:]) < 1:
        return None
    expected = deepest + math.log2(last.output_shape[2] / shape[2]) if last is not None else None
    return level_of(shape[2:], probe.image_shape[2:], expected)


def _is_global_pool(call: Call) -> bool:
    weightless = not any(True for _ in call.module.parameters())
    averages = isinstance(call.module, nn.AvgPool2d) and math.prod(call.output_shape[2:]) == 1  # also of 2 x 2
    return isinstance(call.module, _ADAPTIVE_POOLS) or averages or (weightless and (call.doublings or 0) >= 2)


def _without_branches(calls: list[Call], probe: Probe) -> list[Call]:
    """Drop what comes after the last map that all of the output depends on: the weights of an attention pooling, say.

    A branch whose map is of the same shape is a shortcut's, whose sum is found by the functions after it. None are
    left where there is no such map, as in networks that classify several resolutions.
    """
    if not _can_be_bypassed(calls[-1], probe):
        return calls
    for index in range(len(calls) - 2, -1, -1):
        if not _can_be_bypassed(calls[index], probe):
            return calls if calls[index].output_shape == calls[-1].output_shape else calls[: index + 1]
    return []


def _can_be_bypassed(call: Call, probe: Probe) -> bool:
    """Whether the model's output still depends on the images when the output of a call does not; False if unknown."""

    def cut(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        return output.detach() if isinstance(output, Tensor) else None

    twin = switched(twin_of(probe.shadow), False)
    twin.get_submodule(call.name).register_forward_hook(probe.place(call).hook(cut))
    try:
        with torch.enable_grad(), quiet_fakes(), probe.mode:
            images = probe.fake_images().requires_grad_(True)
            output = twin(images)
            held = [output] if isinstance(output, Tensor) else list(tensors_in(output).values())
            logits = next(tensor for tensor in held if tensor.ndim == 2)
            if not logits.requires_grad:
                return False
            (gradient,) = torch.autograd.grad(logits.sum(), images, allow_unused=True)
    except Exception:  # an operation without a gradient, or no logits
        return False
    return gradient is not None


def _without_classifier(calls: list[Call], probe: Probe) -> list[Call]:
    """Drop a convolutional classifier (SqueezeNet's) and what follows it."""
    classifier = _last_weighted(probe)
    makes_logits = isinstance(classifier, nn.Conv2d) and probe.logits_shape == (1, classifier.out_channels)
    if makes_logits and getattr(probe.shadow, "num_classes", None) != 0:
        before = list(itertools.takewhile(lambda call: call.module is not classifier, calls))
        calls = before or calls
    return _without_do_nothing(calls)


def _without_head_expansion(calls: list[Call]) -> list[Call]:
    """Step back over a trailing convolution that widens the map for the classifier (EfficientNet, MobileNet)."""
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
    if not (convolutions and call.input_shape and call.output_shape):
        return False
    for conv in convolutions:
        several = conv.groups == conv.in_channels < conv.out_channels  # of each channel: FastViT widens its last map so
        if conv.stride != (1, 1) or not (conv.kernel_size == (1, 1) or several):
            return False
    return call.output_shape[1] > call.input_shape[1]


def _last_weighted(probe: Probe) -> nn.Module | None:
    """The last module with parameters that a forward calls: the classifier, where there is one."""
    weighted = [call.module for call in probe.root.leaves() if any(True for _ in call.module.parameters())]
    return weighted[-1] if weighted else None
