"""The memory layout of a module's output, and how it becomes an (N, C, H, W) map.

Three layouts are known: maps with channels first, maps with channels last, and tokens, (N, L, C), in raster order
after the transformer's extra tokens (class and register tokens).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from torch import Tensor

STRIDE_TOLERANCE = 0.25  # octaves; unpadded nets are not exact: Inception turns 299 pixels into 8, which is 5.22
MOST_PREFIX_TOKENS = 16  # a class token, one for distillation, and registers: more than these are not a prefix

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """Which of the layouts an output has.

    Attributes:
        kind: of the three.
        prefix: how many tokens come before those of the map.
        grid: (height, width) of the map that tokens make for images of ``image_size``.
        image_size: (H, W) of the images it was read from.
    """

    kind: Literal["channels first", "channels last", "tokens"]
    prefix: int = 0
    grid: tuple[int, int] = (1, 1)
    image_size: tuple[int, int] = (1, 1)

    def to_map(self, output: Tensor, images: Tensor) -> Tensor:
        """Turn an output into a map.

        Raises:
            ValueError: if there are not as many tokens as images of this size have.
        """
        if self.kind == "channels first":
            return output
        if self.kind == "channels last":
            return output.permute(0, 3, 1, 2)
        grid = self._grid_for(output.shape[1] - self.prefix, (images.shape[2], images.shape[3]))
        tokens = output[:, self.prefix :]
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)  # len() would fix the batch in an export

    def _grid_for(self, tokens: int, size: tuple[int, int]) -> tuple[int, int]:
        """The grid of images of another size: with as many pixels per token, rounded down or up."""
        if size == self.image_size:
            return self.grid
        sides = list(zip(size, self.image_size, self.grid, strict=True))
        for grid in (
            tuple(side * cells // measured for side, measured, cells in sides),
            tuple(-(-side * cells // measured) for side, measured, cells in sides),
        ):
            if grid[0] * grid[1] == tokens:
                return grid[0], grid[1]
        height, width = self.image_size
        raise ValueError(
            f"the backbone makes {tokens} tokens of images of {size[0]} x {size[1]}, which do not fill a grid like the "
            f"{self.grid[0]} x {self.grid[1]} of {height} x {width}; resize the images to {height} x {width}, or wrap "
            f"the backbone with example_input= of {size[0]} x {size[1]}"
        )


def layout_of(shape: Shape, image_shape: Shape, grids: Iterable[tuple[int, int]] = ()) -> Layout | None:
    """The layout of an output of that shape."""
    if len(shape) == 4:
        return Layout("channels last") if is_channels_last(shape, image_shape) else Layout("channels first")
    if len(shape) != 3:
        return None
    fitting = [(h, w) for h, w in grids if h * w > 1 and 0 <= shape[1] - h * w <= MOST_PREFIX_TOKENS]
    if not fitting:
        return None
    grid = max(fitting, key=lambda grid: grid[0] * grid[1])
    return Layout("tokens", shape[1] - grid[0] * grid[1], grid, (image_shape[2], image_shape[3]))


def map_shape(shape: Shape, layout: Layout) -> Shape:
    """What :meth:`Layout.to_map` makes of a shape that the layout was read from."""
    if layout.kind == "channels first":
        return shape
    if layout.kind == "channels last":
        return (shape[0], shape[3], *shape[1:3])
    return (shape[0], shape[2], *layout.grid)


def is_channels_last(shape: Shape, image_shape: Shape) -> bool:
    """Whether a 4-D shape is a map of the images laid out as (N, H, W, C): by which sides fit the image's.

    Where both fit, as with few channels, the layout that fits without a rounding wins, and (N, C, H, W) where both do.
    """
    if len(shape) != 4:
        return False
    first, last = (level_of(sides, image_shape[2:]) for sides in (shape[2:], shape[1:3]))
    if first is None or last is None:
        return last is not None
    sizes = [tuple(side * 2**level for side in image_shape[2:]) for level in (-first, -last)]
    return shape[1:3] == sizes[1] and shape[2:] != sizes[0]


def level_of(sides: Shape, image_sides: Shape, expected: float | None = None) -> int | None:
    """log2 of a map's stride, or None where that is no power of two; where two fit, the one nearer to ``expected``.

    Each halving of an odd side rounds it up or down, so a small map of more than one position may be far from an exact
    division: 100 pixels become 4, and 48 x 320 become 2 x 10, at stride 32.
    """
    if min(sides) < 1:
        return None
    octaves = [math.log2(image / side) for image, side in zip(image_sides, sides, strict=True)]
    near = octaves[0] if expected is None else expected
    for level in sorted({*map(math.floor, octaves), *map(math.ceil, octaves)}, key=lambda level: abs(level - near)):
        rounded = [(image / 2**level, side) for image, side in zip(image_sides, sides, strict=True)]
        if math.prod(sides) > 1 and all(math.floor(exact) <= side <= math.ceil(exact) for exact, side in rounded):
            return level
        if all(abs(octave - level) <= STRIDE_TOLERANCE for octave in octaves):
            return level
    return None
