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
    from bootstrap import DRAWS, Estimate, _draws_of, _weights, by_setting, difference, estimate
    from report import rule, verdict


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


@pytest.mark.parametrize(
    ("at_95", "at_100", "said"),
    [
        ((0.01, 0.10), (-0.05, 0.05), "our design is better in worst group"),
        ((-0.02, 0.10), (0.01, 0.05), "our design is better in worst group"),
        ((0.01, 0.10), (-0.05, -0.01), "neither design is better"),
        ((-0.01, 0.10), (-0.05, 0.01), "neither design is better"),
        ((-0.10, -0.01), (-0.05, 0.05), "the paper's design is better in worst group"),
    ],
)
def test_a_design_is_better_if_off_zero_at_one_tie_and_not_worse_at_the_other(
    at_95: tuple[float, float], at_100: tuple[float, float], said: str
) -> None:
    assert verdict({"worst group": [Estimate(sum(ends) / 2, *ends, ()) for ends in (at_95, at_100)]}) == said


def test_one_tie_is_no_verdict() -> None:
    assert verdict({"worst group": [Estimate(0.1, 0.05, 0.15, ())]}) == "neither design is better"


def test_the_rule_compares_what_both_designs_have() -> None:
    """Ours is best at 6 epochs, but the paper's was run at 20 alone, and with one seed of two."""

    def trained(right: int, epochs: int, seed: int) -> dict:
        searched = {"epochs": epochs, "learning_rate": 0.001, "backbone_rate": 0.0, "norms": "kept"}
        made = run(seed, [right] * 8, CUTOUTS, GROUPS, method="aim", tie=1.0, tau=0.1, **searched)
        made["images"]["precision"] = [0.5] * 8
        return made | {"worst_group": right, "precision": 0.5, "areas": {"2": 0.99, "3": 0.1}}

    ours = [trained(1, 6, 0), trained(0, 20, 0), trained(0, 20, 1)]
    table = rule(ours, [trained(1, 20, 1)])
    assert "| frozen | 100\N{NO-BREAK SPACE}% (1 seed) | 20 epochs at 0.001; 1 of 1 seeds with a dead mask |" in table
    assert "-1.000 [-1.000,\N{NO-BREAK SPACE}-1.000]" in table
    assert "6 epochs" not in table and "trained" not in table
