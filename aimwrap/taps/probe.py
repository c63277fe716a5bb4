"""One forward of a shadow: what a backbone does, learned without touching it.

A shadow is a copy of a module's structure whose tensors are fake: they have shapes, dtypes and devices, but no memory
and no values. Running it moves no statistics of the original, fires none of its hooks and costs no memory; tracing it
(:mod:`aimwrap.taps.graph`) may switch its training flags at will.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

STRIDE_TOLERANCE = 0.25  # octaves; unpadded nets are not exact: Inception turns 299 pixels into 8, which is 5.22

# Sizes to try, in this order, where neither the user nor the model says which images it takes.
_USUAL_SIZES = (224, 32, 64, 96, 28, 128, 299, 384)


class Place(NamedTuple):
    """Whose output is meant: a module or graph node and, where a forward calls it several times, which call.

    Attributes:
        node: its qualified name.
        call: index of the call, from 0.
        calls: how often a forward calls it; 0 if unknown, which means the last one. One pool shared by five stages is
            ``Place("pool", 3, 5)`` at the fourth of them, and ``pool_3`` among the graph's nodes.
    """

    node: str
    call: int = 0
    calls: int = 0


@dataclass
class Call:
    """One call of a submodule: its name and class, the shapes that went in and came out, and the calls inside it.

    A shape is None where the first argument, or the result, was not a tensor. Channels-last maps stand as (N, C, H, W).
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    channels_last: bool = False  # whether the output itself is (N, H, W, C)
    children: list[Call] = field(default_factory=list)

    @property
    def doublings(self) -> int | None:
        """By how many powers of two the call shrinks its map; None where a side of it is no (N, C, H, W) map."""
        if self.input_shape is None or self.output_shape is None:
            return None
        if len(self.input_shape) != 4 or len(self.output_shape) != 4:
            return None
        return round(math.log2(self.input_shape[2] / self.output_shape[2]))

    def calls(self) -> Iterator[Call]:
        """This call and all inside it, outermost first."""
        yield self
        for child in self.children:
            yield from child.calls()

    def leaves(self) -> Iterator[Call]:
        """The innermost calls, in the order in which they were made."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass
class Probe:
    """What one forward of the whole backbone showed.

    Attributes:
        shadow: the fake-tensor copy, in eval mode.
        mode: the fake mode its tensors live in.
        image_shape: (N, C, H, W) of the images it was fed.
        root: the call of the whole model.
        parameters: number of parameters, classifier included.
        macs: multiply-accumulates for one image, classifier included.
    """

    shadow: nn.Module
    mode: FakeTensorMode
    image_shape: tuple[int, ...]
    root: Call
    parameters: int
    macs: int

    def place(self, call: Call) -> Place:
        """Where a recorded call stands among the calls of its module."""
        same = [other for other in self.root.calls() if other.name == call.name]
        return Place(call.name, next(i for i, other in enumerate(same) if other is call), len(same))

    def stride(self, shape: tuple[int, ...]) -> int:
        """Pixels of the image per position of a map, for a shape (N, C, H, W).

        Raises:
            ValueError: if height and width disagree: the map is not laid out as (N, C, H, W).
        """
        ratios = [image / side for image, side in zip(self.image_shape[2:], shape[2:], strict=True)]
        if abs(math.log2(ratios[0] / ratios[1])) > STRIDE_TOLERANCE:
            raise ValueError(f"shape {tuple(shape)} does not fit images {tuple(self.image_shape)}")
        level = round(math.log2(ratios[0]))
        return 2**level if abs(math.log2(ratios[0]) - level) <= STRIDE_TOLERANCE else round(ratios[0])

    def fake_images(self) -> Tensor:
        """Fake images like the ones that were probed, (1, C, H, W), on the model's device."""
        return _fake_images(self.shadow, self.mode, self.image_shape)


