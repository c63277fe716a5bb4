"""The torchmetrics classes: equal to the pure functions for any batches and in two processes; the missing extra."""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import aimwrap
import aimwrap.metrics as functions
from aimwrap.metrics import EnergyPointingGame, GroupAccuracy, MaskOverlap, PointingGame

COUNT = 14


def expected_results() -> dict[str, dict[str, Tensor]]:
    """The same by the pure functions on all images at once."""
    data = two_processes.images(COUNT)
    heatmaps, objects = data["heatmaps"], data["object_masks"]
    scores, chance = functions.energy_pointing_game(heatmaps, objects), functions.chance_level(objects)
    misses = functions.energy_pointing_game(
        heatmaps, objects, threshold=None, zero_energy=0, empty_object=0, resolution=(4, 4)
    )
    soft_chance = functions.chance_level(objects, threshold=None)
    one = torch.tensor(1)
    overlap = {
        "precision": functions.mask_precision(data["masks"], objects).nanmean(),
        "recall": functions.mask_recall(data["masks"], objects).nanmean(),
        "iou": functions.mask_iou(data["masks"], objects).nanmean(),
        "empty_mask": one,
        "empty_object": one,
    }
    classified = data["predictions"], data["labels"]
    groups = data["groups"]
    accuracies = functions.group_accuracies(*classified, groups, two_processes.NUM_GROUPS)
    return {
        "pointing": {
            "energy_pointing": scores.nanmean(),
            "chance": chance[~scores.isnan()].mean(),
            "area_corrected": functions.area_corrected(scores, chance).nanmean(),
            "zero_energy": one,
            "empty_object": one,
        },
        "pointing_as_misses": {
            "energy_pointing": misses.mean(),
            "chance": soft_chance.mean(),
            "area_corrected": functions.area_corrected(misses, soft_chance).mean(),
            "zero_energy": one,
            "empty_object": one,
        },
        "maximum": {
            "pointing": functions.pointing_game(heatmaps, objects, tolerance=1).nanmean(),
            "constant_map": one,
            "empty_object": one,
        },
        "overlap": overlap,
        "groups": {
            **{f"group_{group}": accuracy for group, accuracy in enumerate(accuracies)},
            "worst_group": functions.worst_group_accuracy(*classified, groups, two_processes.NUM_GROUPS),
            "average": functions.average_accuracy(*classified),
            "weighted_average": functions.weighted_average_accuracy(*classified, groups, two_processes.TRAIN_COUNTS),
        },
        "per_image": {"sorted": scores.nan_to_num(nan=math.inf).sort().values},
    }


def assert_results(actual: dict[str, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(actual, expected_results(), equal_nan=True)


@settings(max_examples=25)
@given(st.lists(st.integers(0, COUNT), max_size=5))
def test_any_batching_gives_what_the_functions_give(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), COUNT]  # equal neighbours make empty batches
    sizes = [end - start for start, end in itertools.pairwise(edges)]
    assert_results(two_processes.results(two_processes.split(two_processes.images(COUNT), sizes)))


def test_the_data_can_tell_a_mean_over_batches_from_a_mean_over_images() -> None:
    batches = two_processes.split(two_processes.images(COUNT), [2, 6, 1, COUNT - 9])
    per_batch = [two_processes.results([batch]) for batch in batches]
    expected = expected_results()
    for metric, name in (("pointing", "energy_pointing"), ("maximum", "pointing"), ("overlap", "iou")):
        mean_over_batches = torch.stack([result[metric][name] for result in per_batch]).nanmean()
        assert abs(mean_over_batches - expected[metric][name]) > 1e-3, metric


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric .* was called before:UserWarning")
def test_two_processes_with_uneven_numbers_of_images(tmp_path: Path) -> None:
    other = torch.multiprocessing.spawn(two_processes.work, args=(str(tmp_path), COUNT), nprocs=1, join=False)
    two_processes.work(1, str(tmp_path), COUNT)  # this process is the other one: a second import would take longer
    assert other.join()
    for rank in range(2):
        computed = torch.load(tmp_path / f"{rank}.pt")
        assert_results(computed["uneven"])
        assert_results(computed["nothing_in_one"])


def test_group_accuracy_by_hand() -> None:
    names = ["landbird on land", "landbird on water", "waterbird on land"]
    metric = GroupAccuracy(3, group_names=names, train_counts=[60, 30, 10])
    metric.update(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]), torch.tensor([0, 0]))
    metric.update(torch.tensor([1, 0, 1]), torch.tensor([1, 1, 1]), torch.tensor([1, 2, 2]))
    expected = {
        "landbird on land": 0.5,
        "landbird on water": 1.0,
        "waterbird on land": 0.5,
        "worst_group": 0.5,
        "average": 3 / 5,
        "weighted_average": 0.6 * 0.5 + 0.3 * 1.0 + 0.1 * 0.5,
    }
    assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(expected)


