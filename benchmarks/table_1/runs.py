"""One run per cell and seed, each in its own folder, and a JSON line for each finished run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from columns import Column
from lightning.fabric import Fabric
from rows import Row

from aimwrap._files import replacing
from aimwrap.cli.train import settings_of
from aimwrap.train import Settings, run_training
from aimwrap.train.report import format_epoch
from aimwrap.train.settings import differences

RESULTS = "results.jsonl"
Record = dict[str, Any]


class Cell(NamedTuple):
    """The place of a run in the table.

    Attributes:
        column: the data set's name.
        backbone: as the settings have it.
        row: the variant's name.
        design: of AIM; None for the plain backbone.
        seed: of the run.
    """

    column: str
    backbone: str
    row: str
    design: str | None
    seed: int

    @property
    def folder(self) -> Path:
        """Of the run, within that of all."""
        backbone = self.backbone.replace("/", "-").replace(":", "-")
        variant = self.row if self.design is None else f"aim-{self.row}-{self.design}"
        return Path(self.column, backbone, variant, f"seed-{self.seed}")

    def __str__(self) -> str:
        design = "" if self.design is None else f", design {self.design}"
        return f"{self.column}, {self.backbone}, {self.row}{design}, seed {self.seed}"


def cell_and_settings(
    column: Column, place: dict[str, Any], backbone: str, row: Row, design: str, seed: int, given: dict[str, Any]
) -> tuple[Cell, Settings]:
    """A run's place and its settings.

    Args:
        column: the data set.
        place: its ``root`` and what else its ``reader`` takes.
        backbone: its name.
        row: the variant.
        design: of AIM.
        seed: of the run.
        given: settings that win over the column's recipe; ``preset`` names another.
    """
    own = {name: value for name, value in given.items() if name != "preset"}
    fixed = {"data": column.reader, **place, "backbone": backbone, "seed": seed, **row.settings(backbone, design)}
    settings = settings_of(given.get("preset", column.preset), {**own, **fixed})
    return Cell(column.name, backbone, row.name, None if row.stage is None else design, seed), settings


def read_records(out: Path) -> list[Record]:
    """The lines so far.

    Raises:
        ValueError: if an older version of this benchmark wrote them.
    """
    path = out / RESULTS
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    if any("design" not in line for line in lines):
        raise ValueError(f"{path} is of an older version, which had no designs; name another folder by --out")
    return lines


def cell_of(record: Record) -> Cell:
    """The place of a line's run in the table."""
    return Cell(**{name: record[name] for name in Cell._fields})


def do(
    cell: Cell,
    settings: Settings,
    out: Path,
    fabric: Fabric,
    workers: int,
    say: Callable[[str], None],
    keep_masks: int = 0,
) -> None:
    """Do what is missing of a run, and add its line.

    Raises:
        ValueError: if it, or another seed of it, was done with other settings.
    """
    done = {cell_of(record): Settings.from_json(record["settings"]) for record in read_records(out)}
    for known, was_done in done.items():
        if known._replace(seed=cell.seed) == cell:  # a row of the table has seeds of one setting
            other = differences(replace(was_done, seed=settings.seed), settings)
            if other:
                listed = "; ".join(f"{name} was {was!r} and is {now!r}" for name, (was, now) in other.items())
                raise ValueError(f"{known} was done with other settings: {listed}. Name another folder by --out")
    if cell in done:
        return
    say(str(cell))

    def report(line: dict[str, Any], seconds: float) -> None:
        say(f"  {format_epoch(line, seconds)}")

    result = run_training(
        settings, out / cell.folder, fabric, workers=workers, report=report, say=say, keep_masks=keep_masks
    )
    if fabric.is_global_zero:
        record = {**result._asdict(), **cell._asdict(), "settings": settings.to_json()}
        with replacing(out / RESULTS) as path:  # complete or not at all
            path.write_text("".join(f"{json.dumps(line)}\n" for line in (*read_records(out), record)), encoding="utf-8")
    fabric.barrier()
