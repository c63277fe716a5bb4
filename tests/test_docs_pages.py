"""The code on the documentation's pages runs, block after block, as a reader would paste it."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


def run(page: str) -> dict[str, object]:
    """The page's names after its last block."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    return names


def test_the_page_on_explanation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("explanation.md")
    assert names["explanation"].contributions.shape == (8, 10, 6, 6)
    assert names["heatmaps"].shape == (8, 6, 6)
    assert isinstance(names["logits"], torch.Tensor) and names["logits"].shape == (8, 2)
    assert len(names["found"].survival) == 15
    assert "ok     evaluation is repeatable" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # captum, Quantus and others warn as they like
@pytest.mark.parametrize("page", ["attribution.md", "backbones.md", "figures.md", "precision.md", "sharing.md"])
def test_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page)
