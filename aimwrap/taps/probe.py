"""One forward of a shadow (:mod:`.copies`): it shows what a backbone does, without changing it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .copies import quiet_fakes, shadow_of, switched, twin_of, unmoved_generators
from .layout import STRIDE_TOLERANCE, Layout, Shape, is_channels_last, layout_of, level_of, map_shape

# Sizes to try, in this order, where neither the user nor the model says which images it takes.
_USUAL_SIZES = (224, 32, 64, 96, 28, 128, 299, 384)
_SIZE_OF_UNPADDED = 299  # tried where strides at 224 are no powers of two, for networks of Inception's kind

Key = int | str  # of a tensor in a container: an index, a dict's key or a field's name


class CallSite(NamedTuple):
    """A module or graph node and, where a forward calls it several times, which call.

    Attributes:
        node: its qualified name.
        call: index of the call, from 0.
        calls: how often a forward calls it; 0 if unknown, which means the last one. One pool shared by five stages is
            ``CallSite("pool", 3, 5)`` at the fourth of them, and ``pool_3`` among the graph's nodes.
    """

    node: str
    call: int = 0
    calls: int = 0

    def hook(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """A hook for the module that acts at this call; where that is unknown, at each, and the last one counts."""
        numbers = itertools.count()
        return lambda *seen: act(*seen) if next(numbers) == self.call or self.calls == 0 else None


@dataclass(eq=False)
class Call:
    """One call of a submodule: its name and class, the shapes that went in and came out, and the calls inside it.

    A shape is empty where the first argument, or the result, was not a tensor. Channels-last maps are given as
    (N, C, H, W).
    """

    name: str
    module: nn.Module
    input_shape: Shape = ()
    output_shape: Shape = ()
    channels_last: bool = False  # whether the output itself is (N, H, W, C)
    container: str | None = None  # the type of an output that is not a tensor but holds some
    contained: dict[Key, Shape] = field(default_factory=dict)  # what it holds, by index or name
    children: list[Call] = field(default_factory=list)

    @property
    def only_map(self) -> Key | None:
        """Where in a container its one map is or, without maps, its one (N, L, C); None without one, or of several."""
        lengths = {shape[1] for shape in self.contained.values() if len(shape) == 3}
        maps = [
            key
            for ndim in (4, 3)
            for key, shape in self.contained.items()
            if len(shape) == ndim and (ndim == 3 or {*shape[2:]} - lengths)  # else weights of an attention
        ]
        several = sum(len(self.contained[key]) == len(self.contained[maps[0]]) for key in maps) > 1
        return maps[0] if maps and not several else None

    @property
    def made(self) -> Shape:
        """The shape that came out, also that of the one map or (N, L, C) in a container."""
        return self.output_shape if self.only_map is None else self.contained[self.only_map]

    @property
    def doublings(self) -> int | None:
        """Halvings of the map by the call; None where its input or output is not an (N, C, H, W) map."""
        if len(self.input_shape) != 4 or len(self.output_shape) != 4:
            return None
        sides = zip(self.input_shape[2:], self.output_shape[2:], strict=True)
        return min(round(math.log2(before / after)) for before, after in sides)

    def calls(self) -> Iterator[Call]:
        """This call and all inside it, outermost first."""
        yield self
        for child in self.children:
            yield from child.calls()

    def leaves(self) -> Iterator[Call]:
        """The innermost calls, in the order in which they were made."""
        return (call for call in self.calls() if not call.children)


@dataclass
class Probe:
    """What one forward of the complete backbone showed.

    Attributes:
        shadow: the fake-tensor copy, in eval mode.
        mode: the fake mode its tensors live in.
        image_shape: (N, C, H, W) of the images it was fed.
        root: the call of the model itself.
        parameters: number of parameters, classifier included.
        macs: multiply-accumulates for one image, classifier included.
        writes_parameters: whether the forward changes parameters in evaluation, too.
    """

    shadow: nn.Module
    mode: FakeTensorMode
    image_shape: Shape
    root: Call
    parameters: int
    macs: int
    writes_parameters: bool = False

    @property
    def logits_shape(self) -> Shape:
        """Of the output or, where that has fields or keys, of its ``logits``; empty without either."""
        return self.root.output_shape or self.root.contained.get("logits", ())

    @cached_property
    def grids(self) -> set[tuple[int, int]]:
        """(height, width) of every map that was seen: what tokens may be laid out on."""
        calls = list(self.root.calls())
        shapes = {shape for call in calls for shape in (call.output_shape, *call.contained.values())}
        maps = {shape[2:] for shape in shapes if len(shape) == 4 and shape[2] * shape[3] > 1}
        height, width = self.image_shape[2:]
        ratios = {size: (height / size[0], width / size[1]) for size in maps}
        near = {s for s, (h, w) in ratios.items() if min(h, w) >= 1 and abs(math.log2(h / w)) <= STRIDE_TOLERANCE}
        return near | {size for size in maps if (level_of(size, self.image_shape[2:]) or -1) >= 0}

    def is_even(self) -> bool:
        """Whether every map's stride is near a power of two."""
        return all(level_of(grid, self.image_shape[2:]) is not None for grid in self.grids)

    def place(self, call: Call) -> CallSite:
        """The call site of a recorded call."""
        same = [other for other in self.root.calls() if other.name == call.name]
        return CallSite(call.name, same.index(call), len(same))

    def call_at(self, place: CallSite) -> Call | None:
        """The recorded call at a place, or None where no module of that name was called."""
        same = [call for call in self.root.calls() if call.name == place.node]
        return same[place.call if place.calls else -1] if same else None

    def layout(self, shape: Shape) -> Layout | None:
        """The layout of an output of that shape; None if it is neither a map nor a map's tokens."""
        return layout_of(shape, self.image_shape, self.grids)

    def stride(self, shape: Shape) -> int | None:
        """Pixels of the image per position of an (N, C, H, W) map; None where height and width disagree on it."""
        ratios = [image / side for image, side in zip(self.image_shape[2:], shape[2:], strict=True)]
        level = level_of(shape[2:], self.image_shape[2:])
        if level is not None and level >= 0:
            return int(2**level)
        return None if abs(math.log2(ratios[0] / ratios[1])) > STRIDE_TOLERANCE else round(ratios[0])

    def fake_images(self, batch_size: int = 1) -> Tensor:
        """Fake images like the ones that were probed, (N, C, H, W), on the model's device."""
        return fake_images(self.shadow, self.mode, (batch_size, *self.image_shape[1:]))


