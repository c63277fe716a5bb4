"""The code on the documentation's pages runs, block after block, as a reader would paste it."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["explanation.md"])
def test_code_blocks_run_in_their_order(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["explanation"].contributions.shape == (8, 10, 6, 6)
    assert names["heatmaps"].shape == (8, 6, 6)
    assert isinstance(names["logits"], torch.Tensor) and names["logits"].shape == (8, 2)
    assert len(names["found"].survival) == 15
    assert "ok     evaluation is repeatable" in capsys.readouterr().out
