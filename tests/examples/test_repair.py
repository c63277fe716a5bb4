"""Repairing a checkpoint: its features stay, groups and object masks only score."""

import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from tiny import SMALL, Made, Run, write_images

from aimwrap import AIM

pytestmark = pytest.mark.filterwarnings("ignore::aimwrap.MaskHealthWarning")  # some steps on noise


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """cats/water/*.png and so on, with masks of val whose left half is object."""
    folder = write_images(tmp_path / "data", {"train": 2, "val": 2}, ("cats/water", "cats/land", "dogs/land"))
    for path in sorted((folder / "val").rglob("*.png")):
        with Image.open(path) as image:
            mask = Image.new("L", image.size)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        target = tmp_path / "masks" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        mask.save(target)
    return folder


def test_repair_keeps_the_features_and_scores_groups_and_pointing(
    data: Path, tmp_path: Path, run: Run, made: Made
) -> None:
    classifier = timm.create_model("test_resnet", num_classes=2)
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "classifier.pt")
    small = {'"resnet50"': '"test_resnet"', "EPOCHS, ANNEAL_EPOCHS = 12, 4": "EPOCHS, ANNEAL_EPOCHS = 2, 1"}
    printed = run("repair_checkpoint.py", data, tmp_path / "classifier.pt", tmp_path / "masks", changes=SMALL | small)
    made.check_trained(1)
    control, model = made.models
    for aim in (control, model):
        for name, parameter in aim.backbone.state_dict().items():
            assert torch.equal(parameter, classifier.state_dict()[name]), name
    assert not torch.equal(control.classifier.weight, made.initial[0]["classifier.weight"])
    for name, parameter in control.mask_estimators.named_parameters(prefix="mask_estimators"):
        assert torch.equal(parameter, made.initial[0][name]), name  # held open, they learn nothing
    groups = r"cats/land [\d.]+, cats/water [\d.]+, dogs/land [\d.]+, worst_group [\d.]+, average [\d.]+"
    scores = re.findall(rf"(before|new last layer, masks held open|AIM), {groups}", printed)
    assert scores == ["before", "new last layer, masks held open", "AIM"]
    scored = r"energy pointing (0\.\d+|nan), by chance (0\.\d+|nan)"  # a heatmap of noise may have no energy at all
    assert len(re.findall(scored, printed)) == 3
    again = AIM.from_pretrained(tmp_path / "repaired")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images).logits, model.eval()(images).logits)
