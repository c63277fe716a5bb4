"""Tiny folders of images, and examples with their constants replaced by small ones."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image

from aimwrap import AIM

EXAMPLES = Path(__file__).parents[2] / "examples"
# No weights are downloaded, no worker processes are started, and a noise image or two make a batch.
SMALL = {"num_workers=2": "num_workers=0", "batch_size=64": "batch_size=2"}
SMALL_BACKBONE = {'"convnext_tiny", pretrained=True': '"test_resnet"'}


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
