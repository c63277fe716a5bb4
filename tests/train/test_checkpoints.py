"""Checkpoints that are cut off, damaged, of another run, or too large for the disk."""

import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric

from aimwrap._files import replacing
from aimwrap.train import CheckpointError, DivergedError, RunFolderError, Settings, run_training
from aimwrap.train import checkpoints as module
from aimwrap.train.checkpoints import (
    Checkpoint,
    checkpoint_folder,
    checkpoint_path,
    checkpoints_in,
    optimizer_state,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from aimwrap.train.run import Run

CHECKPOINT = Checkpoint({"model/weight": torch.arange(500.0), "model/count": torch.tensor(3)}, {"step": 7, "loss": 0.1})


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two good checkpoints, of the steps 1 and 2."""
    for step in (1, 2):
        write_checkpoint(checkpoint_path(tmp_path, step), CHECKPOINT)
    return checkpoints_in(tmp_path)


def test_what_is_written_is_read(two: list[Path]) -> None:
    found = read_checkpoint(two[0])
    assert found.state == CHECKPOINT.state
    assert set(found.tensors) == set(CHECKPOINT.tensors)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in CHECKPOINT.tensors.items())
    assert {path.name for path in two[0].parent.iterdir()} == {path.name for path in two}


def test_a_file_is_replaced_and_never_written_over(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "the same file"
    path.write_text("old")
    other.hardlink_to(path)
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and other.read_text() == "old"
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "new" and {p.name for p in tmp_path.iterdir()} == {"file", "the same file"}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_one_is_named_and_so_is_the_good_one(two: list[Path], share: float) -> None:
    content = two[1].read_bytes()
    two[1].write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        CheckpointError, match=r"step-000000002.safetensors .*cut off.*step-000000001.*remove step-000000002"
    ):
        read_checkpoint(two[1])
    assert read_checkpoint(two[0]).state["step"] == 7


@pytest.mark.parametrize(
    ("old", "new"),
    [(None, None), (b'\\"step\\": 7', b'\\"step\\": 8'), (b"model/weight", b"model/weighs")],
    ids=["a flipped bit", "another state", "another name"],
)
def test_a_change_is_noticed(two: list[Path], old: bytes | None, new: bytes | None) -> None:
    content = bytearray(two[1].read_bytes())
    if old is None or new is None:
        content[-100] ^= 1
    else:
        assert content.count(old) == 1
        content = content.replace(old, new)
    two[1].write_bytes(content)
    with pytest.raises(CheckpointError, match="its contents are not those that were written"):
        read_checkpoint(two[1])


def test_any_safetensors_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 1)
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"was not written by this version.*There is none before it"):
        read_checkpoint(path)


def assert_unchanged(two: list[Path]) -> None:
    assert checkpoints_in(two[0].parent) == two and read_checkpoint(two[1]).state["step"] == 7
    assert len(list(two[0].parent.iterdir())) == 2


def test_a_full_disk_leaves_the_last_good_one(two: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(CheckpointError, match=r"the disk is full. The last good one, step-000000002.*make room"):
        write_checkpoint(checkpoint_path(two[0].parent, 3), CHECKPOINT)
    assert_unchanged(two)


def test_a_limit_of_the_system_leaves_the_last_good_one(two: list[Path]) -> None:
    """The kernel itself refuses to write, half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(CheckpointError, match=r"could not be written.*The last good one, step-000000002"):
            write_checkpoint(checkpoint_path(two[0].parent, 3), CHECKPOINT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert_unchanged(two)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adam"])
def test_optimizers_survive_the_way_through_tensors(name: str) -> None:
    def built() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(torch.ones(3))
        extra = {"momentum": 0.9} if name == "SGD" else {}
        return parameter, getattr(torch.optim, name)([parameter], lr=0.1, **extra)

    def step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()

    (first, one), (second, other) = built(), built()
    step(first, one)
    second.data.copy_(first.data)
    tensors = {key: tensor.clone() for key, tensor in optimizer_tensors(one.state_dict()).items()}
    other.load_state_dict(optimizer_state(tensors, other.state_dict()))
    for _ in range(2):
        step(first, one)
        step(second, other)
    assert torch.equal(first, second)


def run(settings: Settings, folder: Path, fabric: Fabric) -> None:
    run_training(settings, folder, fabric, workers=0)


def unfinish(folder: Path) -> list[Path]:
    """As if the run had been killed before its end."""
    (folder / "result.json").unlink()
    return checkpoints_in(checkpoint_folder(folder))


def test_a_run_names_its_truncated_checkpoint_and_goes_on_without_it(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    settings = settings_of(method="plain", backbone="tiny_nets:tiny")
    run(settings, tmp_path, fabric)
    model = (tmp_path / "model" / "model.safetensors").read_bytes()
    newest = unfinish(tmp_path)[-1]
    os.truncate(newest, newest.stat().st_size - 10)
    with pytest.raises(CheckpointError, match=r"step-000000006.safetensors, is still there"):
        run(settings, tmp_path, fabric)
    newest.unlink()
    (tmp_path / "model" / "model.safetensors").unlink()
    run(settings, tmp_path, fabric)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == model


def test_another_variant_s_checkpoint_is_named(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    run(settings_of(epochs=1), tmp_path / "aim", fabric)
    other = checkpoint_folder(tmp_path / "plain")
    other.mkdir(parents=True)
    shutil.copy(checkpoints_in(checkpoint_folder(tmp_path / "aim"))[-1], other)
    with pytest.raises(
        CheckpointError, match=r"is of .*AIM \[3, 25%\].*, and this run trains tiny_nets.*plain, 2 classes"
    ):
        run(settings_of(epochs=1, method="plain"), tmp_path / "plain", fabric)
    assert len(checkpoints_in(other)) == 1


def test_a_checkpoint_of_other_images_is_named(
    settings_of: Callable[..., Settings], fabric: Fabric, table: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(table.parent, copy)
    settings = settings_of(epochs=1, method="plain", root=str(copy / table.name))
    run(settings, tmp_path / "run", fabric)
    unfinish(tmp_path / "run")
    run(settings_of(epochs=1, method="plain"), tmp_path / "run", fabric)  # the same images in another folder
    unfinish(tmp_path / "run")
    lines = (copy / table.name).read_text().splitlines()
    (copy / table.name).write_text("\n".join([*lines[:5], *lines[6:]]))
    with pytest.raises(CheckpointError, match="of a run on other images"):
        run(settings, tmp_path / "run", fabric)


def test_other_settings_are_named(settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path) -> None:
    run(settings_of(epochs=1, method="plain"), tmp_path, fabric)
    with pytest.raises(RunFolderError, match=r"other settings: head_lr was 0.001 and is 0.1; ema was None and is 0.9"):
        run(settings_of(epochs=1, method="plain", head_lr=0.1, ema=0.9), tmp_path, fabric)


def test_what_failed_before_its_first_checkpoint_may_be_put_right(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(run: Run) -> None:
        raise OSError("Cannot allocate memory")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Cannot allocate"):
        patch.setattr("aimwrap.train.loop.train", out_of_memory)
        run(settings_of(epochs=1, batch_size=22), tmp_path, fabric)
    corrected = settings_of(epochs=1, batch_size=11, method="plain")
    run(corrected, tmp_path, fabric)
    written = json.loads((tmp_path / "settings.json").read_text())
    assert Settings.from_json(written["settings"]) == corrected
    assert written["resolved"]["steps_per_epoch"] == 2
    shutil.rmtree(checkpoint_folder(tmp_path))  # for room; what is done stays done
    with pytest.raises(RunFolderError, match="other settings"):
        run(settings_of(epochs=1, batch_size=22), tmp_path, fabric)


def test_a_folder_of_something_else_is_left_alone(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="is not empty and holds no run"):
        run(settings_of(), tmp_path, fabric)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_divergence_is_named_and_not_saved(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    settings = settings_of(method="plain", optimizer="sgd", lr=1e30, head_lr=1e30, checkpoint_steps=1)
    with pytest.raises(DivergedError, match="lower the learning rates"):
        run(settings, tmp_path, fabric)
    for path in checkpoints_in(checkpoint_folder(tmp_path)):
        assert all(tensor.isfinite().all() for tensor in read_checkpoint(path).part("model").values())


def test_a_full_disk_in_a_run_is_said_and_the_run_goes_on_later(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(method="plain", checkpoint_steps=1)
    save_file, saved = module.save_file, []

    def filling(tensors: Any, path: Path, metadata: Any) -> None:
        saved.append(path)
        if len(saved) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="the disk is full"):
        patch.setattr(module, "save_file", filling)
        run(settings, tmp_path, fabric)
    assert checkpoints_in(checkpoint_folder(tmp_path))[-1].name == "step-000000003.safetensors"
    run(settings, tmp_path, fabric)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
