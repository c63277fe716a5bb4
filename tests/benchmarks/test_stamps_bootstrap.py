"""The study's statistics: values by hand, intervals that widen with dependence, pairing."""

import sys
from pathlib import Path

import numpy as np
import pytest

STAMPS = Path(__file__).parents[2] / "benchmarks" / "stamps"
if not STAMPS.is_dir():
    pytest.skip("the benchmarks come with a checkout, not with the package's sources", allow_module_level=True)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(STAMPS), *sys.path])
    from bootstrap import DRAWS, _draws_of, _weights, by_setting, difference, estimate


def run(seed: int, right: list[int], cutout: list[int], group: list[int], **config: object) -> dict:
    images = {"right": right, "cutout": cutout, "group": group, "pointing": [value / 2 for value in right]}
    return {"config": {"seed": seed, **config}, "images": images}


GROUPS = [0, 0, 1, 1, 2, 2, 3, 3]
CUTOUTS = [0, 1, 0, 1, 5, 6, 5, 6]  # birds 0 and 1, mammals 5 and 6, each in both places


def test_values_by_hand() -> None:
    runs = [run(0, [1, 1, 1, 0, 1, 1, 1, 1], CUTOUTS, GROUPS), run(1, [1, 0, 0, 0, 1, 1, 1, 1], CUTOUTS, GROUPS)]
    assert estimate(runs, "accuracy").mean == pytest.approx((7 / 8 + 5 / 8) / 2)
    assert estimate(runs, "worst_group").seeds == pytest.approx((0.5, 0.0))
    assert estimate(runs, "pointing").mean == pytest.approx((7 / 16 + 5 / 16) / 2)


def test_a_draw_repeats_complete_cutouts_within_their_label() -> None:
    weights = _weights(np.array(CUTOUTS), np.array(GROUPS), 0)
    assert weights.shape == (1 + DRAWS, 8)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 5] == weights[:, 7]).all()
    assert (weights[:, 0] + weights[:, 1] == 2).all() and (weights[:, 4] + weights[:, 5] == 2).all()
    assert {0, 1, 2} == set(weights[:, 0])


def test_the_interval_is_that_of_cutouts_and_not_of_images() -> None:
    """One cut-out right in all of its 50 images, another wrong: two things were seen, not a hundred."""
    cutouts = [0] * 50 + [1] * 50 + [5, 6] * 50
    groups = [0, 1] * 50 + [2, 3] * 50
    got = estimate([run(0, [1] * 50 + [0] * 50 + [1] * 100, cutouts, groups)], "accuracy")
    assert (got.mean, got.low, got.high) == pytest.approx((0.75, 0.5, 1.0))


def test_differences_are_paired() -> None:
    first = [run(s, [1, 0, 1, 0, 1, 1, 0, 1], CUTOUTS, GROUPS) for s in (0, 1)]
    same = difference(first, first[::-1], "accuracy")
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    better = [run(s, [1, 1, 1, 1, 1, 1, 1, 1], CUTOUTS, GROUPS) for s in (0, 1)]
    gain = difference(better, first, "accuracy")
    assert gain.mean == pytest.approx(3 / 8)
    assert gain.low > 0
    assert difference(first, better, "accuracy").mean == pytest.approx(-3 / 8)


def test_the_draws_depend_on_the_seed_only() -> None:
    one = run(3, [1, 0, 1, 0, 1, 1, 0, 1], CUTOUTS, GROUPS)
    assert (_draws_of(one, "worst_group") == _draws_of(one, "worst_group")).all()


def test_settings_differ_by_everything_except_the_seed() -> None:
    runs = [run(s, [1], [0], [0], rate=rate) for s in (1, 0) for rate in (0.1, 0.2)]
    settings = list(by_setting(runs, lambda config: True).values())
    assert [[r["config"]["seed"] for r in each] for each in settings] == [[0, 1], [0, 1]]
    assert len(list(by_setting(runs, lambda config: config["rate"] == 0.1))) == 1