def test_group_accuracy_without_training_counts_has_no_weighted_average() -> None:
    metric = GroupAccuracy(1)
    metric.update(torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    assert list(metric.compute()) == ["group_0", "worst_group", "average"]


def test_undefined_images_are_counted_whether_or_not_they_enter_the_mean() -> None:
    heatmaps = torch.stack([torch.eye(2), torch.zeros(2, 2), torch.zeros(2, 2), torch.eye(2)])
    objects = torch.stack([torch.eye(2), torch.eye(2), torch.zeros(2, 2), torch.zeros(2, 2)])
    nan = math.nan
    for no_energy, no_object, mean, chance in ((nan, nan, 1.0, 0.5), (0.0, nan, 0.5, 0.5), (0.0, 0.5, 0.5, 0.25)):
        metric = EnergyPointingGame(zero_energy=no_energy, empty_object=no_object)
        metric.update(heatmaps, objects)
        computed = metric.compute()
        assert computed["energy_pointing"].item() == mean
        assert computed["chance"].item() == chance
        assert (computed["zero_energy"].item(), computed["empty_object"].item()) == (1, 2)
        pointing = PointingGame(tolerance=0, constant_map=no_energy, empty_object=no_object)
        pointing.update(heatmaps, objects)
        expected = {"pointing": mean, "constant_map": 1, "empty_object": 2}
        assert {name: value.item() for name, value in pointing.compute().items()} == expected


def test_values_per_image_are_kept_in_order_and_reset() -> None:
    metric = EnergyPointingGame(zero_energy=0.0)
    first, second = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    metric.update(first, torch.tensor([[[1, 0]]]))
    metric.update(second, torch.tensor([[[1, 0]], [[1, 0]]]))
    values = metric.per_image()
    assert values["energy_pointing"].tolist() == [0.25, 1.0, 0.0]
    assert values["chance"].tolist() == [0.5] * 3
    assert values["area_corrected"].tolist() == [-0.5, 1.0, -1.0]
    metric.reset()
    assert metric.per_image()["energy_pointing"].shape == (0,)


def test_forward_scores_the_batch_and_adds_it() -> None:
    metric, objects = EnergyPointingGame(), torch.tensor([[[1, 0]]])
    assert metric(torch.tensor([[[1.0, 3.0]]]), objects)["energy_pointing"].item() == 0.25
    assert metric(torch.tensor([[[3.0, 1.0]]]), objects)["energy_pointing"].item() == 0.75
    assert metric.compute()["energy_pointing"].item() == 0.5


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric .* was called before:UserWarning")
@pytest.mark.parametrize("metric", [EnergyPointingGame(), PointingGame(), MaskOverlap(), GroupAccuracy(2)])
def test_without_images_means_are_nan_and_counts_are_zero(metric: Any) -> None:
    for name, value in metric.compute().items():
        assert value.item() == 0 if name.startswith(("empty", "zero", "constant")) else value.isnan(), name


def test_options_are_handed_on() -> None:
    data = two_processes.images(COUNT)
    heatmaps, objects = data["heatmaps"], data["object_masks"]
    for options in (
        {"negatives": "abs"},
        {"threshold": 0.2},
        {"threshold": None},
        {"resolution": (2, 3)},
        {"interpolation": "nearest"},
    ):
        metric: Any = EnergyPointingGame(**options)
        metric.update(heatmaps, objects)
        expected = functions.energy_pointing_game(heatmaps, objects, **options)
        torch.testing.assert_close(metric.per_image()["energy_pointing"], expected, equal_nan=True, rtol=0, atol=0)
        assert not torch.equal(expected[5:], functions.energy_pointing_game(heatmaps, objects)[5:]), options
    for options in ({"threshold": 0.9}, {"tolerance": 0}, {"interpolation": "nearest"}):
        metric = PointingGame(**{"tolerance": 1, **options})
        metric.update(heatmaps, objects)
        expected = functions.pointing_game(heatmaps, objects, **{"tolerance": 1, **options})
        torch.testing.assert_close(metric.per_image(), expected, equal_nan=True)
    for options in ({"threshold": None}, {"threshold": 0.2}, {"empty": 0.5}):
        metric = MaskOverlap(**options)
        metric.update(data["masks"], objects)
        for name, function in (("precision", "mask_precision"), ("recall", "mask_recall"), ("iou", "mask_iou")):
            expected = getattr(functions, function)(data["masks"], objects, **options)
            torch.testing.assert_close(metric.per_image()[name], expected, equal_nan=True)


def test_a_collection_flattens_the_results() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    collection = torchmetrics.MetricCollection([EnergyPointingGame(), PointingGame(tolerance=1)], compute_groups=False)
    data = two_processes.images(COUNT)
    collection.update(data["heatmaps"], data["object_masks"])
    expected = expected_results()
    computed = collection.compute()
    for metric, name, key in (
        ("pointing", "energy_pointing", "EnergyPointingGame_energy_pointing"),
        ("maximum", "pointing", "PointingGame_pointing"),
    ):
        torch.testing.assert_close(computed[key], expected[metric][name])


def test_errors() -> None:
    with pytest.raises(ValueError, match="negatives must be one of 'clamp', 'abs', 'keep', got 'drop'"):
        EnergyPointingGame(negatives="drop")
    with pytest.raises(ValueError, match="interpolation must be one of 'bilinear', 'nearest', got 'cubic'"):
        PointingGame(interpolation="cubic")
    for names in (["a"], ["a", "a"], ["a", "average"]):
        with pytest.raises(ValueError, match="group_names must be 2 different names, none of them average"):
            GroupAccuracy(2, group_names=names)
    with pytest.raises(ValueError, match=r"train_counts must be one count per group, 2 in all, got \(3,\)"):
        GroupAccuracy(2, train_counts=[1, 2, 3])
    with pytest.raises(ValueError, match="num_groups must be a positive number, got 0"):
        GroupAccuracy(0)


def test_functions_need_no_torchmetrics_and_the_classes_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)  # importing it fails
    monkeypatch.setattr(aimwrap, "metrics", functions)  # put back afterwards
    for name in [name for name in sys.modules if name.startswith("aimwrap.metrics")]:
        monkeypatch.delitem(sys.modules, name)
    fresh = importlib.import_module("aimwrap.metrics")
    assert fresh is not functions
    assert fresh.chance_level(torch.ones(1, 2, 2)).tolist() == [1.0]
    for name in ("EnergyPointingGame", "PointingGame", "MaskOverlap", "GroupAccuracy"):
        with pytest.raises(ImportError, match=r'need torchmetrics: pip install "aimwrap\[metrics\]"'):
            getattr(fresh, name)
    with pytest.raises(AttributeError, match="no attribute 'EnergyPointing'"):
        fresh.EnergyPointing  # noqa: B018


def test_every_public_name_is_there() -> None:
    for name in functions.__all__:
        assert getattr(functions, name).__name__ == name


def test_groups_are_counted_in_half_precision() -> None:
    """After set_dtype() the counts were of that type, and float16 stops at 2,048."""
    metric = GroupAccuracy(num_groups=1).set_dtype(torch.float16)
    for count in (2048, 1, 1, 1):
        metric.update(*[torch.zeros(count, dtype=torch.long)] * 3)
    assert metric.images.tolist() == metric.correct.tolist() == [2051] and metric.compute()["average"] == 1
