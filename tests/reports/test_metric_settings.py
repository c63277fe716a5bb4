"""Reports of a MetricCollection that took metrics with other settings for the same one."""

from typing import Any

import pytest
import torch

pytest.importorskip("torchmetrics")
from torchmetrics import Metric, MetricCollection

from aimwrap.metrics import EnergyPointingGame, GroupAccuracy, MaskOverlap, PointingGame


class Strict(PointingGame):
    """A user's own metric, with the settings of another one."""

    def update(self, attribution: torch.Tensor, object_mask: torch.Tensor) -> None:
        super().update(attribution, object_mask * (object_mask > 0.8))


OTHERS: dict[str, tuple[Metric, Metric]] = {
    "tolerance": (PointingGame(tolerance=0), PointingGame(tolerance=15)),
    "threshold": (PointingGame(tolerance=0, threshold=0.1), PointingGame(tolerance=0, threshold=0.7)),
    "a subclass": (PointingGame(tolerance=0), Strict(tolerance=0)),
    "negatives": (EnergyPointingGame(), EnergyPointingGame(negatives="abs")),
    "soft objects": (EnergyPointingGame(threshold=0.1), EnergyPointingGame(threshold=0.7)),
    "overlap": (MaskOverlap(threshold=0.1), MaskOverlap(threshold=0.7)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_each_metric_keeps_its_settings(case: str) -> None:
    """Reported: strict 1.0 for 0.333 beside a lenient one, since the first batch gave both the same states."""
    first, second = OTHERS[case]
    together = MetricCollection({"first": first.clone(), "second": second.clone()})
    alike, apart = torch.eye(16)[None], torch.eye(16)[None].flip(2)
    signed = alike if isinstance(first, MaskOverlap) else alike - apart
    for batch in ((alike, alike), (apart, alike), (signed, 0.75 * alike), (signed, 0.4 * alike)):
        together.update(*batch)
        first.update(*batch)
        second.update(*batch)
    assert {str(first.compute()), str(second.compute())} == {str(value) for value in split(together.compute())}
    assert str(first.compute()) != str(second.compute()), "the case shows nothing"


def split(computed: dict[str, Any]) -> list[dict[str, Any]]:
    """The dicts of both metrics: the collection's keys begin with theirs."""
    return [
        {key.removeprefix(f"{name}_"): value for key, value in computed.items() if key.startswith(name)}
        for name in ("first", "second")
    ]


def test_what_only_compute_does_its_own_way_may_share_states() -> None:
    counts = GroupAccuracy(2, train_counts=[1, 3]), GroupAccuracy(2)
    together = MetricCollection({"weighted": counts[0], "average": counts[1]})
    labels = torch.tensor([0, 1, 1])
    for _ in range(2):
        together.update(torch.tensor([0, 1, 0]), labels, labels)
    assert together.compute()["weighted_weighted_average"].item() == pytest.approx(0.25 + 0.75 / 2)
