"""Which epoch each rule keeps, what that is compared with, and that a run scores what it says."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

STAMPS = Path(__file__).parents[2] / "benchmarks" / "stamps"
if not STAMPS.is_dir():
    pytest.skip("the benchmarks come with a checkout, not with the package's sources", allow_module_level=True)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(STAMPS), *sys.path])
    import selection as study
    from variants import STAGES, Config, Data, maps_of

    from aimwrap import AIM


def epoch(number: int, right: str, **scores: float) -> dict[str, Any]:
    usual = {"accuracy": 0.9, "worst_class": 0.8, "survival": 0.7, "accuracy_there": 0.6, "area": 0.1}
    by_group = [int(right[group]) for group in range(4)]
    test = {"accuracy": sum(by_group) / 4, "worst_group": float(min(by_group)), "right": right}
    return {"epoch": number, **usual, **scores, "test": test}


def run_of(seed: int) -> dict[str, Any]:
    """Four images, one of each group; each rule has a reason of its own to keep an epoch."""
    epochs = [
        epoch(11, "1111", survival=0.9, area=0.3),
        epoch(12, "1110", worst_class=0.95, area=0.12),
        epoch(13, "0111", accuracy=0.95, area=0.2),
        epoch(14, "0011", accuracy=0.95, accuracy_there=0.8, area=0.05),
    ]
    images = {"cutout": [0, 0, 1, 1], "group": [0, 1, 2, 3]}
    return {"config": Config("aim", 1.0, seed).key, "held_out": 2, "epochs": epochs, "images": images}


def test_each_rule_keeps_its_epoch_and_of_equal_ones_the_later() -> None:
    kept = {rule: study.chosen(run_of(0), rule)["epoch"] for rule in study.RULES}
    assert list(kept.values()) == [14, 14, 12, 11, 14, 12, 11]
    assert study.kept(run_of(0), "survival")["images"]["right"] == [1, 1, 1, 1]


def test_the_table_compares_with_the_choice_by_accuracy() -> None:
    table = [row.removeprefix("| ").removesuffix(" |").split(" | ") for row in study.table_of([run_of(0)]).splitlines()]
    rows = {cells[1]: cells for cells in table}
    assert rows["survival (1 seed)"][3].startswith("1.000 ") and rows["survival (1 seed)"][4].startswith("+1.000 ")
    assert rows["accuracy (1 seed)"][3].startswith("0.000 ") and rows["accuracy (1 seed)"][4:] == ["", "14"]


def test_a_share_of_each_class_is_held_out_by_the_seed() -> None:
    labels = torch.arange(40) % 4 // 3
    out = study.held_out(labels, 0)
    assert [int(out[labels == label].sum()) for label in (0, 1)] == [6, 2]
    assert torch.equal(out, study.held_out(labels, 0)) and not torch.equal(out, study.held_out(labels, 1))


def test_a_run_scores_the_epochs_in_which_tau_has_its_target() -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("test_resnet", num_classes=2).eval()
    images, labels = torch.randn(10, 3, 96, 96), torch.arange(10) % 2
    tapping = AIM(backbone, list(STAGES), num_classes=2).eval()
    split = Data(images, labels, labels.flip(0), torch.ones(10, 1, 96, 96), torch.arange(10), maps_of(tapping, images))
    record = study.record_of(Config("aim", 1.0, 0, epochs=4), (split, split), backbone)
    assert [one["epoch"] for one in record["epochs"]] == [3, 4] and record["held_out"] == 2
    for one in record["epochs"]:
        right = [int(digit) for digit in one["test"]["right"]]
        assert sum(right) / 10 == pytest.approx(one["test"]["accuracy"])
        assert {one[name] for name in ("accuracy", "worst_class", "survival", "accuracy_there")} <= {0.0, 0.5, 1.0}
