"""The study's results: one JSON line per run, in results/<part>.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from variants import Config

import aimwrap

RESULTS = Path(__file__).parent / "results"


def results_of(part: str) -> Path:
    return RESULTS / f"{part}.jsonl"


def read_results(path: Path) -> list[dict[str, Any]]:
    """The runs of a part; settings that are newer than a run have their defaults.

    Runs without a version of aimwrap were measured before 0.1.0. Their pointing was corrected to leave out heatmaps
    without positive values. Their pointing at one resolution had another definition and was removed.
    """
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for record in records:
        config = record["config"]
        record["config"] = Config(config["method"], config["tie"], config["seed"]).key | config
    return records


def append_result(path: Path, record: dict[str, Any]) -> None:
    """Add a run, with the versions that it was made with."""
    path.parent.mkdir(exist_ok=True)
    versions = {"torch": torch.__version__, "aimwrap": aimwrap.__version__}
    with path.open("a") as file:
        file.write(json.dumps(record | versions, separators=(",", ":")) + "\n")
