"""Training with Lightning and with Accelerate: also going on where a run stopped."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import SMALL, SMALL_BACKBONE, Made, Run, launched, logits_of

from aimwrap import AIM

pytestmark = pytest.mark.filterwarnings("ignore::aimwrap.MaskHealthWarning")  # some steps on noise

QUIET = (
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:Checkpoint directory .* exists",
    "ignore:Starting from v1.9.0, `tensorboardX` has been removed",
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)
LIGHTNING = SMALL | SMALL_BACKBONE


def one_on_the_cpu(epochs: int) -> dict[str, str]:
    return {
        "lightning.Trainer(max_epochs=EPOCHS": f'lightning.Trainer(accelerator="cpu", devices=1, max_epochs={epochs}',
        "EPOCHS, ANNEAL_SHARE = 20, 0.3": "EPOCHS, ANNEAL_SHARE = 2, 1.5",
    }


@pytest.mark.filterwarnings(*QUIET)
def test_lightning_trains_and_goes_on(image_folder: Path, tmp_path: Path, run: Run, made: Made) -> None:
    """The first run stops in the midst of the annealing, which the second ends as the first would have."""
    run("train_lightning.py", image_folder, changes=LIGHTNING | one_on_the_cpu(1))
    (first,) = made.schedules
    assert (first.steps_done, first.length) == (4, 6)
    assert made.watched == {True: 8, False: 6}
    run("train_lightning.py", image_folder, "checkpoints/last.ckpt", changes=LIGHTNING | one_on_the_cpu(2))
    made.check_trained(1)
    assert (made.schedules[1].steps_done, made.schedules[1].length) == (8, 6)
    assert made.watched == {True: 16, False: 12}
    assert torch.equal(logits_of(AIM.from_pretrained(tmp_path / "aim")), logits_of(made.models[1]))


@pytest.mark.slow
def test_lightning_in_two_processes(image_folder: Path, tmp_path: Path) -> None:
    """Each sees half of the images with noise of its own, and both end with one model and one tau."""
    two = {
        "lightning.Trainer(max_epochs=EPOCHS": 'lightning.Trainer(accelerator="cpu", devices=2, max_epochs=2',
        "EPOCHS, ANNEAL_SHARE = 20, 0.3": "EPOCHS, ANNEAL_SHARE = 2, 0.5",
    }
    leave = "    left = {'tau': classifier.criterion.tau, 'steps': trainer.global_step, 'noise': torch.rand(3)}\n"
    leave += "    left |= {'weights': classifier.model.state_dict(), 'scores': dict(trainer.callback_metrics)}\n"
    leave += '    torch.save(left, f"{trainer.global_rank}.pt")\n'
    zero = "    if trainer.is_global_zero:"
    launched("train_lightning.py", image_folder, tmp_path, LIGHTNING | two | {zero: leave + zero})
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["steps"] == second["steps"] == 4  # of 8 images, two at a time in each of two processes, twice
    assert first["tau"].tolist() == second["tau"].tolist() == [0.25, 0.25]
    assert not torch.equal(first["noise"], second["noise"])
    trained = {
        name for name, tensor in first["weights"].items() if tensor.is_floating_point() and "running" not in name
    }
    assert trained and all(torch.equal(first["weights"][name], second["weights"][name]) for name in trained)
    for score in ("val/accuracy", "masks/validation area of stage 2", "masks/validation area of stage 3"):
        assert torch.equal(first["scores"][score], second["scores"][score])
    saved = AIM.from_pretrained(tmp_path / "aim")
    assert saved.class_names == ("cats", "dogs")
    assert all(torch.equal(saved.state_dict()[name], tensor) for name, tensor in first["weights"].items())


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state for the complete process."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_accelerate(image_folder: Path, tmp_path: Path, run: Run, made: Made) -> None:
    small = {"EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1", "Accelerator(": "Accelerator(cpu=True, "}
    printed = run("train_accelerate.py", image_folder, changes=SMALL | SMALL_BACKBONE | small)
    made.check_trained()
    assert re.search(r"epoch 1: 6 images, accuracy [\d.]+, active areas [\d.]+, [\d.]+", printed)
    assert torch.equal(logits_of(AIM.from_pretrained(tmp_path / "aim")), logits_of(made.models[0]))
    (state,) = (tmp_path / "checkpoint").glob("custom_checkpoint_*.pkl")
    assert torch.load(state, weights_only=True) == made.schedules[0].state_dict()


@pytest.mark.slow
def test_accelerate_in_two_processes(image_folder: Path, tmp_path: Path) -> None:
    """Five images of the validation are counted as five, although the processes get three each."""
    (image_folder / "val" / "cats" / "0.png").unlink()
    small = {"EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1", "Accelerator(": "Accelerator(cpu=True, "}
    printed = launched("train_accelerate.py", image_folder, tmp_path, SMALL | SMALL_BACKBONE | small)
    assert re.findall(r"epoch (\d): 5 images, accuracy", printed) == ["0", "1"]
    assert AIM.from_pretrained(tmp_path / "aim").class_names == ("cats", "dogs")


def small_model(name: str, **arguments: object) -> torch.nn.Module:
    import transformers

    small = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "image_size": 64}
    del arguments["ignore_mismatched_sizes"]
    torch.manual_seed(0)
    return transformers.AutoModelForImageClassification.from_config(transformers.ConvNextConfig(**small, **arguments))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pin_memory")
@pytest.mark.usefixtures("fresh_accelerate")
def test_transformers_trains_and_goes_on(
    image_folder: Path, tmp_path: Path, run: Run, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run goes on where the first stopped, with the same tau, and ends as the first did."""
    transformers = pytest.importorskip("transformers", minversion="5")
    monkeypatch.setattr(transformers.AutoModelForImageClassification, "from_pretrained", small_model)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875)
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", lambda name: processor)
    small = {
        "EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1",
        "train_batch_size=64": "train_batch_size=2",
        'output_dir="runs",': 'output_dir="runs", use_cpu=True,',
    }
    run("train_transformers.py", image_folder, changes=small)
    made.check_trained()
    shutil.rmtree(tmp_path / "runs" / "checkpoint-8")
    run("train_transformers.py", image_folder, changes=small)
    made.check_trained(1)
    assert all(torch.equal(tensor, made.models[0].state_dict()[n]) for n, tensor in made.models[1].state_dict().items())

    config = transformers.AutoConfig.from_pretrained(tmp_path / "aim" / "backbone")
    backbone = transformers.AutoModelForImageClassification.from_config(config)
    saved = AIM.from_pretrained(tmp_path / "aim", backbone=backbone)
    assert saved.class_names == ("cats", "dogs") and saved.preprocessing.image_size == (64, 64)
    assert torch.equal(logits_of(saved), logits_of(made.models[1]))
