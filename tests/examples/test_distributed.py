"""DDP and FSDP2 on the CPU with gloo: one process here, and slowly two under torchrun."""

import re
import socket
from pathlib import Path

import pytest
import torch
from tiny import SMALL, SMALL_BACKBONE, Made, Run, launched, logits_of

from aimwrap import AIM

pytestmark = pytest.mark.filterwarnings("ignore::aimwrap.MaskHealthWarning")  # some steps on noise

TWO_EPOCHS = {"EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1"}
DDP = SMALL | SMALL_BACKBONE | TWO_EPOCHS
FSDP = TWO_EPOCHS | {
    "num_workers=2": "num_workers=0",
    "batch_size=16": "batch_size=2",
    '"convnext_xxlarge"': '"test_convnext"',
    "pretrained=True": "pretrained=False",
}
# Every process leaves its weights, as it has them.
LEAVE = {
    "    if rank == 0:\n        model.save": '    torch.save(model.state_dict(), f"{rank}.pt")\n    if rank == 0:\n'
    "        model.save"
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that torchrun sets for a single process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("alone")
def test_ddp(image_folder: Path, tmp_path: Path, run: Run, made: Made) -> None:
    printed = run("train_ddp.py", image_folder, changes=DDP)
    made.check_trained()
    assert re.search(r"epoch 1: 6 images, accuracy [\d.]+, active areas [\d.]+, [\d.]+", printed)
    (model,), (initial,) = made.models, made.initial
    statistics = [name for name in initial if name.endswith("running_mean")]
    assert statistics and all(torch.equal(initial[name], model.state_dict()[name]) for name in statistics)
    assert torch.equal(logits_of(AIM.from_pretrained(tmp_path / "aim")), logits_of(model))


@pytest.mark.slow  # what FSDP2 does to a model is in tests/sharing/test_sharded.py
@pytest.mark.usefixtures("alone")
def test_fsdp2(image_folder: Path, tmp_path: Path, run: Run, made: Made) -> None:
    """Nothing is shared with others here, but every weight is gathered, in bfloat16, and put together at the end."""
    printed = run("train_fsdp2.py", image_folder, changes=FSDP)
    assert made.watched == {True: 16, False: 4} and made.warned == 2
    assert made.schedules[0].criterion.tau.tolist() == [0.25, 0.25]
    sharded, saved = made.models
    assert (tmp_path / "aim" / "model.safetensors").exists()
    for name, tensor in sharded.state_dict().items():  # of one process, so that its share is all
        whole = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        assert torch.equal(whole, saved.state_dict()[name]), name
    for part in ("backbone", "mask_estimators.stage_2", "mask_estimators.stage_3", "classifier"):
        names = [name for name in saved.state_dict() if name.startswith(part)]
        assert any(not torch.equal(saved.state_dict()[name], made.initial[0][name]) for name in names), part
    assert re.search(r"accuracy [\d.]+, active areas [\d.]+, [\d.]+", printed)
    assert {type(module).__name__ for module in made.models[0].modules()} >= {"FSDPConvNeXtBlock", "FSDPAIM"}


@pytest.mark.slow
def test_ddp_in_two_processes(tmp_path: Path, image_folder: Path) -> None:
    """They end with one model, although each had images and noise of its own."""
    (image_folder / "val" / "cats" / "0.png").unlink()  # five images: one process has one more than the other
    printed = launched("train_ddp.py", image_folder, tmp_path, DDP | LEAVE)
    assert re.search(r"epoch 1: 5 images, accuracy [\d.]+, active areas [\d.]+, [\d.]+", printed)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert AIM.from_pretrained(tmp_path / "aim").class_names == ("cats", "dogs")


@pytest.mark.slow
def test_fsdp2_in_two_processes(tmp_path: Path, image_folder: Path) -> None:
    """Each holds half of the weights; the first puts them together."""
    count = "    print(rank, sum(p.to_local().numel() for p in model.parameters()))\n"
    leave = {"    criterion =": count + "    criterion ="}
    printed = launched("train_fsdp2.py", image_folder, tmp_path, FSDP | leave)
    saved = AIM.from_pretrained(tmp_path / "aim")
    held = [int(count) for _, count in sorted(re.findall(r"^([01]) (\d+)$", printed, flags=re.MULTILINE))]
    assert len(held) == 2 and sum(held) == sum(parameter.numel() for parameter in saved.parameters())
    assert max(held) < 0.6 * sum(held)
    assert re.search(r"accuracy [\d.]+, active areas [\d.]+, [\d.]+", printed)
