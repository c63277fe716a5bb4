"""A second look at a saved AIM: only its layer is trained, and both looks are saved."""

from pathlib import Path

import pytest
import timm
import torch
from tiny import SMALL, Run

from aimwrap import AIM, SecondLook

QUIET = (
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:Starting from v1.9.0, `tensorboardX` has been removed",
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)
TRAINER = {"lightning.Trainer(max_epochs=EPOCHS": 'lightning.Trainer(accelerator="cpu", devices=1, max_epochs=2'}
EXAMPLES = [
    ("train_second_look.py", {"COPIES = 20, 2": "COPIES = 2, 2", "batch_size=64": "batch_size=4"}),
    ("second_look_lightning.py", {"batch_size=32": "batch_size=4"} | TRAINER),
]


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize(("name", "changes"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_only_the_second_look_is_trained(
    name: str, changes: dict[str, str], image_folder: Path, tmp_path: Path, run: Run
) -> None:
    torch.manual_seed(0)
    first = AIM(timm.create_model("test_resnet", num_classes=2)).eval()
    first.save_pretrained(tmp_path / "aim", class_names=["cats", "dogs"])
    printed = run(name, image_folder, tmp_path / "aim", changes=SMALL | changes)
    again = SecondLook.from_pretrained(tmp_path / "aim-twice")
    assert again.class_names == ("cats", "dogs")
    for key, value in first.state_dict().items():
        assert torch.equal(again.first.state_dict()[key], value), key
    assert again.classifier.bias.abs().min() > 0, "it was trained: it begins at 0"
    if name == "train_second_look.py":
        assert "epoch 1: loss" in printed and "pixels that are not kept move no logit" in printed