def shadow_of(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Copy a module's structure, with fake tensors for its tensors and without anybody's hooks.

    Args:
        module: the module; it is only read.
        mode: the fake mode that the copy's tensors shall live in.

    Returns:
        The copy, with the training flags of the original.
    """
    memo: dict[int, object] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        memo[id(tensor)] = mode.from_tensor(tensor)
    for submodule in module.modules():
        for name, value in vars(submodule).items():
            if isinstance(value, Tensor):
                memo[id(value)] = mode.from_tensor(value.detach())
            elif "_hooks" in name and isinstance(value, dict):
                memo[id(value)] = type(value)()
    return copy.deepcopy(module, memo)


def traceable_shadow_of(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A shadow whose buffers and tensor attributes are parameters.

    Tracing records what is done with parameters and bakes the result of anything done with other tensors in as a
    constant: here one without values, and on the real model one that no longer follows the buffer.
    """
    shadow = shadow_of(module, mode)
    for submodule in shadow.modules():
        tensors = {name: value for name, value in vars(submodule).items() if isinstance(value, Tensor)}
        tensors |= {name: value for name, value in submodule._buffers.items() if value is not None}
        for name, value in tensors.items():
            vars(submodule).pop(name, None)
            submodule._buffers.pop(name, None)
            submodule._parameters[name] = nn.Parameter(value, requires_grad=False)
    return shadow


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
    shadow = shadow_of(model, mode).eval()
    failures: list[str] = []
    for image_shape in _image_shapes(model, example_input):
        images = _fake_images(shadow, mode, image_shape)
        counter = FlopCounterMode(display=False)
        try:
            with torch.no_grad(), mode, counter, _recorded_calls(shadow, image_shape) as root:
                shadow(images)
        except DataDependentOutputException as error:
            raise ValueError(
                f"the backbone {type(model).__name__} has control flow that depends on values ({error}), which can be "
                "neither run without values nor traced. Move it into a submodule of its own, behind the deepest stage, "
                "or replace it, for example by torch.where"
            ) from error
        except Exception as error:  # whatever a stranger's forward raises, the next size may suit it
            failures.append(f"{tuple(image_shape)}: {type(error).__name__}: {_first_line(error)}")
            continue
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return Probe(shadow, mode, image_shape, root, parameters, counter.get_total_flops() // 2)
    raise ValueError(
        f"the backbone {type(model).__name__} could not be run on made-up images:\n  "
        + "\n  ".join(failures)
        + "\nPass example_input=, a batch of images as your model takes them, for example torch.zeros(1, 3, 96, 96)."
    )


def count_macs(module: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward in eval mode, counted on a shadow.

    Args:
        module: the module; it is only read.
        image_shape: (N, C, H, W).

    Returns:
        The count for the whole batch; convolutions and matrix products, as is the custom.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    shadow = shadow_of(module, mode).eval()
    with torch.no_grad(), mode, FlopCounterMode(display=False) as counter:
        shadow(_fake_images(shadow, mode, image_shape))
    return int(counter.get_total_flops() // 2)


def _image_shapes(model: nn.Module, example_input: Tensor | None) -> Iterator[tuple[int, ...]]:
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
    for size in _USUAL_SIZES:
        yield (1, channels, size, size)


def _fake_images(module: nn.Module, mode: FakeTensorMode, shape: tuple[int, ...]) -> Tensor:
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    dtype = parameter.dtype if parameter is not None else torch.get_default_dtype()
    device = parameter.device if parameter is not None else torch.device("cpu")
    with mode:
        return torch.empty(1, *shape[1:], dtype=dtype, device=device)


def is_channels_last(shape: tuple[int, ...], image_shape: tuple[int, ...]) -> bool:
    """Whether a 4-D shape is a map of the images laid out as (N, H, W, C): by which sides fit the image's.

    Where both fit, as with few channels, the layout that fits without a rounding wins, and (N, C, H, W) where both do.

    Args:
        shape: of an output, of any rank.
        image_shape: (N, C, H, W) of the images that it was made from.
    """
    if len(shape) != 4:
        return False
    first, last = _misfit(shape[2:], image_shape), _misfit(shape[1:3], image_shape)
    return last <= STRIDE_TOLERANCE and (first > STRIDE_TOLERANCE or (last == 0 and first > 0))


def as_channels_first(shape: tuple[int, ...], image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape as (N, C, H, W) where :func:`is_channels_last`, and as it is elsewhere."""
    return (shape[0], shape[3], *shape[1:3]) if is_channels_last(shape, image_shape) else shape


def _misfit(sides: tuple[int, ...], image_shape: tuple[int, ...]) -> float:
    """How far, in octaves, height and width are from the image's divided by one power of two."""
    if min(sides) < 1:
        return math.inf
    octaves = [math.log2(image / side) for image, side in zip(image_shape[2:], sides, strict=True)]
    return max(abs(octave - round(octaves[0])) for octave in octaves)


@contextmanager
def _recorded_calls(shadow: nn.Module, image_shape: tuple[int, ...]) -> Iterator[Call]:
    """Record the tree of calls of one forward; yields its root, which fills while the forward runs."""

    def shape_of(value: object) -> tuple[int, ...] | None:
        return as_channels_first(tuple(value.shape), image_shape) if isinstance(value, Tensor) else None

    root = Call("", shadow)
    stack: list[Call] = []
    handles = []

    def enter(name: str, module: nn.Module, arguments: tuple[object, ...]) -> None:
        call = Call(name, module) if stack else root
        if stack:
            stack[-1].children.append(call)
        call.input_shape = shape_of(arguments[0] if arguments else None)
        stack.append(call)

    def leave(output: object) -> None:
        call = stack.pop()
        call.output_shape = shape_of(output)
        call.channels_last = isinstance(output, Tensor) and is_channels_last(tuple(output.shape), image_shape)

    for name, module in shadow.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, args, name=name: enter(name, m, args)))
        handles.append(module.register_forward_hook(lambda m, args, output: leave(output)))
    try:
        yield root
    finally:
        for handle in handles:
            handle.remove()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""
