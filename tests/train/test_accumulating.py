"""Steps whose images are seen in parts: the same steps, also when a run is stopped between two parts."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from test_resuming import KilledError, contents

from aimwrap.train import Settings, loop, run_training
from aimwrap.train.checkpoints import checkpoint_folder, checkpoints_in, read_checkpoint
from aimwrap.train.data import BatchOrder

# 22 images in steps of at most 6 are 4 steps of 6, 6, 5 and 5: parts of 2, 2 and 2, or 2, 2 and 1.
STEPS = {"backbone": "tiny_nets:tiny", "batch_size": 6, "lr": 0.005, "head_lr": 0.005, "precision": "64-true"}


@pytest.fixture(scope="module")
def double() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    fabric.launch()
    return fabric


def state(folder: Path, part: str) -> dict[str, torch.Tensor]:
    return read_checkpoint(checkpoints_in(checkpoint_folder(folder))[-1]).part(part)


@pytest.mark.parametrize("given", [{"ema": 0.9}, {"method": "plain", "clip": 0.1, "optimizer": "sgd"}], ids=str)
def test_steps_in_parts_are_the_steps_of_the_joint_batch(
    settings_of: Callable[..., Settings], double: Fabric, tmp_path: Path, given: dict[str, object]
) -> None:
    results = [
        run_training(settings_of(**STEPS, **given, accumulate=parts), tmp_path / str(parts), double, workers=0)
        for parts in (1, 3)
    ]
    for part in ("model", "average", "optimizer"):  # areas are float32, and AdamW divides small gradients by their size
        torch.testing.assert_close(state(tmp_path / "3", part), state(tmp_path / "1", part), rtol=1e-5, atol=1e-7)
    logs = [read_checkpoint(checkpoints_in(checkpoint_folder(tmp_path / n))[-1]).state["progress"] for n in "13"]
    assert logs[0]["step"] == logs[1]["step"] == 8
    for whole, in_parts in zip(logs[0]["history"], logs[1]["history"], strict=True):
        assert in_parts["train"] == pytest.approx(whole["train"], abs=1e-6)  # areas are float32
    assert results[0].scores["groups"] == results[1].scores["groups"]


def test_gradients_travel_with_the_last_part_alone(
    settings_of: Callable[..., Settings], double: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_back: list[bool] = []

    def no_backward_sync(module: Any, enabled: bool) -> AbstractContextManager[None]:
        held_back.append(enabled)
        return Fabric.no_backward_sync(double, module, enabled)

    monkeypatch.setattr(double, "no_backward_sync", no_backward_sync)
    run_training(settings_of(**STEPS, accumulate=3, epochs=1), tmp_path, double, workers=0)
    assert held_back == [True, True, False] * 4


def test_a_run_stopped_between_parts_goes_on_at_the_step(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(batch_size=6, accumulate=3, checkpoint_steps=1, method="plain")  # with dropout
    run_training(settings, tmp_path / "whole", fabric, workers=0)
    see, seen = loop._see, []

    def killing(run: Any, batch: Any) -> None:
        seen.append(batch)
        if len(seen) % 8 == 0:  # after a step and a part, of this start
            raise KilledError
        see(run, batch)

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(loop, "_see", killing)
            run_training(settings, tmp_path / "stopped", fabric, workers=0)
    run_training(settings, tmp_path / "stopped", fabric, workers=0)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_an_area_per_batch_is_refused(settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(
        ValueError, match=r"area_per='batch' needs the areas of a complete batch at once, and accumulate=2"
    ):
        settings_of(accumulate=2, area_per="batch")
    assert settings_of(accumulate=2, area_per="batch", method="plain").accumulate == 2  # no areas
    with pytest.raises(ValueError, match="accumulate must be 1 or more"):
        settings_of(accumulate=0)


@pytest.mark.parametrize("rank", [0, 1])
def test_parts_are_the_process_s_share_of_the_step(rank: int) -> None:
    whole, parts = (BatchOrder(22, 6, 0, rank, 2, accumulate=count) for count in (1, 2))
    steps, found = list(whole), list(parts)
    assert len(found) == len(parts) == 2 * len(steps)
    assert [found[2 * number] + found[2 * number + 1] for number in range(len(steps))] == steps
    assert all(abs(len(found[2 * n]) - len(found[2 * n + 1])) <= 1 for n in range(len(steps)))
    parts.first_step = 3
    assert list(parts) == found[6:] and len(parts) == 2


def test_every_part_needs_an_image() -> None:
    assert all(BatchOrder(22, 8, 0, 1, 2, accumulate=3))  # 3 steps of 8, 7 and 7, of which each has 3 at least
    message = r"an image for each of accumulate=4 parts: .*have 7 at least, and there are 2 processes.*lower accumulate"
    with pytest.raises(ValueError, match=message):
        BatchOrder(22, 8, 0, 1, 2, accumulate=4)
