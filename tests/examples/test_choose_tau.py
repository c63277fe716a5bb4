"""Choosing tau: the sweep goes down until it costs too much or masks die, and says when the validation cannot tell."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from tiny import SMALL, SMALL_BACKBONE, Made, Run

SWEEP = SMALL | SMALL_BACKBONE | {
    "TAUS = (1.0, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)": "TAUS = (1.0, 0.6, 0.3)",
    "SEEDS, EPOCHS, ANNEAL_EPOCHS = 3, 12, 4": "SEEDS, EPOCHS, ANNEAL_EPOCHS = 1, 2, 1",
}  # fmt: skip
HEALTHY = {"health.report()": "[]"}  # after one epoch on noise no mask is


@pytest.mark.parametrize(
    ("changes", "tried", "chosen"),
    [
        pytest.param({"COST = 0.01": "COST = 1.0"} | HEALTHY, [1.0, 0.6, 0.3], 0.3, id="all are affordable"),
        pytest.param({"COST = 0.01": "COST = -1.1"} | HEALTHY, [1.0, 0.6], 1.0, id="none is"),
        pytest.param({"COST = 0.01": "COST = 1.0"}, [1.0, 0.6, 0.3], 0.6, id="masks are off tau"),
    ],
)
def test_the_sweep_ends_in_time(
    changes: Mapping[str, str],
    tried: list[float],
    chosen: float,
    image_folder: Path,
    tmp_path: Path,
    run: Run,
    made: Made,
) -> None:
    printed = run("choose_tau.py", image_folder, changes=SWEEP | changes)
    costs = dict(re.findall(r"tau ([\d.]+): accuracy [\d.]+, cost ([+-][\d.]+) ±", printed))
    assert list(map(float, costs)) == tried and float(costs["1.0"]) == 0
    assert re.search(rf"the smallest that costs at most [\d.-]+: tau {chosen}\n", printed)
    assert ("too few to measure such a cost" in printed) == ("-1.1" in changes.get("COST = 0.01", ""))
    assert ("the mask of stage" in printed) == ("health.report()" not in changes)
    assert [model.tau[0] for model in made.models[1:]] == tried
    with Image.open(tmp_path / "masks.png") as picture:
        assert picture.height > 2 * 160  # the images, and below them what the masks keep
