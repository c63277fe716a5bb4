"""Tapped outputs by timm's own ``forward_intermediates``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .usage import OwnCodeProgram

LAST = -1  # the index of the final features of forward_intermediates among the intermediates


class IntermediatesProgram(OwnCodeProgram):
    """Tapped outputs by timm's ``forward_intermediates``, which reshapes tokens to maps.

    Args:
        architecture: the backbone's class.
        indices: for each name of an output, its index among the intermediates, or :data:`LAST` for the final features.
    """

    def __init__(self, architecture: str, indices: dict[str, int]) -> None:
        super().__init__(architecture)
        self.indices = indices

    @property
    def names(self) -> list[str]:
        """Of the outputs."""
        return list(self.indices)

    def only(self, *names: str) -> IntermediatesProgram:
        """A program, not settled anywhere, for some of the outputs."""
        return IntermediatesProgram(self.architecture, {name: self.indices[name] for name in names})

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the twin's ``forward_intermediates``."""
        wanted = sorted({index for index in self.indices.values() if index != LAST})
        final, maps = call_intermediates(self.source, images, wanted, with_final=LAST in self.indices.values())
        return {n: final if i == LAST else maps[wanted.index(i)] for n, i in self.indices.items()}


def call_intermediates(
    model: nn.Module, images: Tensor, indices: list[int] | None, with_final: bool
) -> tuple[Any, list[Tensor]]:
    """Call a timm model's ``forward_intermediates``, whose arguments vary a little among models.

    Returns:
        The final features, None unless asked for, and the intermediates as (N, C, H, W) maps.
    """
    asked = {
        "indices": 1 if indices == [] else indices,  # none of the maps, but these models want at least one
        "output_fmt": "NCHW",
        "stop_early": True,
        "intermediates_only": not with_final,
    }
    function: Callable[..., Any] = getattr(model, "forward_intermediates")  # noqa: B009  (not every module has one)
    known = inspect.signature(function).parameters
    result = function(images, **{key: value for key, value in asked.items() if key in known})
    if not with_final and "intermediates_only" in known:
        return None, list(result)
    final, maps = result
    return final if with_final else None, list(maps)
