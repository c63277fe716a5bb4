"""The plain loop, which every other example is a variation of, runs."""

import re
from pathlib import Path

import pytest
import torch
from tiny import SMALL, SMALL_BACKBONE, Made, Run


@pytest.mark.filterwarnings("ignore::aimwrap.MaskHealthWarning")  # two epochs on noise
def test_plain_pytorch_example_runs(image_folder: Path, tmp_path: Path, run: Run, made: Made) -> None:
    """Unchanged, except for a small backbone without downloaded weights, fewer epochs and no worker processes."""
    epochs = {"EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1"}
    printed = run("train_plain_pytorch.py", image_folder, changes=SMALL | SMALL_BACKBONE | epochs)
    made.check_trained()
    assert re.search(r"epoch 1: accuracy [\d.]+, active area stage 2 [\d.]+, stage 3 [\d.]+", printed)
    weights = torch.load(tmp_path / "aim.pt", weights_only=True)
    assert made.models[0].load_state_dict(weights)
