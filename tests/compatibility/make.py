"""Make the files of this folder, with the code of a commit whose files must stay readable.

Commit 8dc83a9 made them, the last one before issue 19 moved the modules. The package may move on: never make them again
with it, or the tests compare the code with itself. From a checkout of that commit, with the environment of that day::

    git worktree add OLD 8dc83a9
    cd OLD && OMP_NUM_THREADS=1 PYTHONPATH=. python PATH_OF_THIS_CHECKOUT/tests/compatibility/make.py
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from kept_nets import RUN, WEIGHTS, digest_of, images, kept, trained_at_96
from lightning.fabric import Fabric
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import aimwrap
from aimwrap import AIM, SecondLook
from aimwrap.data.builder import Placed, backgrounds_in, build, cutouts_in, waterbirds
from aimwrap.train import Settings, loop, run_training

HERE = Path(__file__).parent
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 5}


class KilledError(BaseException):
    """Nothing in the library catches it."""


def record(path: Path, **values: object) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")


def lived_in(model: nn.Module) -> nn.Module:
    """In evaluation mode, with the statistics of some images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images(8))
    return model.eval()


def make_model(folder: Path, head: str) -> AIM:
    torch.manual_seed(0)
    model = AIM("convnext_atto", (2, 3), tau=[0.25, 0.5], head=head, backbone_kwargs=CONVNEXT, mask_width=4, width=8)
    model.class_names = tuple("abcde")
    lived_in(model).save_pretrained(folder)
    output = model(images())
    masks = {f"mask {stage}": mask.contiguous() for stage, mask in output.masks.items()}
    save_file({"logits": output.logits.detach(), **masks}, folder / "recorded.safetensors")
    return model


def make_at_96(folder: Path) -> None:
    """Masks of several positions: at the other size the deepest mask has one, whose estimator learns nothing.

    Added later, by the same commit, from the saved models: import make; make.make_at_96(make.HERE / "model")
    """
    torch.set_num_threads(1)
    assert HERE not in Path(aimwrap.__file__).parents
    save_file(trained_at_96(AIM.from_pretrained(folder)), folder / "recorded-96.safetensors")


def make_second_look(folder: Path, first: AIM) -> None:
    """As docs/second-look.md saves it, in the folder of the first look."""
    second = SecondLook(first)
    torch.save(second.classifier.state_dict(), folder / "second-look.pt")
    output = second(images())
    recorded = {"logits": output.logits.detach(), "first": output.first.logits.detach(), "kept": output.kept}
    save_file({name: value.clone() for name, value in recorded.items()}, folder / "recorded-second.safetensors")


def make_set(folder: Path, sources: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        for label in range(2):
            cutout = np.zeros((24, 20, 4), np.uint8)
            cutout[4:-4, 4:-4] = (100 + 100 * label, 0, number, 255)
            ground = rng.integers(0, 60, (40, 40, 3)).astype(np.uint8)
            ground[..., 1] = 50 + 100 * label
            for kind, pixels in (("cutouts", cutout), ("backgrounds", ground)):
                path = sources / kind / "ab"[label] / f"{'ab'[label]}{number:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    cutouts, backgrounds = cutouts_in(sources / "cutouts"), backgrounds_in(sources / "backgrounds")
    build(folder, cutouts, backgrounds, waterbirds(0.75), style=Placed(image_size=16), progress=False)
    record(folder / "recorded.json", **{split: digest_of(folder, split) for split in ("train", "val", "test")})


def make_runs() -> None:
    """A run that was killed at its fifth step, and the end that it would have come to; and a plain one's model."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    whole = Path(tempfile.mkdtemp()) / "run"
    run_training(Settings(**RUN), whole, fabric, workers=0)
    rate_factor = loop.rate_factor

    def killing(step: int, *others: object) -> float:
        if step == 5:
            raise KilledError
        return rate_factor(step, *others)

    loop.rate_factor = killing
    try:
        run_training(Settings(**RUN), HERE / "run", fabric, workers=0)
        raise SystemExit("the run was not killed")
    except KilledError:
        loop.rate_factor = rate_factor
    resumed = Path(tempfile.mkdtemp()) / "run"
    shutil.copytree(HERE / "run", resumed)
    run_training(Settings(**RUN), resumed, fabric, workers=0)
    weights = [(folder / "model" / WEIGHTS).read_bytes() for folder in (whole, resumed)]
    assert weights[0] == weights[1]
    values = {name: value.double().sum().item() for name, value in load_file(resumed / "model" / WEIGHTS).items()}
    result = json.loads((resumed / "result.json").read_text())
    del result["folder"]
    log = [json.loads(line) for line in (resumed / "log.jsonl").read_text().splitlines()]
    record(HERE / "run.json", sha256=hashlib.sha256(weights[0]).hexdigest(), sums=values, result=result, log=log)

    plain = Path(tempfile.mkdtemp()) / "run"
    run_training(Settings(**{**RUN, "method": "plain", "epochs": 1}), plain, fabric, workers=0)
    shutil.copytree(plain / "model", HERE / "plain")
    logits = aimwrap.train.load_plain(HERE / "plain", backbone=kept())(images(side=32)).logits
    save_file({"logits": logits.detach()}, HERE / "plain" / "recorded.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    assert HERE not in Path(aimwrap.__file__).parents
    first = make_model(HERE / "model", "feature-preserving")
    make_model(HERE / "model-paper", "paper")
    make_second_look(HERE / "model", first)
    make_at_96(HERE / "model")
    make_at_96(HERE / "model-paper")
    make_set(HERE / "set", Path(tempfile.mkdtemp()))
    os.chdir(HERE)
    make_runs()
    record(
        HERE / "machine.json",
        torch=torch.__version__,
        cpu=torch.backends.cpu.get_cpu_capability(),
        machine=platform.machine(),
        python=sys.version.split()[0],
    )


if __name__ == "__main__":
    main()
