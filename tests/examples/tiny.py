"""Tiny folders of images, and examples with their constants replaced by small ones."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import aimwrap
from aimwrap import AIM

EXAMPLES = Path(__file__).parents[2] / "examples"
# No weights are downloaded, no worker processes are started, and a noise image or two make a batch.
SMALL = {"num_workers=2": "num_workers=0", "batch_size=64": "batch_size=2"}
SMALL_BACKBONE = {'"convnext_tiny", pretrained=True': '"test_resnet"'}
Run = Callable[..., str]  # the fixture ``run``: an example's name, its arguments and changes, to what it prints


@dataclass
class Made:
    """What an example built of aimwrap's parts, in the order in which it did, and the weights that the models had."""

    models: list[aimwrap.AIM] = field(default_factory=list)
    initial: list[dict[str, Tensor]] = field(default_factory=list)
    schedules: list[aimwrap.TauScheduler] = field(default_factory=list)
    watched: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})  # images seen in training or not
    warned: int = 0

    def check_trained(self, number: int = 0, *, evaluated: bool = True) -> None:
        """Every mask estimator has moved, tau has arrived, and MaskHealth saw images in both modes and was asked."""
        model, initial, schedule = self.models[number], self.initial[number], self.schedules[number]
        now = model.state_dict()
        for part in ("classifier.", *(f"mask_estimators.{name}." for name in model.mask_estimators)):
            names = [name for name in now if name.startswith(part)]
            assert names and any(not torch.equal(now[name].cpu(), initial[name]) for name in names), part
        assert schedule.steps_done >= schedule.length > 0
        assert schedule.criterion.tau.tolist() == pytest.approx(list(model.tau))
        assert self.watched[True] > 0 and (self.watched[False] > 0 or not evaluated)
        assert self.warned > 0


def write_images(folder: Path, counts: Mapping[str, int], classes: tuple[str, ...] = ("cats", "dogs")) -> Path:
    generator = torch.Generator().manual_seed(0)
    for split, count in counts.items():
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 256, (64, 80, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / split / name / f"{i}.png")
    return folder


def changed(name: str, folder: Path, changes: Mapping[str, str]) -> Path:
    """An example with some of its constants replaced, as a file in ``folder``."""
    source = (EXAMPLES / name).read_text()
    for old, new in changes.items():
        assert old in source, old
        source = source.replace(old, new)
    script = folder / name
    script.write_text(source)
    return script


def launched(name: str, data: Path, folder: Path, changes: Mapping[str, str]) -> str:
    """Run an example under torchrun in two processes, and return what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(changed(name, folder, changes)), str(data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def logits_of(model: AIM) -> torch.Tensor:
    """What a model says of four fixed images of noise."""
    with torch.no_grad():
        return model.eval()(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))).logits