def probe(model: nn.Module, example_input: Tensor | None = None) -> Probe:
    """Run the model once, to the end, on fake tensors, and record every module's shapes.

    Args:
        model: the backbone; it is only read.
        example_input: images (N, C, H, W) of the kind the model takes. Without it the channels come from the model's
            first convolution and the size from timm's record of it or, failing that, from a list of usual sizes.

    Returns:
        The record. Everything in it is measured at batch size 1.

    Raises:
        ValueError: if the model runs at none of the sizes tried, or not on the example.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    shadow = switched(shadow_of(model, mode), False)
    shadow.requires_grad_(False)  # counting trips over inputs that are parameters
    parameters = sum(parameter.numel() for parameter in model.parameters())
    failures: list[str] = []
    uneven: Probe | None = None
    for image_shape in _image_shapes(model, example_input):
        if uneven is not None and image_shape[2] != _SIZE_OF_UNPADDED:
            continue
        _run_once(model, image_shape)
        images = fake_images(shadow, mode, image_shape)
        counter = FlopCounterMode(display=False)
        writes = Writes(shadow)
        try:
            with (
                _unfused_attention(),
                torch.no_grad(),
                quiet_fakes(),
                mode,
                counter,
                writes,
                _recorded_calls(shadow, image_shape) as root,
            ):
                shadow(images)
        except DataDependentOutputException as error:
            raise ValueError(
                f"the backbone {type(model).__name__} has control flow that depends on values ({error}), which can be "
                "neither run without values nor traced. Move it into its own submodule, after the deepest stage, "
                "or replace it, for example by torch.where"
            ) from error
        except Exception as error:  # a user's forward may raise anything, and the next size may work
            reason = str(error).strip().partition("\n")[0]
            failures.append(f"{tuple(image_shape)}: {type(error).__name__}: {reason}")
            continue
        found = Probe(shadow, mode, image_shape, root, parameters, counter.get_total_flops() // 2, writes.any())
        if uneven is not None:
            return found if found.is_even() else uneven
        if example_input is not None or image_shape[2] != _USUAL_SIZES[0] or found.is_even():
            return found
        uneven = found  # unless the next size is one that the strides divide, as 299 is for Inception
    if uneven is not None:
        return uneven
    raise ValueError(
        f"the backbone {type(model).__name__} could not be run on test images:\n  "
        + "\n  ".join(failures)
        + "\nPass example_input=, a batch of images as your model takes them, for example torch.zeros(1, 3, 96, 96); "
        "on the command line, pass --image-size; aimwrap inspect has --channels, too, and other commands need three."
    )


def _run_once(model: nn.Module, image_shape: Shape) -> None:
    """Run a model of transformers on real images first: some keep positions by functools.lru_cache, else fake ones."""
    tensors = [*model.parameters(), *model.buffers()]
    if not any("config" in vars(module) for module in model.modules()) or any(tensor.is_meta for tensor in tensors):
        return
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    with torch.no_grad(), unmoved_generators(), suppress(Exception):  # on fake ones it is told
        switched(twin_of(model, own_buffers=True, own_parameters=True), False)(torch.zeros(image_shape).to(like))


def count_macs(module: nn.Module, image_shape: Shape) -> int:
    """Multiply-accumulates of one forward in eval mode, counted on a shadow.

    Returns:
        The count for the whole batch; convolutions and matrix products, as usual.
    """
    _run_once(module, image_shape)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    shadow = switched(shadow_of(module, mode), False).requires_grad_(False)
    with _unfused_attention(), torch.no_grad(), mode, FlopCounterMode(display=False) as counter:
        shadow(fake_images(shadow, mode, image_shape))
    return int(counter.get_total_flops() // 2)


def _image_shapes(model: nn.Module, example_input: Tensor | None) -> Iterator[Shape]:
    if example_input is not None:
        if not isinstance(example_input, Tensor):
            raise TypeError(
                f"example_input must be a tensor of images (N, C, H, W), got {type(example_input).__name__}"
            )
        if example_input.ndim != 4:
            raise ValueError(
                f"example_input must be images of shape (N, C, H, W), got {tuple(example_input.shape)}; "
                "add the batch dimension with example_input.unsqueeze(0)"
            )
        yield (1, *example_input.shape[1:])
        return
    first_convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first_convolution.in_channels if first_convolution is not None else 3
    record = getattr(model, "pretrained_cfg", None)  # timm's own record of the model
    own_size = record.get("input_size") if isinstance(record, dict) else None
    if own_size:
        yield (1, channels, *own_size[1:])
        if channels != own_size[0]:
            yield (1, *own_size)  # a layer before the first convolution may make channels out of pixels
    config = getattr(model, "config", None)  # transformers' own record
    side = getattr(getattr(config, "vision_config", config), "image_size", None)
    sides = [(side, side) if isinstance(side, int) else side] if isinstance(side, int | list | tuple) else []
    for height, width in [*sides, *((size, size) for size in _USUAL_SIZES)]:
        yield (1, channels, height, width)


def fake_images(module: nn.Module, mode: FakeTensorMode, shape: Shape) -> Tensor:
    """Fake images of a shape, of the dtype and on the device of a module's parameters."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    with mode:
        return torch.empty(*shape, dtype=like.dtype, device=like.device)


