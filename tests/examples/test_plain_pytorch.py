"""The examples run, and the README shows lines that they contain."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "train_plain_pytorch.py"


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for name in ("cats", "dogs"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = torch.randint(0, 256, (64, 80, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return tmp_path / "data"


@pytest.mark.filterwarnings("ignore::aimwrap.MaskHealthWarning")  # two epochs on noise
def test_plain_pytorch_example_runs(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, but for a small backbone without downloaded weights, fewer epochs and no worker processes."""
    source = EXAMPLE.read_text()
    for old, new in {
        '"convnext_tiny", pretrained=True': '"resnet10t"',
        "EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1",
        "num_workers=2": "num_workers=0",
    }.items():
        assert old in source
        source = source.replace(old, new)
    script = tmp_path / "example.py"
    script.write_text(source)
    monkeypatch.setattr(sys, "argv", ["example.py", str(image_folder)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    assert re.search(r"epoch 1: accuracy [\d.]+, active area stage 2 [\d.]+, stage 3 [\d.]+", capsys.readouterr().out)
    assert any(key.startswith("mask_estimators.") for key in torch.load(tmp_path / "aim.pt", weights_only=True))


def readme_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_readme_shows_the_examples_own_lines() -> None:
    example = [line.strip() for line in EXAMPLE.read_text().splitlines()]
    loop = next(block for block in readme_blocks() if "for epoch" in block)
    missing = [line for line in loop.splitlines() if line.strip() and line.strip() not in example]
    assert not missing


def test_readme_wrapper_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kw: create_model("convnext_atto", **kw))
    namespace: dict[str, object] = {}
    exec(next(block for block in readme_blocks() if "create_model" in block), namespace)
    assert "+AIM [2, 25%]" in str(namespace["model"])
