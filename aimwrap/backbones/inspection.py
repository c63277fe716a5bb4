"""A backbone before it is wrapped: its stages, how they were found, and what AIM on them would cost."""

from __future__ import annotations

import copy
import functools
import importlib
from typing import Any, NamedTuple

from torch import Tensor, nn

from .._text import table
from ..analysis import html
from ..base import Cost
from ..model import AIM
from ..taps import Stage, Tap, find_stages, number_of_classes, probe, unwrapped
from ..taps.stages import Stages
from ..taps.tapping import HIGHEST_STAGE
from ..top_down import Head
from .create import create_backbone, find_builder, is_import_path

UNKNOWN_CLASSES = 1000  # for the cost, where the backbone has no classifier that says how many


class Inspection(NamedTuple):
    """What :func:`inspect_backbone` found; ``print`` shows it as a table.

    Attributes:
        name: under which the backbone was asked for, or its class.
        num_classes: of its classifier, or None where none was recognised.
        image_shape: (C, H, W) of the image it was measured with.
        parameters: of the complete backbone, with its classifier.
        macs: multiply-accumulates of the complete backbone for one such image.
        taps: its stages, shallow to deep.
        found_by: how the stages were found.
        head: the head that the costs are of.
        costs: for each choice of stages, from the deepest alone to all of them, what wrapping costs.
    """

    name: str
    num_classes: int | None
    image_shape: tuple[int, ...]
    parameters: int
    macs: int
    taps: tuple[Tap, ...]
    found_by: str
    head: str
    costs: dict[tuple[Stage, ...], Cost]

    @property
    def lines(self) -> tuple[str, ...]:
        """Lines of Python that build the backbone and wrap it, with its two deepest stages."""
        stages = [tap.stage for tap in self.taps[-2:]]
        classes = f"num_classes={self.num_classes or '...'}"  # to be replaced by that of the user's own data
        head = "" if self.head == "feature-preserving" else f', head="{self.head}"'
        code = f"model = AIM(backbone, stages={stages}, {classes}, tau=0.25{head})"
        imported, built = _lines_that_build(self.name)
        return imported, "from aimwrap import AIM", built, code

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dicts, lists and numbers, for JSON."""
        costs = [{"stages": list(stages), **cost._asdict()} for stages, cost in self.costs.items()]
        plain = {**self._asdict(), "taps": [tap._asdict() for tap in self.taps], "costs": costs}
        return plain | {"lines": list(self.lines)}

    @property
    def summary(self) -> str:
        """The backbone in a line."""
        channels, height, width = self.image_shape
        classes = "no classifier recognised: pass num_classes=" if self.num_classes is None else self.num_classes
        return (
            f"{self.name}: {self.parameters / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} GMACs for "
            f"{channels} x {height} x {width}; classes: {classes}"
        )

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        """Stages and costs, each a list of rows with the header first, by title."""
        height, width = self.image_shape[1:]
        rows: list[tuple[str, ...]] = [("stage", "stride", "channels", f"size at {height} x {width}", "node")]
        for tap in self.taps:
            size = f"{tap.size[0]} x {tap.size[1]}"
            rows.append((str(tap.stage), str(tap.stride), str(tap.channels), size, tap.node))
        costs: list[tuple[str, ...]] = [("stages", "parameters added", "MACs added")]
        for stages, cost in self.costs.items():
            more_parameters = f"{cost.head_parameters / 1e6:.2f} M ({cost.head_parameters / self.parameters:.1%})"
            more_macs = f"{cost.head_macs / 1e9:.3f} G ({cost.head_macs / self.macs:.1%})"
            costs.append((str(list(stages)), more_parameters, more_macs))
        return {
            f"Stages by {self.found_by}:": rows,
            f"What AIM adds, {self.head} head, in addition to the backbone with its classifier:": costs,
        }

    def __str__(self) -> str:
        tables = [f"{title}\n{table(rows, indent='  ')}" for title, rows in self.tables().items()]
        return "\n\n".join([self.summary, *tables, "To go on:\n  " + "\n  ".join(self.lines)])

    def _repr_html_(self) -> str:
        tables = (html.line(title) + html.table(rows[0], rows[1:]) for title, rows in self.tables().items())
        return html.block(html.line(self.summary), *tables, html.line("To go on:"), html.code("\n".join(self.lines)))


def inspect_backbone(
    backbone: nn.Module | str, *, head: Head = "feature-preserving", example_input: Tensor | None = None
) -> Inspection:
    """Look at a backbone as :class:`~aimwrap.AIM` would, without changing it.

    Args:
        backbone: a module, or the name of a timm or torchvision model (built with random weights), or the import path
            of a module or of a function that builds one, with a colon: ``"my_project.models:build"``.
        head: the head whose cost is counted.
        example_input: images (N, C, H, W) as the backbone takes them; their size is the one that is measured with.

    Returns:
        Stages, classes and costs.

    Raises:
        TypeError: if an import path does not lead to a module or to what builds one.
        ValueError: if the name is unknown, or the backbone cannot be tapped; the message says why, and what to do.

    Example:
        >>> found = inspect_backbone("torchvision/resnet18")
        >>> [(tap.stage, tap.node, tap.channels, tap.size) for tap in found.taps[2:]]
        [(2, 'layer3', 256, (14, 14)), (3, 'layer4', 512, (7, 7))]
        >>> for line in found.lines:
        ...     print(line)
        import torchvision
        from aimwrap import AIM
        backbone = torchvision.models.get_model("resnet18", weights="DEFAULT")
        model = AIM(backbone, stages=[2, 3], num_classes=1000, tau=0.25)
    """
    name = backbone if isinstance(backbone, str) else type(backbone).__name__
    if isinstance(backbone, str):
        backbone = import_backbone(backbone) if is_import_path(backbone) else create_backbone(backbone)
    backbone = unwrapped(backbone)
    measured = probe(backbone, example_input)
    found = find_stages(backbone, measured)
    num_classes = number_of_classes(backbone, measured)
    if not found.blocks and (found.obstacle is not None or not found.nodes):
        AIM(backbone, [0], num_classes=UNKNOWN_CLASSES, example_input=example_input)  # says what prevents it
    models = [
        AIM(backbone, stages, num_classes=num_classes or UNKNOWN_CLASSES, head=head, example_input=example_input)
        for stages in _choices(found)
    ]
    return Inspection(
        name,
        num_classes,
        tuple(measured.image_shape[1:]),
        measured.parameters,
        measured.macs,
        models[-1].taps,
        f"{found.found_by}; one resolution, so numbers count its {len(found.blocks)} blocks"
        if _counts_blocks(found)
        else found.found_by,
        head,
        {model.stages: model.cost() for model in models},
    )


def _counts_blocks(found: Stages) -> bool:
    return bool(found.blocks) and len(found.nodes) < 2


def _choices(found: Stages) -> list[list[Stage]]:
    """Choices of stages, from the deepest alone to all of them; of blocks, three of them by thirds, and fewer."""
    if _counts_blocks(found):
        count = len(found.blocks)
        indices = sorted({round(count * share / 3) - 1 for share in (1, 2, 3)} - {-1})
        stages: list[Stage] = [index if count - 1 > HIGHEST_STAGE else found.blocks[index].node for index in indices]
    else:
        stages = list(sorted(found.nodes))
    return [stages[first:] for first in reversed(range(len(stages)))]


def import_backbone(path: str) -> nn.Module:
    """A copy of the module ``package.module:name``, or what that function or class builds without arguments."""
    try:
        found = _named(path)
    except Exception as error:  # of custom code, which may raise anything
        why = error if isinstance(error, ImportError | AttributeError | ValueError) else repr(error)
        raise ValueError(
            f"backbone: {path!r} cannot be imported: {why}. Write package.module:name, with a module that "
            "can be imported from the current folder, or the name of a model of timm or torchvision"
        ) from error
    try:
        built = copy.deepcopy(found) if isinstance(found, nn.Module) or not callable(found) else found()
    except Exception as error:
        raise ValueError(
            f"backbone: {path!r} was found, but calling it without arguments fails: {error!r}. Name an nn.Module, "
            "or a function that builds one without arguments"
        ) from error
    if not isinstance(built, nn.Module):
        raise TypeError(f"backbone: {path!r} must be an nn.Module or build one without arguments, got {type(built)}")
    return built


def _named(path: str) -> Any:
    """What ``package.module:name`` names; ``pkgutil.resolve_name`` refuses files such as ``my-net.py``."""
    place, _, attribute = path.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(place))


def _lines_that_build(name: str) -> tuple[str, str]:
    """What is imported, and the line with the backbone."""
    if is_import_path(name):
        place, _, attribute = name.partition(":")
        made = attribute if isinstance(_named(name), nn.Module) else f"{attribute}()"
        return f"from {place} import {attribute.partition('.')[0]}", f"backbone = {made}"
    try:
        library, model = find_builder(name)
    except ValueError:  # the name of a class
        return f"# import {name}, which is your own", f"backbone = {name}(...)"
    if library == "timm":
        return "import timm", f'backbone = timm.create_model("{model}", pretrained=True)'
    return "import torchvision", f'backbone = torchvision.models.get_model("{model}", weights="DEFAULT")'
