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


def test_settings_are_set_once() -> None:
    """In a collection they changed what the states of a whole group of metrics mean, and results that were kept."""
    together = MetricCollection({"strict": PointingGame(tolerance=0), "lenient": PointingGame(tolerance=0)}).clone()
    with pytest.raises(AttributeError, match=r"tolerance must stay .* build another, PointingGame\(tolerance=5\)"):
        together["strict"].tolerance = 5
    metrics = (EnergyPointingGame(resolution=(2, 2)), PointingGame(), MaskOverlap(), GroupAccuracy(2))
    for metric, name in zip(metrics, ("resolution", "constant_map", "empty", "num_groups"), strict=True):
        with pytest.raises(AttributeError, match=f"{name} must stay as it is"):
            setattr(metric, name, 0.25)
        metric.clone().to("cpu").reset()


def test_states_of_other_settings_are_not_joined() -> None:
    """Merged, gathered or loaded, they gave a score of two definitions."""
    heatmap, objects = torch.eye(16)[None], torch.eye(16)[None].flip(2)
    strict, alike, lenient = PointingGame(tolerance=0), PointingGame(tolerance=0.0, empty_object=0), PointingGame()
    for metric in (strict, alike, lenient):
        metric.persistent(True)
        metric.update(heatmap, objects)
    for one, other in ((strict, lenient), (lenient, strict)):
        with pytest.raises(ValueError, match="states are of a metric with other arguments"):
            one.load_state_dict(other.state_dict())
        if hasattr(one, "merge_state"):  # torchmetrics 1.6
            with pytest.raises(ValueError, match="states are of a metric with other arguments"):
                one.merge_state(other)
    strict.load_state_dict(alike.state_dict())
    assert strict.per_image().tolist() == [0]
