"""What the tests of the examples share: a tiny folder of images, and a run that returns what the example made."""

import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Made, Run, changed, write_images

import aimwrap


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Filled while an example runs in this process."""
    record = Made()

    class AIM(aimwrap.AIM):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            record.models.append(self)
            record.initial.append({name: tensor.clone() for name, tensor in self.state_dict().items()})

    class TauScheduler(aimwrap.TauScheduler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            record.schedules.append(self)

    class MaskHealth(aimwrap.MaskHealth):
        def update(self, output: aimwrap.AIMOutput, *, training: bool) -> None:
            record.watched[training] += len(output.logits)
            super().update(output, training=training)

        def report(self) -> list[aimwrap.MaskFinding]:
            record.warned += 1
            return super().report()

    for watched in (AIM, TauScheduler, MaskHealth):
        monkeypatch.setattr(aimwrap, watched.__name__, watched)
    return record


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of noise, four images each for training and three for the validation."""
    return write_images(tmp_path / "data", {"train": 4, "val": 3})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run an example in this process, in an empty folder, with replaced constants; returns what it printed."""

    def run_example(name: str, *arguments: str | Path, changes: Mapping[str, str]) -> str:
        script = changed(name, tmp_path, changes)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    before = dict(os.environ)
    yield run_example
    for name in os.environ.keys() - before.keys():  # launchers' settings
        del os.environ[name]
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
