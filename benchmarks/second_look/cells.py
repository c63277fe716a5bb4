"""The study's cells (set x network x tie), who runs which, and their results: one JSON line per cell and seed."""

from __future__ import annotations

import fcntl
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RESULTS = Path(__file__).parent / "results"
SETS = ("stamps", "stamps-small", "digits")
NETWORKS = ("lite0", "lite2")
TIES = (0.95, 1.0)
SEEDS = (0, 1, 2, 3, 4)
CELLS = tuple(itertools.product(SETS, NETWORKS, TIES))
PLAIN, AIM_ALONE, LOOK, ORACLE = "linear probe", "AIM", "second look", "no background"
OWN = "second look, no copies"
SEARCHED = (PLAIN, OWN, LOOK, ORACLE)
DEFAULT = {"epochs": 20, "learning_rate": 3e-4}  # of `aimwrap train --second-look`

Run = dict[str, Any]


class Job(NamedTuple):
    """What is trained by one process, from the images to the last probe."""

    set: str
    network: str
    tie: float
    seed: int

    def __str__(self) -> str:
        return f"{self.set}, {self.network}, tie {self.tie:g}, seed {self.seed}"


def path_of(results: Path, job: Job) -> Path:
    """The file of its line."""
    return results / f"{job.set}-{job.network}.jsonl"


def lines_of(path: Path) -> list[Run]:
    if not path.exists():
        return []
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # not while another process adds a line
        return [json.loads(line) for line in file]


def is_done(results: Path, job: Job) -> bool:
    return any(Job(*(line[name] for name in Job._fields)) == job for line in lines_of(path_of(results, job)))


@contextmanager
def claim(results: Path, job: Job) -> Iterator[bool]:
    """Whether this process may run the job. The system ends a claim with its process, even with one that is killed."""
    claims = results / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    with (claims / f"{job.set}-{job.network}-{job.tie:g}-{job.seed}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def append_line(results: Path, job: Job, found: dict[str, Any]) -> None:
    """Add a finished job to its file, which other processes add to as well."""
    line = json.dumps(job._asdict() | found, separators=(",", ":")) + "\n"
    with path_of(results, job).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line)


def read_runs(results: Path = RESULTS) -> list[Run]:
    """All runs, as the tables of Stamps read them: the cell, seed and setting of each, its scores and its images."""
    return [run for path in sorted(results.glob("*.jsonl")) for line in lines_of(path) for run in runs_of(line)]


def runs_of(line: Run) -> list[Run]:
    """The runs of one cell and seed."""
    cell = {name: line[name] for name in Job._fields}
    groups = np.array(line["group"])
    runs = []
    for run in line["runs"]:
        right = np.array([int(digit) for digit in run["right"]])
        config = {name: value for name, value in run.items() if name != "right"}
        images = {"right": right, "group": groups, "cutout": line["cutout"]}
        by_group = [right[groups == group].mean() for group in range(4)]
        scores = {"accuracy": float(right.mean()), "worst_group": float(min(by_group))}
        runs.append({"config": cell | config, **scores, "images": images})
    return runs
