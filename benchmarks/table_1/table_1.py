"""The paper's Table 1: data sets x plain and AIM [stage, area] x seeds; resumable, then tables and a figure.

    python benchmarks/table_1/table_1.py --data waterbirds-95 data/waterbird_complete95_forest2water2 \\
        --data stamps-95 data/stamps95 --seeds 5 --out runs/table_1
    python benchmarks/table_1/table_1.py --out runs/table_1 --report

If it is interrupted, the same command continues; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import typer
from columns import OTHERS, PAPER, column_of
from lightning.fabric import Fabric
from rows import TABLE_1, row_of
from runs import Cell, cell_and_settings, do, read_records
from tables import PAPERS_BACKBONE, draw, write_tables

from aimwrap._choices import Design
from aimwrap.cli.options import import_from_here, parse_seeds
from aimwrap.data.registry import parse_reader_arguments
from aimwrap.train import CheckpointError, DivergedError, Settings, launched_fabric


def main(given: Sequence[str] | None = None) -> int:
    """Do the runs that are missing, then report; returns the exit code."""
    arguments = _arguments(given)
    failures: list[str] = []
    is_first = True
    try:
        read_records(arguments.out)  # before hours of training
        if arguments.data:
            jobs = _jobs(arguments)
            fabric = launched_fabric(jobs[0][1].precision, arguments.devices, accelerator=arguments.accelerator)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.data:
        failures = _do(jobs, arguments, fabric)
        is_first = fabric.is_global_zero
    if is_first:
        _report(arguments.out)
        for failure in failures:
            print(failure, file=sys.stderr)
    return 1 if failures else 0


def _jobs(arguments: argparse.Namespace) -> list[tuple[Cell, Settings]]:
    """All runs, seed by seed, so that a table with few seeds is complete early."""
    for name, root, *more in arguments.data:
        column_of(name).check(root, parse_reader_arguments(more))
    return [
        cell_and_settings(
            column_of(name),
            {"root": root, "reader": parse_reader_arguments(more)},
            backbone,
            row_of(row),
            arguments.design,
            seed,
            _settings(arguments),
        )
        for seed in arguments.seeds
        for name, root, *more in arguments.data
        for backbone in arguments.backbone
        for row in arguments.rows.split(",")
    ]


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    found = parse_reader_arguments(arguments.set)
    fixed = {"data", "root", "reader", "backbone", "seed", "method", "stages", "tau", "design"}
    if fixed & found.keys():
        raise ValueError(f"--set {sorted(fixed & found.keys())[0]}=... is for the other options and the rows to say")
    about = {each.name: each.metadata for each in fields(Settings)}
    found = {
        name: about[name]["parse"](str(value)) if "parse" in about.get(name, ()) else value
        for name, value in found.items()
    }
    return found if arguments.preset is None else {**found, "preset": arguments.preset}


def _do(jobs: Sequence[tuple[Cell, Settings]], arguments: argparse.Namespace, fabric: Fabric) -> list[str]:
    """Run after run; what fails is said at the end, and the others go on."""
    failures = []

    def say(text: str) -> None:
        if fabric.is_global_zero:
            print(text, flush=True)

    for cell, settings in jobs:
        try:
            do(cell, settings, arguments.out, fabric, arguments.workers, say, arguments.keep_masks)
        except (CheckpointError, DivergedError, ImportError, OSError, TypeError, ValueError) as error:
            say(f"{cell}: {error}")
            failures.append(f"{cell}: {error}")
    return failures


def _report(out: Path) -> None:
    records = read_records(out)
    text = write_tables(records)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table_1.md").write_text(text, encoding="utf-8")
    print(text)
    if records:
        draw(records).savefig(out / "table_1.png")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    columns = ", ".join(column.name for column in (*PAPER, *OTHERS))
    parser.add_argument(
        "--data",
        action="append",
        nargs="+",
        default=[],
        metavar="COLUMN ROOT [NAME=VALUE]",
        help=f"a data set and its folder, as often as you like: {columns}, or any name for a set that aimwrap data "
        "build wrote; NAME=VALUE is for its reader, as in aimwrap train",
    )
    parser.add_argument("--rows", default=",".join(TABLE_1), help="plain, or STAGE-PERCENT by the paper's count")
    parser.add_argument("--backbone", nargs="+", default=[PAPERS_BACKBONE], help="names, or package.module:function")
    parser.add_argument("--design", choices=get_args(Design), default="paper", help="of AIM's masks (default: paper)")
    parser.add_argument("--seeds", type=_seeds, default="3", help="number of seeds, or a list such as 0,3,7")
    parser.add_argument("--preset", help="one preset for all columns; aimwrap train --presets lists them")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings, such as epochs=30")
    parser.add_argument("--out", type=Path, default=Path("runs/table_1"), help="folder of the runs and the table")
    parser.add_argument("--report", action="store_true", help="write the table of the finished runs, and run nothing")
    parser.add_argument("--devices", type=int, help="GPUs, or processes on a CPU; default: all GPUs")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images")
    parser.add_argument(
        "--keep-masks", type=int, default=0, help="test images whose masks each epoch writes (figures.py)"
    )
    arguments = parser.parse_args(given)
    if arguments.report == bool(arguments.data):
        parser.error("give the data sets by --data, or --report for what is done")
    if any(len(data) < 2 for data in arguments.data):
        parser.error("--data needs a column and its folder: --data waterbirds-95 data/waterbirds")
    return arguments


def _seeds(text: str) -> list[int]:
    try:
        return parse_seeds(text)
    except typer.BadParameter as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    import_from_here()
    sys.exit(main())
