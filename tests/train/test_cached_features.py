"""``aimwrap train --cache-features``: a frozen backbone sees each image once, and all else is as without it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_nets
import torch
from lightning.fabric import Fabric
from test_resuming import KilledError, contents, stop_at
from test_train_cli import train as command
from torch import Tensor

from aimwrap import AIM
from aimwrap.train import RunFolderError, Settings, run_training
from aimwrap.train.checkpoints import checkpoint_folder, checkpoints_in, read_checkpoint
from aimwrap.train.run import Run, keep_maps

FROZEN = {"frozen": "backbone", "augmentation": "none", "head_lr": 0.01, "epochs": 3}
KINDS = {
    "usual": {},
    "moving average in parts": {
        "ema": 0.5,
        "accumulate": 2,
        "checkpoint_steps": 4,
        "selection": "validation worst group",
    },
    "batch norm": {"backbone": "tiny_nets:tiny_with_batch_norm", "head": "paper", "reader": {"mask": None}},
    "survival": {"selection": "validation survival"},
    "both parts": {"second_look": True, "exchange": True, "second_epochs": 2, "exchange_epochs": 2},
    "bf16": {"precision": "bf16-mixed"},
}


def last(folder: Path) -> dict[str, Tensor]:
    return read_checkpoint(checkpoints_in(checkpoint_folder(folder))[-1]).tensors


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k != "moving average in parts")) for k in KINDS]
)
def test_a_run_is_the_one_without_it(
    kind: str, settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    """Up to rounding, which the number of images that a backbone sees at once may change; so in double precision."""
    given = {"precision": "64-true", **FROZEN, **KINDS[kind]}
    own = Fabric(accelerator="cpu", devices=1, precision=given["precision"])
    own.launch()
    for cached in (False, True):
        run_training(settings_of(**given, cache_features=cached), tmp_path / str(cached), own, workers=0)
    without, with_it = tmp_path / "False", tmp_path / "True"
    rough = {"rtol": 0.05, "atol": 0.01} if kind == "bf16" else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(last(with_it), last(without), **rough)
    lines, others = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (with_it, without)
    )
    for line, other in zip(lines, others, strict=True):
        assert line["train"] == pytest.approx(other["train"], rel=0.01 if kind == "bf16" else 1e-5)
        assert line["validation"]["area"] == pytest.approx(other["validation"]["area"])  # of the same masks
        assert line["validation"]["groups"] == other["validation"]["groups"]
        assert line["validation"].get("energy_pointing") == pytest.approx(other["validation"].get("energy_pointing"))
    result, other = (json.loads((folder / "result.json").read_text()) for folder in (with_it, without))
    assert result["scores"]["groups"] == other["scores"]["groups"]


def test_the_backbone_sees_each_image_once(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, said = [], []
    forward = AIM.forward_backbone

    def counting(model: AIM, images: Tensor) -> dict[str, Tensor]:
        seen.append(len(images))
        return forward(model, images)

    monkeypatch.setattr(AIM, "forward_backbone", counting)
    settings = settings_of(**FROZEN, cache_features=True)
    run_training(settings, tmp_path, fabric, workers=0, say=said.append)
    assert sum(seen) == 22 + 9 + 11 + 1  # training, validation; once the test, and what the cost is counted with
    # Stages 2 and 3 of images of 32 x 32: 12 x 2 x 2 and 12 x 1 x 1, which is the final map too, of four bytes each.
    assert "the maps of 31 images need 7.4e-06 GB, 240 bytes each" in said
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["cache_features"] is True
    (tmp_path / "result.json").unlink()
    seen.clear()
    run_training(settings, tmp_path, fabric, workers=0)
    assert sum(seen) == 11 + 1  # nothing was left to train
    with pytest.raises(RunFolderError, match="cache_features was True and is False"):
        run_training(settings_of(**FROZEN), tmp_path, fabric, workers=0)


def test_stopped_and_resumed_it_is_the_unstopped_one(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(**FROZEN, cache_features=True, checkpoint_steps=1)
    run_training(settings, tmp_path / "whole", fabric, workers=0)
    for step in (9,):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            stop_at(step, patch)
            run_training(settings, tmp_path / "stopped", fabric, workers=0)
        torch.manual_seed(step)  # whatever another process would have drawn meanwhile
    run_training(settings, tmp_path / "stopped", fabric, workers=0)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_the_random_numbers_and_the_batches_are_those_without_it(
    settings_of: Callable[..., Settings], fabric: Fabric
) -> None:
    drawn: list[Any] = []
    for cached in (False, True):
        run = Run(settings_of(**FROZEN, cache_features=cached), Path("unused"), fabric)
        if cached:
            keep_maps(run, lambda text: None)
        batches = [(batch.seeds.tolist(), batch.images.label.tolist()) for batch in run.batches]
        assert all(batch.images.image.ndim == (1 if cached else 4) for batch in run.batches)
        drawn.append((batches, torch.rand(3).tolist()))
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_a_compiled_model_takes_maps(
    settings_of: Callable[..., Settings], fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a compiler that does nothing with the graphs that it is given."""
    monkeypatch.setattr(torch, "compile", lambda network, **_: _compile(network, backend="eager"))
    run = Run(settings_of(**FROZEN, cache_features=True, compile=True), Path("unused"), fabric)
    keep_maps(run, lambda text: None)
    batch = next(iter(run.batches))
    output = run.model(batch.images.image, noise_seeds=batch.seeds)
    assert output.logits.shape == (4, 2)


_compile = torch.compile


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--augmentation", "none"), "needs AIM with --frozen='backbone' and --augmentation='none'"),
        (("--frozen", "backbone"), "this run has 'aim', 'backbone', 'crop-and-flip'; change that"),
        (("--frozen", "backbone", "--augmentation", "none", "--plain"), "this run has 'plain', 'backbone', 'none'"),
    ],
)
def test_maps_that_change_are_refused(table: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    found = command(table, tmp_path / "out", "--cache-features", *options)
    said = " ".join(found.stderr.replace("│", " ").split())
    assert found.exit_code == 2 and message in said and "or leave it out" in said, said
    assert not (tmp_path / "out").exists()


def test_the_command_takes_it(table: Path, tmp_path: Path) -> None:
    options = ("--cache-features", "--frozen", "backbone", "--augmentation", "none")
    found = command(table, tmp_path / "out", *options)
    assert found.exit_code == 0, found.output
    assert AIM.from_pretrained(tmp_path / "out" / "seed-0" / "model", backbone=tiny_nets.tiny())
