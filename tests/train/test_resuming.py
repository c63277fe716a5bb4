"""A run that is stopped anywhere goes on to the very weights of one that was not."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_nets
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision

from aimwrap import AIM
from aimwrap.train import Result, Settings, loop, run_training
from aimwrap.train.checkpoints import checkpoint_folder, checkpoints_in, read_checkpoint
from aimwrap.train.run import Run

HERE = Path(__file__).parent


class KilledError(BaseException):
    """Nothing in the library catches it."""


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a run, except for its settings, and without its folder's name."""
    model = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    del result["folder"]
    return {**model, "log": json.dumps(lines).encode(), "result": json.dumps(result).encode()}


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run is killed when it begins this step of all."""
    rate_factor = loop.rate_factor

    def killing(now: int, steps_per_epoch: int, settings: Settings) -> float:
        if now == step:
            raise KilledError
        return rate_factor(now, steps_per_epoch, settings)

    monkeypatch.setattr(loop, "rate_factor", killing)


def train(settings: Settings, folder: Path, fabric: Fabric, workers: int = 0) -> Result:
    return run_training(settings, folder, fabric, workers=workers)


MOVING_AVERAGE = {"checkpoint_steps": 4, "ema": 0.9, "clip": 1.0, "selection": "validation worst group"}
BATCH_NORM = {"backbone": "tiny_nets:tiny_with_batch_norm", "optimizer": "sgd", "area_per": "batch", "head": "paper"}
PLAIN = {"method": "plain", "checkpoint_steps": 2, "optimizer": "adam", "schedule": "step", "step_epochs": 1}
BF16 = {"precision": "bf16-mixed", "checkpoint_steps": 3}
HALF = {"checkpoint_steps": 1, "optimizer": "sgd", "lr": 0.01, "head_lr": 0.01}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"checkpoint_steps": 1}, id="every step"),
        pytest.param(MOVING_AVERAGE, id="moving average"),
        pytest.param(PLAIN, id="plain"),
        pytest.param(BATCH_NORM, id="batch norm", marks=pytest.mark.slow),
        pytest.param(BF16, id="bf16", marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_run_is_the_unstopped_one(
    given: dict[str, object],
    settings_of: Callable[..., Settings],
    fabric: Fabric,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(**given)
    train(settings, tmp_path / "whole", fabric)
    for step in (1, 6, 9):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            stop_at(step, patch)
            train(settings, tmp_path / "stopped", fabric)
        torch.manual_seed(step)  # whatever another process would have drawn meanwhile
    train(settings, tmp_path / "stopped", fabric)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_the_scale_of_the_loss_begins_afresh_with_each_seed(
    settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    """Else a second seed would not be the run that it is by itself, nor its resumed one."""
    scaler = torch.amp.GradScaler("cpu")
    own = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    own.launch()
    scaler.load_state_dict({**scaler.state_dict(), "scale": 4.0, "_growth_tracker": 3})  # the first seed's last
    Run(settings_of(seed=1), tmp_path, own)
    assert scaler.state_dict() == torch.amp.GradScaler("cpu").state_dict()


@pytest.mark.slow
def test_the_scale_of_the_loss_goes_on(
    settings_of: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float16, on a CPU, with a scale that grows every other step and so is never its first value for long."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device: torch.amp.grad_scaler.GradScaler(device, 8.0, 2.0, 0.5, 2)
    )
    own = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    own.launch()
    settings = settings_of(**HALF)
    train(settings, tmp_path / "whole", own)
    scale = read_checkpoint(checkpoints_in(checkpoint_folder(tmp_path / "whole"))[-1]).state["precision"]["scale"]
    assert scale == 8.0 * 2**6
    for step in (3, 8):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            stop_at(step, patch)
            train(settings, tmp_path / "stopped", own)
    train(settings, tmp_path / "stopped", own)
    resumed = read_checkpoint(checkpoints_in(checkpoint_folder(tmp_path / "stopped"))[-1])
    assert resumed.state["precision"]["scale"] == scale
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_killed_while_saving_or_at_the_end(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of()
    train(settings, tmp_path / "whole", fabric)

    def killing(*arguments: object, **more: object) -> None:
        raise KilledError

    places = ("loop.write_json", "checkpoints._remove_old", "loop.save_checkpoint")
    for place in (*places, "loop._save_model", "loop.write_json"):  # in the order in which they come
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(f"aimwrap.train.{place}", killing)
            train(settings, tmp_path / "stopped", fabric)
    train(settings, tmp_path / "stopped", fabric)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_killed_before_its_last_line_the_log_is_complete_afterwards(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last epoch's checkpoint, and no epoch is left to write it."""

    def killing(run: Run) -> None:
        if run.progress.epoch == 2:
            raise KilledError

    settings = settings_of(method="plain")
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(loop, "log_epochs", killing)
        train(settings, tmp_path, fabric)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    train(settings, tmp_path, fabric)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_half_written_files_are_cleared_away(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    half = checkpoint_folder(tmp_path) / ".unfinished-1"
    half.parent.mkdir()
    half.write_bytes(b"half a checkpoint")
    train(settings_of(epochs=1), tmp_path, fabric)
    assert not half.exists() and not list(tmp_path.rglob(".unfinished-*"))


def test_a_done_run_is_not_trained_again(settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path) -> None:
    first = train(settings_of(epochs=1), tmp_path, fabric)
    before = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    assert train(settings_of(epochs=1), tmp_path, fabric) == first
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_workers_do_not_matter(settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path) -> None:
    settings = settings_of(epochs=1, backbone="tiny_nets:tiny")
    for workers in (0, 2):
        train(settings, tmp_path / str(workers), fabric, workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_seeds_matter(settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(settings_of(epochs=1, seed=seed), tmp_path / str(seed), fabric)
    first, second = (contents(tmp_path / str(seed))["model.safetensors"] for seed in (0, 1))
    assert first != second


def test_two_checkpoints_are_kept_and_the_model_loads(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    train(settings_of(checkpoint_steps=2, selection="last"), tmp_path, fabric)
    kept = checkpoints_in(checkpoint_folder(tmp_path))
    assert [path.name for path in kept] == ["step-000000010.safetensors", "step-000000012.safetensors"]
    model = AIM.from_pretrained(tmp_path / "model", backbone=tiny_nets.tiny_with_dropout())
    trained = read_checkpoint(kept[-1]).part("model")
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
    assert model.class_names == ("0", "1") and model.preprocessing is not None


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_kill_9_at_random_moments(table: Path, tmp_path: Path, devices: int) -> None:
    """Loggers have every epoch once, and change nothing."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def command(out: Path) -> subprocess.Popen[bytes]:
        source = "from aimwrap.cli import main; main()"
        options = "--backbone tiny_nets:tiny_with_dropout --image-size 32 --epochs 12 --batch-size 4 --workers 0 -q"
        options += f" --checkpoint-steps 2 --ema 0.9 --devices {devices} --accelerator cpu --lr 1e-3"
        options += " --logger tensorboard,csv" if out == killed else ""
        arguments = ["train", "table", str(table), "mask=mask", "--out", str(out), *options.split()]
        script = tmp_path / "aimwrap_command.py"
        script.write_text(source)
        paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, str(script), *arguments], env=environment, start_new_session=True)

    def newest(out: Path) -> str:
        return max((path.name for path in checkpoints_in(checkpoint_folder(out / "seed-0"))), default="")

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert command(whole).wait(timeout=300) == 0
    moments = random.Random(devices)
    for _ in range(3):
        process = command(killed)
        before, wanted, seen = newest(killed), moments.randint(1, 8), 0
        deadline = time.monotonic() + 120
        while seen < wanted and process.poll() is None and time.monotonic() < deadline:
            now = newest(killed)
            seen += now != before
            before = now
        time.sleep(moments.random() / 20)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert command(killed).wait(timeout=300) == 0
    assert contents(killed / "seed-0") == contents(whole / "seed-0")
    steps = [json.loads(line)["step"] for line in (killed / "seed-0" / "log.jsonl").read_text().splitlines()]
    with (killed / "seed-0" / "csv" / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == steps
    events = EventAccumulator(str(killed / "seed-0" / "tensorboard"), {"images": 0}).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == steps
    assert [event.step for event in events.Images("masks")] == steps
