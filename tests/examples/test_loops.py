"""Training in plain PyTorch with its extras, in timm's parts, around one's own CNN and around a ViT."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from tiny import EXAMPLES, SMALL, SMALL_BACKBONE, Made, Run, logits_of
from torch.optim import swa_utils

from aimwrap import AIM

pytestmark = pytest.mark.filterwarnings("ignore::aimwrap.MaskHealthWarning")  # some steps on noise

TWO_EPOCHS = {"EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1"}
PLAIN_LOOP = {
    "EPOCHS, WARM_UP_EPOCHS, ANNEAL_EPOCHS = 20, 2, 6": "EPOCHS, WARM_UP_EPOCHS, ANNEAL_EPOCHS = 3, 1, 2",
    ", pin_memory=True": "",
}
COMPILE = "torch.compile(model)"
TIMM_LOOP = {
    '"num_workers": 2': '"num_workers": 0',
    "EPOCHS, WARM_UP_EPOCHS, ANNEAL_EPOCHS, BATCH_SIZE = 20, 2, 6, 64": "EPOCHS, WARM_UP_EPOCHS, ANNEAL_EPOCHS, "
    "BATCH_SIZE = 3, 1, 2, 2",
}  # fmt: skip


def differ(model: AIM, other: AIM) -> list[str]:
    """Names of the tensors that are not equal in the two."""
    tensors = other.state_dict()
    return [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, tensors[name])]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "compiler", ["model", pytest.param('torch.compile(model, backend="aot_eager")', marks=pytest.mark.slow)]
)
def test_the_averaged_model_is_saved(
    compiler: str, image_folder: Path, tmp_path: Path, run: Run, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: list[swa_utils.AveragedModel] = []
    rates: list[float] = []

    class AveragedModel(swa_utils.AveragedModel):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            averages.append(self)

    class LambdaLR(torch.optim.lr_scheduler.LambdaLR):
        def step(self) -> None:
            super().step()
            rates.append(self.get_last_lr()[0])

    monkeypatch.setattr(swa_utils, "AveragedModel", AveragedModel)
    monkeypatch.setattr(torch.optim.lr_scheduler, "LambdaLR", LambdaLR)
    torch._dynamo.reset()
    compiled = {COMPILE: compiler}
    run("train_amp_compile_ema.py", image_folder, changes=SMALL | SMALL_BACKBONE | PLAIN_LOOP | compiled)
    made.check_trained()
    steps = 12  # three epochs of four batches
    assert rates[-1] == pytest.approx(0, abs=1e-12) and rates.index(max(rates)) == 3 and len(rates) == steps + 1
    (average,) = averages
    assert int(average.n_averaged) == steps
    changed_names = differ(average.module, made.models[0])
    assert any(name.startswith("mask_estimators.") for name in changed_names)
    assert any(name.endswith("running_mean") for name in changed_names)
    saved = AIM.from_pretrained(tmp_path / "aim")
    assert torch.equal(logits_of(saved), logits_of(average.module))
    assert saved.class_names == ("cats", "dogs")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_timms_loop(image_folder: Path, tmp_path: Path, run: Run, made: Made) -> None:
    printed = run("train_timm_loop.py", image_folder, changes=SMALL_BACKBONE | TIMM_LOOP)
    made.check_trained()
    assert len(re.findall(r"top-1 accuracy of the averaged model [\d.]+ %", printed)) == 3
    saved = AIM.from_pretrained(tmp_path / "aim")
    assert saved.class_names == ("cats", "dogs")
    assert {name.split(".")[0] for name in differ(saved, made.models[0])} >= {"mask_estimators", "backbone"}
    made.models[0].load_state_dict(made.initial[0])  # nor is it what training began with
    assert {name.split(".")[0] for name in differ(saved, made.models[0])} >= {"mask_estimators", "backbone"}


@pytest.mark.slow
def test_a_backbone_of_ones_own(image_folder: Path, tmp_path: Path, run: Run, made: Made) -> None:
    small = {"EPOCHS, ANNEAL_EPOCHS, SIZE = 60, 20, 128": "EPOCHS, ANNEAL_EPOCHS, SIZE = 2, 1, 64"}
    printed = run("custom_backbone.py", image_folder, changes=SMALL | small)
    made.check_trained()
    (model,) = made.models
    assert [(tap.node, tap.stride) for tap in model.taps] == [("body.1", 8), ("body.2", 16)]
    assert "body.1" in printed.split("epoch")[0]  # what inspect_backbone printed
    assert re.search(r"epoch 1: accuracy [\d.]+, active area body.1 [\d.]+, body.2 [\d.]+", printed)
    net = runpy.run_path(str(EXAMPLES / "custom_backbone.py"))["MyNet"](2)
    saved = AIM.from_pretrained(tmp_path / "aim", backbone=net)
    assert torch.equal(logits_of(saved), logits_of(model))
    assert saved.preprocessing == model.preprocessing


def test_a_vit_by_block_numbers(image_folder: Path, tmp_path: Path, run: Run, made: Made) -> None:
    small = {
        '"vit_small_patch16_224.augreg_in1k", pretrained=True': '"test_vit"',
        "BLOCKS = [5, 11]": "BLOCKS = [3, 5]",
    }
    printed = run("vit.py", image_folder, changes=SMALL | TWO_EPOCHS | small)
    made.check_trained()
    assert made.models[0].stages == (3, 5)
    assert re.search(r"epoch 1: accuracy [\d.]+, active area block 3 [\d.]+, block 5 [\d.]+", printed)
    assert "survi" in printed
    assert torch.equal(logits_of(AIM.from_pretrained(tmp_path / "aim")), logits_of(made.models[0]))
