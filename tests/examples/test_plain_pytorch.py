"""The example of the README runs, and the README shows lines that it contains."""

import re
from pathlib import Path

import pytest
import timm
import torch
from conftest import Made, Run
from tiny import EXAMPLES, SMALL, SMALL_BACKBONE

README = EXAMPLES.parent / "README.md"


@pytest.mark.filterwarnings("ignore::aimwrap.MaskHealthWarning")  # two epochs on noise
def test_plain_pytorch_example_runs(image_folder: Path, tmp_path: Path, run: Run, made: Made) -> None:
    """As it stands, but for a small backbone without downloaded weights, fewer epochs and no worker processes."""
    epochs = {"EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1"}
    printed = run("train_plain_pytorch.py", image_folder, changes=SMALL | SMALL_BACKBONE | epochs)
    made.check_trained()
    assert re.search(r"epoch 1: accuracy [\d.]+, active area stage 2 [\d.]+, stage 3 [\d.]+", printed)
    weights = torch.load(tmp_path / "aim.pt", weights_only=True)
    assert made.models[0].load_state_dict(weights)


def readme_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_readme_shows_the_examples_own_lines() -> None:
    example = [line.strip() for line in (EXAMPLES / "train_plain_pytorch.py").read_text().splitlines()]
    loop = next(block for block in readme_blocks() if "for epoch" in block)
    missing = [line for line in loop.splitlines() if line.strip() and line.strip() not in example]
    assert not missing


def test_readme_wrapper_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kw: create_model("convnext_atto", **kw))
    namespace: dict[str, object] = {}
    exec(next(block for block in readme_blocks() if "create_model" in block), namespace)
    assert "+AIM [2, 25%]" in str(namespace["model"])
