"""Report 21: the selected epoch was one before tau was reached, and the masks that were printed another epoch's."""

from pathlib import Path
from typing import Any

import pytest
from small_run import make_pictures, train

from aimwrap import MaskFinding, MaskHealth
from aimwrap.train import loop


def scored(monkeypatch: pytest.MonkeyPatch, averages: list[float]) -> None:
    """Each epoch's validation gives the next of these."""
    evaluate, left = loop.evaluate, iter(averages)

    def scripted(*arguments: Any, **more: Any) -> dict[str, Any]:
        return {**evaluate(*arguments, **more), "average": next(left, 0.0)}

    monkeypatch.setattr(loop, "evaluate", scripted)


@pytest.mark.parametrize(
    ("share", "averages", "epoch"),
    [(0.5, [1.0, 0.9, 0.3, 0.6, 0.6, 0.5], 5), (1.0, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], 6)],
    ids=["of equals the later", "none reaches tau before the end"],
)
def test_no_epoch_before_tau_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, averages: list[float], epoch: int
) -> None:
    numbers = iter(range(1, 7))
    monkeypatch.setattr(
        MaskHealth, "report", lambda self: [MaskFinding(None, "frozen", 0.0, f"after epoch {next(numbers)}")]
    )
    scored(monkeypatch, averages)
    given = {"method": "aim", "epochs": 6, "anneal_share": share, "stages": (2,), "selection": "validation average"}
    result = train(make_pictures(tmp_path / "a"), tmp_path / "out", **given)
    assert result.epoch == epoch and result.mask_findings == [f"after epoch {epoch}"]
    assert result.validation is not None and result.validation["average"] == averages[epoch - 1]
