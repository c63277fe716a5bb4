"""The table's rows: the plain backbone, and AIM by the stage where its top-down path ends, and by its area."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from aimwrap.backbones.create import create_backbone
from aimwrap.backbones.inspection import import_backbone
from aimwrap.taps import find_stages, probe

TABLE_1 = ("plain", "1-25", "1-35", "2-25", "2-35")


class Row(NamedTuple):
    """A variant.

    Attributes:
        stage: the shallowest of its stages, by the paper's count; None for the plain backbone.
        percent: tau.
    """

    stage: int | None = None
    percent: float | None = None

    @property
    def name(self) -> str:
        """On the command line and among the results."""
        return "plain" if self.stage is None else f"{self.stage}-{self.percent:g}"

    @property
    def title(self) -> str:
        """In the paper's notation."""
        return "plain" if self.stage is None else f"AIM [{self.stage}, {self.percent:g}%]"

    def settings(self, backbone: str, design: str) -> dict[str, Any]:
        """What it sets of ``aimwrap.train.Settings``."""
        if self.stage is None or self.percent is None:
            return {"method": "plain"}
        stages = stages_from(backbone, self.stage)
        area = self.percent / 100
        return {"method": "aim", "stages": stages, "tau": (area,), "design": design}


def row_of(name: str) -> Row:
    """A row by its name.

    >>> row_of("2-25").title
    'AIM [2, 25%]'
    """
    if name == "plain":
        return Row()
    stage, dash, percent = name.partition("-")
    try:
        if not (dash and stage.isdecimal() and 0 < float(percent) <= 100):
            raise ValueError
    except ValueError:
        raise ValueError(f"a row must be plain or STAGE-PERCENT, such as 2-25 for AIM [2, 25%]; got {name!r}") from None
    return Row(int(stage), float(percent))


@cache
def stages_from(backbone: str, stage: int) -> tuple[int, ...]:
    """The backbone's stages, from the one that the paper would give this number to the deepest.

    The paper counts a ResNet's stem, so that its stage 2 is 1 here; a ConvNeXt's stages have the same numbers.

    Raises:
        ValueError: if the backbone has no such stage, or none with numbers.
    """
    module = import_backbone(backbone) if ":" in backbone else create_backbone(backbone)
    found = find_stages(module, probe(module))
    numbers = {number + found.levels_before_stage_0: number for number in sorted(found.nodes)}
    if found.obstacle is not None or stage not in numbers:
        have = ", ".join(map(str, numbers)) or "none"
        raise ValueError(f"{backbone} has no stage {stage} by the paper's count; it has {have}")
    return tuple(number for number in sorted(found.nodes) if number >= numbers[stage])
