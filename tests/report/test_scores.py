"""Scores, intervals and differences against numbers made by hand."""

import math

import pytest
import torch
from torch import Tensor

from aimwrap.analysis.intervals import wilson_interval
from aimwrap.report.measuring import NAMES, Groups, Measured, Score, differences, group_rows, scores_of

LABELS = torch.tensor([0] * 10 + [1] * 10)
NUMBERS = torch.tensor([0] * 6 + [1] * 4 + [2] * 10)
GROUPS = Groups(NUMBERS, ("a, land", "a, water", "b, land", "b, water"), True, torch.tensor([30, 10, 60, 0]))
RIGHT = torch.tensor([True] * 6 + [True, False, False, False] + [True] * 9 + [False])


def measured(right: Tensor = RIGHT, masks: bool = True, pointing: Tensor | None = None) -> Measured:
    values = torch.linspace(0.1, 0.9, 20)
    nothing = torch.full((20,), math.nan)
    seen = nothing if pointing is None else pointing
    overlap = values if masks else nothing
    chance = torch.linspace(0, 0.5, 20).where(~seen.isnan(), math.nan)
    predicted = torch.where(right, LABELS, 1 - LABELS)
    return Measured(predicted, right, values, values, seen, seen - 0.1, overlap, overlap, overlap, chance, nothing)


def by_key(scores: list[Score]) -> dict[str, Score]:
    return {score.key: score for score in scores}


def scores(of: Measured, groups: Groups = GROUPS, objects: str | None = "masks") -> dict[str, Score]:
    return by_key(scores_of(of, groups, LABELS, objects, (7, 7)))


def test_accuracies_and_their_intervals() -> None:
    found = scores(measured(pointing=torch.rand(20)))
    assert list(found) == list(NAMES)
    assert found["average"][1:5] == (pytest.approx(0.8), *wilson_interval(16, 20), 20)
    assert found["worst_group"][1:5] == (0.25, *wilson_interval(1, 4), 4)
    assert "group that does worst: a, water." in found["worst_group"].explained
    weighted = found["weighted_average"]
    assert weighted.value == pytest.approx(0.3 * 1 + 0.1 * 0.25 + 0.6 * 0.9)
    assert weighted.low is not None and weighted.high is not None
    assert 0.6 < weighted.low < weighted.value < weighted.high <= 0.3 + 0.1 + 0.6


def test_means_leave_out_what_is_undefined() -> None:
    pointing = torch.full((20,), 0.5)
    pointing[:5] = math.nan
    pointing[5:10] = 1.0
    found = scores(measured(pointing=pointing))
    assert found["energy_pointing"].n == found["chance"].n == 15
    assert found["energy_pointing"].value == pytest.approx(2 / 3)
    assert found["chance"].value == pytest.approx(torch.linspace(0, 0.5, 20)[5:].mean().item())
    low, high = found["energy_pointing"].low, found["energy_pointing"].high
    assert low is not None and high is not None and 0.5 < low < 2 / 3 < high < 0.85


def test_what_is_undefined_is_none_and_says_why() -> None:
    found = scores(measured(masks=False), objects=None)
    for key in ("energy_pointing", "energy_pointing_matched", "chance", "mask_precision", "mask_recall", "area"):
        assert found[key][1:5] == (None, None, None, 0)
        assert found[key].as_dict()["value"] is None and found[key].explained.startswith("Undefined: ")
    assert "neither masks nor boxes" in found["energy_pointing"].explained and "no masks" in found["area"].explained
    untrained = GROUPS._replace(train_counts=torch.tensor([30, 10, 60, 1]))  # trained on a group without images here
    assert scores(measured(), untrained)["weighted_average"].value is None
    assert scores(measured(), GROUPS._replace(train_counts=None))["weighted_average"].value is None


def test_classes_stand_in_for_groups() -> None:
    groups = Groups(LABELS, ("cat", "dog"), False, None)
    worst = scores(measured(), groups)["worst_group"]
    assert worst.value == pytest.approx(0.7) and "class (the data set knows no groups) that does worst: cat" in (
        worst.explained
    )


def test_group_rows() -> None:
    rows = group_rows(measured(), LABELS, GROUPS)
    assert [(row["images"], row["train_images"], row["accuracy"]) for row in rows] == [
        (6, 30, 1.0),
        (4, 10, 0.25),
        (10, 60, 0.9),
        (0, 0, None),
    ]
    assert (rows[1]["low"], rows[1]["high"]) == wilson_interval(1, 4) and rows[3]["low"] is None


def test_a_model_does_not_differ_from_itself() -> None:
    one = measured(pointing=torch.rand(20))
    for score in differences(one, one, LABELS, GROUPS):
        assert score[1:4] == (0, 0, 0), score.key


def test_differences_are_paired() -> None:
    pointing = torch.rand(20)
    one, other = measured(pointing=pointing + 0.05), measured(~RIGHT, pointing=pointing)
    found = by_key(differences(one, other, LABELS, GROUPS))
    assert found["energy_pointing"][1:4] == pytest.approx((0.05, 0.05, 0.05))  # though each alone varies widely
    assert found["average"].value == pytest.approx(0.8 - 0.2)
    assert found["worst_group"].value == pytest.approx(0.25 - 0.0)
    assert found["weighted_average"].value == pytest.approx(0.865 - 0.135)
    low, high = found["average"].low, found["average"].high
    assert low is not None and high is not None and low < 0.6 < high
    assert "chance" not in found


def test_differences_are_of_what_both_have() -> None:
    found = by_key(differences(measured(), measured(masks=False), LABELS, GROUPS))
    assert list(found) == ["average", "worst_group", "weighted_average"]