class Writes(TorchDispatchMode):
    """Notes whether operations write into a module's parameters, by whatever alias, or others take their place.

    And whether some draw random numbers.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without types
        self.before = {parameter: state_of(parameter) for parameter in module.parameters()}
        self.storages = {storage for _, storage in self.before.values()}
        self.seen = self.draws = False

    def any(self) -> bool:
        """Whether any was written so far."""
        return self.seen or any(state_of(parameter) != state for parameter, state in self.before.items())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.draws |= torch.Tag.nondeterministic_seeded in function.tags
        for value, argument in zip(args, function._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = {t.untyped_storage()._cdata for t in tree_leaves(value) if isinstance(t, Tensor)}
                self.seen |= not written.isdisjoint(self.storages)
        return function(*args, **(kwargs or {}))


def state_of(tensor: Tensor) -> tuple[int, int]:
    """What changes when a tensor is written to, or given other memory."""
    return tensor._version, tensor.untyped_storage()._cdata


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """nn.MultiheadAttention's fast path is one operation, whose cost is not counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _recorded_calls(shadow: nn.Module, image_shape: Shape) -> Iterator[Call]:
    """Record the tree of calls of one forward; yields its root, which fills while the forward runs."""

    def shape_of(value: object) -> Shape:
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        layout = layout_of(shape, image_shape)
        return shape if layout is None else map_shape(shape, layout)

    root = Call("", shadow)
    stack: list[Call] = []

    def enter(name: str, module: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]) -> None:
        call = Call(name, module) if stack else root
        if stack:
            stack[-1].children.append(call)
        call.input_shape = shape_of(next(iter((*arguments, *keywords.values())), None))
        stack.append(call)

    def leave(output: object) -> None:
        call = stack.pop()
        call.output_shape = shape_of(output)
        call.channels_last = isinstance(output, Tensor) and is_channels_last(tuple(output.shape), image_shape)
        if not isinstance(output, Tensor):
            tensors = tensors_in(output)
            call.container = type(output).__name__ if tensors else None
            call.contained = {key: shape_of(tensor) for key, tensor in tensors.items()}

    with ExitStack() as hooks:
        for name, module in shadow.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(partial(enter, name), with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(lambda module, arguments, output: leave(output)))
        yield root


def tensors_in(output: object) -> dict[Key, Tensor]:
    """The tensors of an output that is a tuple, a list, a dict or a record with fields, by index, key or name."""
    items: Iterable[tuple[Any, object]]
    if isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, tuple | list):
        fields = getattr(output, "_fields", range(len(output)))
        items = zip(fields, output, strict=True)
    else:
        items = getattr(output, "__dict__", {}).items()
    return {key: value for key, value in items if isinstance(value, Tensor)}


def logits_in(output: object) -> Tensor | None:
    """What a network returns as logits: its output, the part named ``logits``, or the only (N, K) tensor in it."""
    if isinstance(output, Tensor):
        return output
    held = tensors_in(output)
    flat = [tensor for tensor in held.values() if tensor.ndim == 2]
    return held.get("logits", flat[0] if len(flat) == 1 else None)
